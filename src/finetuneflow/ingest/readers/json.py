"""JSON records: a list of objects, an object that holds such a list, or one object a line (JSONL)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetuneflow.errors import InputError
from finetuneflow.schemas.source import FieldValue

_SHAPES = 'give a list of objects, an object with such a list ({"applications": [...]}), or one object a line'


def read_json(text: str, path: Path | str, *, lines: bool) -> list[tuple[int, dict[str, FieldValue]]]:
    """Records as (position, fields), empty values left out; for `lines`, the position is the line.

    Nested objects become `outer.inner` fields; lists of plain values stay lists.
    Errors: InputError `json_invalid` (line and column), `record_not_object`, `no_records`, `duplicate_key`.
    """
    entries = _lines(text, path) if lines else list(enumerate(_entries(_parse(text, path), path), 1))
    records: list[tuple[int, dict[str, FieldValue]]] = []
    for position, entry in entries:
        if not isinstance(entry, dict):
            where = f"the record on line {position}" if lines else f"record {position}"
            raise InputError(
                f"{where} is {_kind(entry)}, not an object",
                'write each record as {"field": "value", …}',
                path=path,
                line=position if lines else None,
                code="record_not_object",
            )
        fields: dict[str, FieldValue] = {}
        _flatten(entry, "", fields)
        if fields:
            records.append((position, fields))
    if not records:
        raise InputError("there is no record in it", _SHAPES, path=path, code="no_records")
    return records


def _parse(text: str, path: Path | str, line: int = 1) -> Any:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(
                f"the field `{twice}` stands twice in one object",
                "rename or remove one of them",
                path=path,
                line=line if line > 1 else None,
                code="duplicate_key",
            )
        return result

    try:
        return json.loads(text, object_pairs_hook=no_duplicates)
    except json.JSONDecodeError as error:
        raise InputError(
            f"not valid JSON at column {error.colno}: {error.msg}",
            "correct the syntax there (a missing comma, quote or bracket is often just before)",
            path=path,
            line=line + error.lineno - 1,
            code="json_invalid",
        ) from error
    except RecursionError as error:
        raise InputError("the JSON is nested too deep", _SHAPES, path=path, code="json_invalid") from error


def _lines(text: str, path: Path | str) -> list[tuple[int, Any]]:
    return [
        (number, _parse(line, path, number))
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]


def _entries(value: Any, path: Path | str) -> list[Any]:
    """The list of records, at the top or one level down."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        lists = {name: item for name, item in value.items() if isinstance(item, list)}
        of_objects = {
            name: item for name, item in lists.items() if any(isinstance(one, dict) for one in item)
        }
        if len(of_objects) > 1:
            names = ", ".join(f"`{name}`" for name in of_objects)
            raise InputError(
                f"it holds several lists of records: {names}",
                "put each list into a file of its own",
                path=path,
                code="several_lists",
            )
        if of_objects:
            return next(iter(of_objects.values()))
        if len(value) == 1:
            if lists:
                return next(iter(lists.values()))
            (inner,) = value.values()
            if isinstance(inner, dict):
                return _entries(inner, path)
        if value and all(isinstance(item, dict) for item in value.values()):
            return [{"id": key, **item} for key, item in value.items()]  # keyed by identifier
        return [value]
    raise InputError(f"it holds {_kind(value)}, not records", _SHAPES, path=path, code="record_not_object")


def _flatten(entry: dict[str, Any], prefix: str, fields: dict[str, FieldValue]) -> None:
    for name, value in entry.items():
        key = f"{prefix}{name.strip()}"
        if isinstance(value, dict):
            _flatten(value, f"{key}.", fields)
        elif isinstance(value, list):
            items = [text for item in value if (text := _item(item))]
            if items:
                fields[key] = items
        elif text := _scalar(value):
            fields[key] = text


def _item(value: Any) -> str:
    """One entry of a list as text; of an object, the values in a row."""
    if isinstance(value, dict):
        return ", ".join(text for item in value.values() if (text := _item(item)))
    if isinstance(value, list):
        return ", ".join(text for item in value if (text := _item(item)))
    return _scalar(value)


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip()


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    for type_, name in ((bool, "true or false"), (str, "a text"), (list, "a list"), (dict, "an object")):
        if isinstance(value, type_):
            return name
    return "a number"
