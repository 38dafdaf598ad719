"""Policies of the gate: the default, and files that change a part of it."""

from __future__ import annotations

import difflib
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from finetuneflow.errors import NotFoundError, RecipeError
from finetuneflow.schemas.gate import GatePolicy

PRINT = "`finetuneflow gate --print-policy` shows every key"
MOST_BYTES = 1 << 20


@cache
def default_text() -> str:
    """The default policy as its file says it, with what each key means."""
    return (resources.files("finetuneflow.assets") / "gate.yaml").read_text(encoding="utf-8")


def load(path: Path | None = None) -> GatePolicy:
    """The default policy, with the keys of a file over it.

    Raises:
        NotFoundError: there is no such file.
        RecipeError: not YAML, or a key or value that is not accepted; names the line.
    """
    values: dict[str, Any] = yaml.safe_load(default_text())
    if path is None:
        return GatePolicy.model_validate(values)
    given, lines = _read(path)
    for key in given:
        if key not in GatePolicy.model_fields:
            nearest = difflib.get_close_matches(str(key), GatePolicy.model_fields, n=1, cutoff=0.5)
            hint = f"did you mean `{nearest[0]}`? " if nearest else ""
            raise RecipeError(f"{_place(path, lines, key)}: a policy has no key `{key}`", hint + PRINT)
    try:
        return GatePolicy.model_validate(values | given, strict=True)
    except ValidationError as error:
        detail = error.errors()[0]
    key = str(detail["loc"][0])
    field = GatePolicy.model_fields[key]
    shown = json.dumps(given.get(key), ensure_ascii=False, default=str)
    expected = detail["msg"].replace("Input should be", "expected", 1)
    raise RecipeError(
        f"{_place(path, lines, key)}: `{key}` is {shown}, {expected}", f"{key}: {field.description}"
    )


def _place(path: Path, lines: dict[Any, int], key: Any) -> str:
    return f"{path}:{lines[key]}" if key in lines else str(path)


def _read(path: Path) -> tuple[dict[Any, Any], dict[Any, int]]:
    """Values, and the line of every key."""
    if not path.is_file():
        raise NotFoundError(f"there is no policy `{path}`", PRINT)
    if path.stat().st_size > MOST_BYTES:
        raise RecipeError(f"{path}: is too large for a policy", PRINT)
    try:
        text = path.read_text(encoding="utf-8-sig")
        values, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}{line}: is not YAML: {error.problem}", "correct that line") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise RecipeError(f"{path}: is not YAML text in UTF-8", PRINT) from error
    if values is None:
        return {}, {}
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{path}: is not a list of keys and values", PRINT)
    lines: dict[Any, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            raise RecipeError(
                f"{path}:{line}: `{key.value}` stands on line {lines[key.value]} already", "keep one of them"
            )
        lines[key.value] = line
    return values, lines
