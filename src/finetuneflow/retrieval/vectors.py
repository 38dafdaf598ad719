"""Passages by their meaning: vectors of their pieces, compared with that of the question."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import regex
from numpy.typing import NDArray

from finetuneflow.artifacts import atomic_write
from finetuneflow.retrieval.cache_key import cache_key

PIECE_CHARACTERS = 300
"""Small encoders read 256 tokens and blur what they read: short pieces find more (docs/retrieval.md)."""
BATCH = 64
QUERIES = 256
SENTENCE_END = regex.compile(r"(?<=[.!?…;:])\s+|(?<=[。！？])|\n+")
Rows = NDArray[np.float32]
Progress = Callable[[int, int], None]


class Encoder(Protocol):
    """What makes vectors of texts."""

    identity: str
    """The same identity gives the same vectors."""

    def embed(self, texts: Sequence[str]) -> Rows:
        """One row of length 1 for each text (texts, dimensions)."""


@dataclass(frozen=True)
class VectorIndex:
    """Rows of all pieces."""

    size: int
    """Number of passages."""
    rows: Rows
    """(pieces, dimensions), each of length 1."""
    owners: NDArray[np.int64]
    """Which passage each piece is of, ascending; a passage without text has none."""

    def scores(self, queries: Rows) -> Iterator[Rows]:
        """For each query the score of each passage: the cosine of its best piece, -inf without any."""
        starts = np.flatnonzero(np.diff(self.owners, prepend=-1))
        for first in range(0, len(queries), QUERIES):
            found = np.full((len(queries[first : first + QUERIES]), self.size), -np.inf, np.float32)
            if len(starts):
                cosines = queries[first : first + QUERIES] @ self.rows.T
                found[:, self.owners[starts]] = np.maximum.reduceat(cosines, starts, axis=1)
            yield from found


def vector_index(
    passages: Sequence[str],
    encoder: Encoder,
    *,
    prefix: str = "",
    blocks: Sequence[int] | None = None,
    cache: Path | None = None,
    on_progress: Progress | None = None,
) -> VectorIndex:
    """An index over passages.

    Args:
        passages: What to index.
        encoder: What makes the vectors.
        prefix: What it wants before a passage.
        blocks: Number of passages of each source, in order. Vectors are kept by block, so that another source
            costs its own time alone; without, there is one block.
        cache: Folder of vectors made before, and of those made now; a damaged file is made anew.
        on_progress: Hears pieces done and pieces in all; not called when nothing has to be made.

    Raises:
        StorageError: the cache cannot be written.
        FineTuneFlowError: what the encoder raises.
    """
    owners: list[int] = []
    parts: list[list[str]] = []
    first = 0
    for size in blocks if blocks is not None else [len(passages)]:
        parts.append([])
        for position in range(first, first + size):
            cut = [prefix + piece for piece in pieces(passages[position])]
            parts[-1] += cut
            owners += [position] * len(cut)
        first += size
    files = [
        None if cache is None else cache / f"vectors-{cache_key(encoder.identity, part)}.npz"
        for part in parts
    ]
    known = [
        None if file is None else _read(file, len(part)) for file, part in zip(files, parts, strict=True)
    ]
    total = sum(len(part) for part, rows in zip(parts, known, strict=True) if rows is None)
    done = 0
    for number, (file, part) in enumerate(zip(files, parts, strict=True)):
        if known[number] is not None or not part:
            continue
        made = []
        for start in range(0, len(part), BATCH):
            made.append(encoder.embed(part[start : start + BATCH]))
            done += len(made[-1])
            if on_progress is not None:
                on_progress(done, total)
        known[number] = np.concatenate(made)
        if file is not None:
            with atomic_write(file, binary=True) as target:
                np.savez(target, rows=np.concatenate(made))
    found = [rows for rows in known if rows is not None and len(rows)]
    rows = np.concatenate(found) if found else np.zeros((0, 0), np.float32)
    return VectorIndex(len(passages), rows, np.array(owners, np.int64))


def pieces(text: str, limit: int = PIECE_CHARACTERS) -> list[str]:
    """The sentences of a text, as many together as fit into `limit` characters; none for a blank text.

    A longer sentence is cut between words; a longer word stays whole.
    """
    found: list[str] = []
    current = ""
    for sentence in SENTENCE_END.split(text):
        for part in _cut(" ".join(sentence.split()), limit):
            if current and len(current) + 1 + len(part) > limit:
                found.append(current)
                current = part
            else:
                current = f"{current} {part}".strip()
    return [*found, current] if current else found


def _cut(sentence: str, limit: int) -> Iterator[str]:
    while len(sentence) > limit:
        place = sentence.rfind(" ", 1, limit + 1)
        place = place if place > 0 else sentence.find(" ", limit)
        if place < 0:
            # no spaces at all: Chinese, Japanese, Thai, or one long address
            place = limit
        yield sentence[:place]
        sentence = sentence[place:].lstrip()
    if sentence:
        yield sentence


def _read(file: Path, count: int) -> Rows | None:
    """Rows of a file; None when it is not there or damaged (a .npz has checksums)."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            rows: Rows = stored["rows"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    fits = rows.ndim == 2 and len(rows) == count and rows.dtype == np.float32
    return rows if fits else None
