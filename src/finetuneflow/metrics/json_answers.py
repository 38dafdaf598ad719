"""Answers that are JSON: read strictly, a Markdown fence aside."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import regex

FENCE = regex.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```\s*", regex.DOTALL | regex.IGNORECASE)


def parse_json(text: str) -> Any:
    """The value of an answer that is JSON and nothing else; a Markdown fence around it is taken off.

    Raises:
        ValueError: no JSON, words around it, NaN or infinity, a key given twice, or nested too deep to read.
    """
    fenced = FENCE.fullmatch(text)
    try:
        return json.loads(
            fenced[1] if fenced else text, parse_constant=_refuse, object_pairs_hook=_without_twins
        )
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def json_validity(predicted: str, expected: str) -> float | None:
    """1.0 when an answer that must be JSON is, else 0.0; None when the expected one is no object or array.

    A bare number or word is JSON, too, to the letter; but nobody who expects `42` asks for JSON.
    """
    try:
        if not isinstance(parse_json(expected), dict | list):
            return None
    except ValueError:
        return None
    try:
        parse_json(predicted)
    except ValueError:
        return 0.0
    return 1.0


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is given twice")
    return made
