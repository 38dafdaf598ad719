"""Reads the package's own YAML files."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

# The C parser is ten times faster, and every command that makes questions waits for it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(name: str) -> Any:
    """The content of `assets/<name>`."""
    text = resources.files("finetuneflow").joinpath("assets", name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=_LOADER)  # noqa: S506 - both loaders are the safe ones
