"""Search terms of a text, in French, English and every script.

Matching forgives accents, case, elisions ("l'application" finds "Application") and plurals, and keeps names
such as `8-SINP`, `node.js` or `C++` whole beside their parts. Scripts without spaces are indexed by pairs of
characters.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from importlib import resources

import regex
import yaml

LIGATURES = str.maketrans({"œ": "oe", "æ": "ae", "ø": "o", "đ": "d", "ł": "l", "’": "'", "ʼ": "'", "‑": "-"})
ACCENTS = regex.compile(r"[\u0300-\u036f]+")
"""Combining marks of Latin, Greek and Cyrillic; the vowel signs of other scripts lie elsewhere and stay."""
ELISION = regex.compile(r"\b(?:l|d|j|m|t|s|n|c|qu|jusqu|lorsqu|puisqu|quoiqu)'(?=\w)")
POSSESSIVE = regex.compile(r"(?<=\w)'s\b")
WORD = regex.compile(r"\w+(?:[-._+&]\w+)*(?:\+\+|\#)?")
PART = regex.compile(r"\w+")
PLURAL = regex.compile(r"(?<=[^s])s$|(?<=eau|eu)x$")
"""The mark of a plural in French and English, of words of four letters and more."""
UNSPACED = regex.compile(
    r"[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}"
    r"\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]+"
)


def tokenize(text: str) -> list[str]:
    """Folded words; a compound name gives itself and its parts."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = ACCENTS.sub("", unicodedata.normalize("NFD", folded)).translate(LIGATURES)
    folded = unicodedata.normalize("NFC", folded)
    folded = POSSESSIVE.sub("", ELISION.sub("", folded))
    terms: list[str] = []
    for word in WORD.findall(folded):
        parts = PART.findall(word)
        if parts != [word]:
            terms.append(word)
        for part in parts:
            terms += _unspaced_terms(part) if UNSPACED.search(part) else [_singular(part)]
    return terms


def _singular(word: str) -> str:
    """The word without the mark of a plural; names and codes with digits stay as they are."""
    return PLURAL.sub("", word) if len(word) > 3 and word[-1] in "sx" and word.isalpha() else word


def _unspaced_terms(word: str) -> list[str]:
    terms: list[str] = []
    end = 0
    for run in UNSPACED.finditer(word):
        terms += [word[end : run.start()]] if run.start() > end else []
        characters = run.group()
        terms += [characters[i : i + 2] for i in range(max(1, len(characters) - 1))]
        end = run.end()
    return terms + ([word[end:]] if end < len(word) else [])


@cache
def stop_words() -> frozenset[str]:
    """Terms of French and English that say nothing about a text's matter."""
    file = resources.files("finetuneflow.assets") / "stop_words.yaml"
    words: dict[str, str] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return frozenset(term for text in words.values() for term in tokenize(text))
