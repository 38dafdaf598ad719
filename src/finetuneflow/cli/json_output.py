"""What `--json` gives: one JSON object on stdout."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from finetuneflow.cli.output import print_line

CONTROL = re.compile(r"[\x7f-\x9f]")
Data = BaseModel | Mapping[str, Any]


def plain(value: Any) -> Any:
    """A value as JSON knows it: models become objects, paths become text."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def print_json(value: Data) -> None:
    """Prints one JSON object to stdout: what `--json` gives."""
    text = json.dumps(plain(value), ensure_ascii=False, indent=2)
    # JSON allows these raw; terminals obey some of them
    print_line(CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
