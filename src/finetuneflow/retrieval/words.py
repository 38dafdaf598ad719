"""Passages by the words that they share with a question: BM25."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import xxhash
from numpy.typing import NDArray

from finetuneflow.artifacts import MANIFEST, write_folder, write_text
from finetuneflow.retrieval.cache_key import cache_key
from finetuneflow.retrieval.terms import stop_words, tokenize

ANALYSIS = f"words-2-{bm25s.__version__}"
"""Names the way from text to index; to be changed with it, or old files in the cache would be used."""


STOP_WORD_WEIGHT = 0.1
"""Of the stop words of a question, against 1 of its other words.

Records and tables hold few of them, so that BM25 takes "est" and "the" for rare and telling words. They are
not left out: an application may be called Si or User, and titles are made of them (docs/retrieval.md).
"""


@dataclass(frozen=True)
class WordIndex:
    """A BM25 index (Lucene's variant: k1 1.5, b 0.75)."""

    size: int
    """Number of passages."""
    bm25: Any | None
    """The bm25s retriever; None when no passage has a word."""

    def scores(self, query: str) -> NDArray[np.float32]:
        """Score of each passage, 0 without a common word.

        Stop words alone make a passage found only when the query has no other words.
        """
        terms = tokenize(query)
        stops = [term for term in terms if term in stop_words()]
        little = np.float32(STOP_WORD_WEIGHT) * self._scores(stops)
        if len(stops) == len(terms):
            return little
        telling = self._scores([term for term in terms if term not in stop_words()])
        return np.where(telling > 0, telling + little, np.float32(0))

    def _scores(self, terms: list[str]) -> NDArray[np.float32]:
        known = [] if self.bm25 is None else self.bm25.get_tokens_ids(terms)
        if self.bm25 is None or not known:
            return np.zeros(self.size, np.float32)
        return np.asarray(self.bm25.get_scores_from_ids(known), np.float32)


def word_index(passages: Sequence[str], cache: Path | None = None) -> WordIndex:
    """An index over passages, read from `cache` when it holds the one of the very same texts.

    A damaged file there is made anew. Raises StorageError when the cache cannot be written.
    """
    if cache is None:
        return WordIndex(len(passages), _made(passages))
    folder = cache / f"words-{cache_key(ANALYSIS, passages)}"
    if _whole(folder):
        return WordIndex(len(passages), bm25s.BM25.load(folder, show_progress=False))
    retriever = _made(passages)
    if retriever is not None:
        _save(folder, retriever)
    return WordIndex(len(passages), retriever)


def _made(passages: Sequence[str]) -> Any | None:
    terms = [tokenize(passage) for passage in passages]
    if not any(terms):
        return None
    retriever = bm25s.BM25(method="lucene", backend="numpy")
    retriever.index(terms, show_progress=False)
    return retriever


def _save(folder: Path, retriever: Any) -> None:
    def fill(place: Path) -> None:
        retriever.save(place, show_progress=False)
        sums = {path.name: _sum(path) for path in sorted(place.iterdir())}
        write_text(place / MANIFEST, json.dumps(sums))

    shutil.rmtree(folder, ignore_errors=True)  # of a damaged one
    try:
        write_folder(folder, fill)
    except OSError as error:
        # somebody else wrote the same in the meantime
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _whole(folder: Path) -> bool:
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all(_sum(folder / name) == expected for name, expected in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sum(path: Path) -> str:
    return xxhash.xxh3_128_hexdigest(path.read_bytes())
