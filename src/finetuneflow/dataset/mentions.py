"""Finds names in running text, as whole words."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

_WORD = re.compile(r"\w+")
_SHORT_NAME = 3
"""Names up to this many characters count only in their own case: the language R is not every r."""


class NameIndex:
    """Names to look for; finding costs one look-up per word, however many names there are.

    Of names that contain each other the longest counts: `LibreOffice Calc` does not mention `Calc` when it
    is a name itself.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._any_case = _Lookup()
        self._own_case = _Lookup()
        for name in names:
            plain = _plain(name)
            short = len(plain) <= _SHORT_NAME
            (self._own_case if short else self._any_case).add(plain if short else plain.casefold(), name)

    def find(self, text: str) -> set[str]:
        """The names that the text mentions."""
        plain = _plain(text)
        return self._own_case.find(plain) | self._any_case.find(plain.casefold())


class _Lookup:
    def __init__(self) -> None:
        self._names: defaultdict[str, set[str]] = defaultdict(set)
        self._by_first_word: defaultdict[str, list[tuple[str, int, set[str]]]] = defaultdict(list)

    def add(self, form: str, name: str) -> None:
        word = _WORD.search(form)
        if word and form not in self._names:
            entries = self._by_first_word[word.group()]
            entries.append((form, word.start(), self._names[form]))
            entries.sort(key=lambda entry: -len(entry[0]))
        if word:
            self._names[form].add(name)

    def find(self, text: str) -> set[str]:
        found: set[str] = set()
        end = 0
        for word in _WORD.finditer(text):
            for form, offset, names in self._by_first_word.get(word.group(), ()):
                start, stop = word.start() - offset, word.start() - offset + len(form)
                if start >= end and text.startswith(form, start) and _is_whole(text, start, stop):
                    found |= names
                    end = stop
                    break
        return found


def _is_whole(text: str, start: int, end: int) -> bool:
    before = start > 0 and _is_word(text[start - 1]) and _is_word(text[start])
    after = end < len(text) and _is_word(text[end]) and _is_word(text[end - 1])
    return not before and not after


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).replace("’", "'").split())
