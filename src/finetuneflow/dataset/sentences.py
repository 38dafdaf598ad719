"""Sentences of a text with their places, French and English."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

_END = re.compile(r"[.!?…]+[»”\"')\]]*(?=\s|$)")
_NEXT = re.compile(r"\s+[«“\"'(\[]*\s?[A-ZÀ-ÖØ-ÞŒ0-9&]")
_LAST_WORD = re.compile(r"([\w.°'-]+)$")


class Sentence(NamedTuple):
    """`text[start:end]`, without blanks around."""

    text: str
    start: int
    end: int


def sentences(text: str, abbreviations: Collection[str]) -> list[Sentence]:
    """The sentences of `text`; a full stop after an abbreviation or an initial ends none."""
    found: list[Sentence] = []
    start = 0
    for match in _END.finditer(text):
        end = match.end()
        if end < len(text) and not _NEXT.match(text, end):
            continue
        word = _LAST_WORD.search(text, 0, match.start())
        if match.group() == "." and word and end < len(text):
            last = word.group(1)
            if last in abbreviations or (len(last) == 1 and last.isalpha() and last.isupper()):
                continue
        _add(found, text, start, end)
        start = end
    _add(found, text, start, len(text))
    return found


def _add(found: list[Sentence], text: str, start: int, end: int) -> None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        found.append(Sentence(text[start:end], start, end))
