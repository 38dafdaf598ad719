"""What a record says: the values of its fields, cleaned of markup, split where a cell holds several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from finetuneflow.dataset.assets import read_yaml
from finetuneflow.dataset.french import fold
from finetuneflow.schemas.dataset import FieldMapping, QuestionType
from finetuneflow.schemas.source import FieldValue, Record

SINGLE_TYPES: tuple[QuestionType, ...] = ("definition", "status", "domain", "actors", "sites")
"""The types whose questions are about one record and one kind of field."""

_MULTIPLE = frozenset({"domain", "actors", "sites"})
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_EMPHASIS = re.compile(r"(\*\*|__|`)(?=\S)(.+?)(?<=\S)\1")
_SLASHED = re.compile(r"/([^/]+)/")


@lru_cache(maxsize=1)
def _empty_values() -> frozenset[str]:
    return frozenset(read_yaml("questions/field_names.yaml")["empty_values"])


def clean(text: str) -> str:
    """`text` on one line, without Markdown links, emphasis or slashes around it; empty for `n/a`, `0`."""
    flat = _EMPHASIS.sub(r"\2", _LINK.sub(r"\1", text)) if any(mark in text for mark in "[*_`") else text
    flat = " ".join(flat.split())
    slashed = _SLASHED.fullmatch(flat)
    flat = slashed.group(1) if slashed else flat
    return "" if flat.casefold() in _empty_values() else flat


def field_names(mapping: FieldMapping, question_type: QuestionType) -> list[str]:
    """The fields that answer a type of question about one record."""
    names: list[str] = getattr(mapping, question_type)
    return names


def record_name(record: Record, mapping: FieldMapping) -> str:
    """The record's name; empty when it has none."""
    return _single(record.fields.get(mapping.name, ""))


def long_name(record: Record, mapping: FieldMapping) -> str:
    """The record's long name, where it says more than the name; else empty."""
    text = _single(record.fields.get(mapping.long_name, "")) if mapping.long_name else ""
    return "" if fold(text) == fold(record_name(record, mapping)) else text


def type_values(record: Record, question_type: QuestionType, mapping: FieldMapping) -> list[tuple[str, str]]:
    """The values that answer a type of question, each with its field, without empty or repeated ones.

    Codes are replaced by the words of `value_labels`.
    """
    found: dict[str, tuple[str, str]] = {}
    for field in field_names(mapping, question_type):
        for value in field_values(record, field, mapping, several=question_type in _MULTIPLE):
            found.setdefault(fold(value) or value, (field, value))
    return list(found.values())


def field_values(record: Record, field: str, mapping: FieldMapping, *, several: bool) -> list[str]:
    """The values of one field; with `several`, a cell is cut at the mapping's separators."""
    raw = record.fields.get(field)
    if not raw:
        return []
    cells = _cells(raw, mapping.separators if several else "")
    labels = mapping.value_labels.get(field, {})
    return [labels.get(cell, cell) for cell in map(clean, cells) if cell]


def _cells(raw: FieldValue, separators: str) -> Sequence[str]:
    if not isinstance(raw, str):
        return raw
    return _splitter(separators).split(raw) if separators else [raw]


@lru_cache(maxsize=16)
def _splitter(separators: str) -> re.Pattern[str]:
    # What stands in brackets is a remark on one value, not a list of values.
    return re.compile(f"[{re.escape(separators)}](?![^(]*\\))")


def _single(raw: FieldValue) -> str:
    return clean(raw if isinstance(raw, str) else ", ".join(raw))
