"""A BM25 index over passages: what the retrieval arm looks up before it answers.

Matching forgives accents, case and elisions ("l'application" finds "Application"), and keeps names such as
`8-SINP`, `node.js` or `C++` whole beside their parts. Scripts without spaces are indexed by pairs of
characters.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

import bm25s
import numpy as np
import regex

LIGATURES = str.maketrans({"œ": "oe", "æ": "ae", "ø": "o", "đ": "d", "ł": "l", "’": "'", "ʼ": "'", "‑": "-"})
ACCENTS = regex.compile(r"[\u0300-\u036f]+")
"""Combining marks of Latin, Greek and Cyrillic; the vowel signs of other scripts lie elsewhere and stay."""
ELISION = regex.compile(r"\b(?:l|d|j|m|t|s|n|c|qu|jusqu|lorsqu|puisqu|quoiqu)'(?=\w)")
POSSESSIVE = regex.compile(r"(?<=\w)'s\b")
WORD = regex.compile(r"\w+(?:[-._+&]\w+)*(?:\+\+|\#)?")
PART = regex.compile(r"\w+")
UNSPACED = regex.compile(
    r"[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}"
    r"\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]+"
)


def tokenize(text: str) -> list[str]:
    """Search terms of a text: folded words; a compound name gives itself and its parts."""
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
            terms += _unspaced_terms(part) if UNSPACED.search(part) else [part]
    return terms


def _unspaced_terms(word: str) -> list[str]:
    terms: list[str] = []
    end = 0
    for run in UNSPACED.finditer(word):
        terms += [word[end : run.start()]] if run.start() > end else []
        characters = run.group()
        terms += [characters[i : i + 2] for i in range(max(1, len(characters) - 1))]
        end = run.end()
    return terms + ([word[end:]] if end < len(word) else [])


@dataclass(frozen=True)
class Index:
    """Passages ready to be searched."""

    size: int
    """Number of passages."""
    bm25: Any | None
    """The bm25s retriever; None when no passage has a word."""

    def search(self, queries: list[str], k: int) -> list[list[int]]:
        """Positions of the best passages of each query, best first.

        At most `k` each: fewer when fewer passages share a word with the query, none for an empty query.
        Equal scores are ordered by position.
        """
        return [self._search(tokenize(query), k) for query in queries]

    def _search(self, terms: list[str], k: int) -> list[int]:
        known = [] if self.bm25 is None else self.bm25.get_tokens_ids(terms)
        if self.bm25 is None or not known or k <= 0:
            return []
        scores = self.bm25.get_scores_from_ids(known)
        found = np.flatnonzero(scores > 0)
        if len(found) > k:
            threshold = np.partition(scores[found], len(found) - k)[len(found) - k]
            found = found[scores[found] >= threshold]
        # stable: equal scores keep the order of the passages, on every machine
        order = np.argsort(-scores[found], kind="stable")[:k]
        return [int(position) for position in found[order]]


def build_index(passages: list[str]) -> Index:
    """An index over passages (BM25, Lucene's variant: k1 1.5, b 0.75)."""
    terms = [tokenize(passage) for passage in passages]
    if not any(terms):
        return Index(len(passages), None)
    retriever = bm25s.BM25(method="lucene", backend="numpy")
    retriever.index(terms, show_progress=False)
    return Index(len(passages), retriever)
