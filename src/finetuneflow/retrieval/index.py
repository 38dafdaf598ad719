"""One index over passages, three ways to search it: by words, by meaning, or both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetuneflow.errors import UsageError
from finetuneflow.retrieval.vectors import Encoder, Progress, VectorIndex, vector_index
from finetuneflow.retrieval.words import WordIndex, word_index
from finetuneflow.schemas.retrieval import Kind

RANK_CONSTANT = 10
"""Of reciprocal rank fusion (Cormack, Clarke and Buettcher 2009, who took 60 for lists of a thousand).

With 10 the first places count for more; it found more than 60 on all texts measured (docs/retrieval.md).
"""
DEPTH = 100
"""Length of the lists that are merged."""


class Hit(NamedTuple):
    """A passage found."""

    position: int
    score: float


@dataclass(frozen=True)
class Index:
    """Passages ready to be searched."""

    size: int
    """Number of passages."""
    kind: Kind
    words: WordIndex | None
    vectors: VectorIndex | None
    encoder: Encoder | None
    query_prefix: str = ""

    def search(self, queries: Sequence[str], k: int) -> list[list[int]]:
        """Positions of the best passages of each query, best first.

        At most `k` each; none for an empty query. By words, fewer when fewer passages share one with the
        query. Equal scores are ordered by position.
        """
        return [[hit.position for hit in hits] for hits in self.find(queries, k)]

    def find(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `search`, with scores: BM25, cosine, or the sum of reciprocal ranks."""
        if k <= 0:
            return [[] for _ in queries]
        if self.kind == "bm25":
            return [_best(scores, k, 0.0) for scores in self._word_scores(queries)]
        if self.kind == "embeddings":
            return [_best(scores, k, -np.inf) for scores in self._vector_scores(queries)]
        depth = max(DEPTH, k)
        both = zip(self._word_scores(queries), self._vector_scores(queries), strict=True)
        return [
            fuse([_best(by_word, depth, 0.0), _best(by_meaning, depth, -np.inf)], k)
            for by_word, by_meaning in both
        ]

    def _word_scores(self, queries: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        for query in queries:
            yield np.zeros(self.size, np.float32) if self.words is None else self.words.scores(query)

    def _vector_scores(self, queries: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        nothing = np.full(self.size, -np.inf, np.float32)
        asked = [self.query_prefix + query for query in queries if query.strip()]
        found: Iterator[NDArray[np.float32]] = iter(())
        if self.vectors is not None and self.encoder is not None and asked and len(self.vectors.rows):
            found = self.vectors.scores(
                np.concatenate(
                    [
                        self.encoder.embed(asked[start : start + DEPTH])
                        for start in range(0, len(asked), DEPTH)
                    ]
                )
            )
        for query in queries:
            yield next(found, nothing) if query.strip() else nothing


def _best(scores: NDArray[np.float32], k: int, floor: float) -> list[Hit]:
    """The best `k` above `floor`."""
    found = np.flatnonzero(scores > floor)
    if len(found) > k:
        threshold = np.partition(scores[found], len(found) - k)[len(found) - k]
        found = found[scores[found] >= threshold]
    # stable: equal scores keep the order of the passages, on every machine
    order = np.argsort(-scores[found], kind="stable")[:k]
    return [Hit(int(position), float(scores[position])) for position in found[order]]


def fuse(lists: Sequence[Sequence[Hit]], k: int) -> list[Hit]:
    """The best `k` of several lists by the sum of 1 / (constant + rank): scores need not be comparable."""
    sums: dict[int, float] = {}
    for hits in lists:
        for rank, hit in enumerate(hits, start=1):
            sums[hit.position] = sums.get(hit.position, 0.0) + 1 / (RANK_CONSTANT + rank)
    return [Hit(position, sums[position]) for position in sorted(sums, key=lambda p: (-sums[p], p))[:k]]


def build_index(
    passages: Sequence[str],
    *,
    kind: Kind = "bm25",
    encoder: Encoder | None = None,
    query_prefix: str = "",
    passage_prefix: str = "",
    blocks: Sequence[int] | None = None,
    cache: Path | None = None,
    on_progress: Progress | None = None,
) -> Index:
    """An index over passages.

    Args:
        passages: What can be found, by position.
        kind: How it is searched.
        encoder: What makes vectors; needed by `embeddings` and `hybrid`.
        query_prefix: What the encoder wants before a question.
        passage_prefix: What it wants before a passage.
        blocks: Number of passages of each source, in order: vectors are cached by source.
        cache: Folder of indexes made before, by content; None: nothing is kept.
        on_progress: Hears pieces embedded and pieces in all.

    Raises:
        UsageError: an encoder is needed.
        StorageError: the cache cannot be written.
    """
    words = None if kind == "embeddings" else word_index(passages, cache)
    vectors = None
    if kind != "bm25":
        if encoder is None:
            raise UsageError(f"`{kind}` needs an encoder", "give one, or search with `bm25`")
        vectors = vector_index(
            passages, encoder, prefix=passage_prefix, blocks=blocks, cache=cache, on_progress=on_progress
        )
    return Index(len(passages), kind, words, vectors, encoder, query_prefix)
