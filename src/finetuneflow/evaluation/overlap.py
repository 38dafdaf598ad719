"""Did training see the test questions? Exactly, after normalisation; and nearly, by sequences of words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from finetuneflow.metrics import WORD, fold, normalize
from finetuneflow.schemas.evaluation import TestItem
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.gate import NearDuplicate, Overlap

LONG = 13
"""Words in a row that two texts hardly share by chance."""
SHORT = 3
"""The same for a question of fewer words than that; there a training question that says more counts less."""
LISTED = 10
BLOCK = 200
MOST_PAIRS = 2_000_000_000
"""Test items by training examples; beyond this, only equal questions are looked for."""


class Near(NamedTuple):
    """A test question and the training question most like it."""

    item: int
    training: int
    similarity: float


def find_overlap(
    items: Sequence[TestItem],
    training: Sequence[Example],
    validation: Sequence[Example] = (),
    *,
    share: float = 0.8,
    training_sha256: str = "",
) -> Overlap:
    """Test items that stand in the training split, and those that nearly do (`share` of their sequences).

    A question is compared with the turns before it, whatever the system prompt says: case, width, spacing
    and punctuation aside.
    """
    keys = [_key(_turns(item)) for item in items]
    trained = {_key(_turns(example)) for example in training}
    validated = {_key(_turns(example)) for example in validation}
    leaked = [item.id for item, key in zip(items, keys, strict=True) if key in trained]
    near, note = [], ""
    if len(items) * len(training) > MOST_PAIRS:
        note = f"{len(items)} test items by {len(training)} training examples are too many pairs"
    else:
        others = [place for place, key in enumerate(keys) if key not in trained]
        near = [
            row for row in _nearest([items[place] for place in others], training) if row.similarity >= share
        ]
        near = [row._replace(item=others[row.item]) for row in near]
    near.sort(key=lambda row: (-row.similarity, row.item))
    return Overlap(
        items=len(items),
        training_examples=len(training),
        training_sha256=training_sha256,
        leaked=leaked,
        in_validation=sum(key in validated for key in keys),
        near_duplicates=len(near),
        nearest=[
            NearDuplicate(
                item_id=items[row.item].id,
                question=_turns(items[row.item])[-1],
                training_question=_turns(training[row.training])[-1],
                similarity=row.similarity,
            )
            for row in near[:LISTED]
        ],
        note=note,
    )


def _turns(row: TestItem | Example) -> list[str]:
    """The conversation up to the last question, without system prompt; a bare text is one turn."""
    if isinstance(row, Example) and row.text is not None:
        return [row.text]
    turns = [
        (turn["role"], turn["content"]) if isinstance(turn, dict) else (turn.role, turn.content)
        for turn in row.messages
    ]
    while turns and turns[-1][0] == "assistant":
        turns.pop()
    return [content for role, content in turns if role != "system"] or [""]


def _key(turns: Sequence[str]) -> str:
    return "\x1f".join(normalize(turn) for turn in turns)


def _nearest(items: Sequence[TestItem], training: Sequence[Example]) -> Iterator[Near]:
    """The most similar training question of every item that shares a sequence with one."""
    questions = [_words(_turns(item)) for item in items]
    trained = [_words(_turns(example)) for example in training]
    for length in (SHORT, LONG):
        places = [
            place
            for place, words in enumerate(questions)
            if len(words) >= length and (len(words) >= LONG) == (length == LONG)
        ]
        if not places or not trained:
            continue
        columns: dict[tuple[str, ...], int] = {}
        ours = _matrix([questions[place] for place in places], length, columns, grow=True)
        theirs = _matrix(trained, length, columns, grow=False).T.tocsr()
        sizes = np.asarray(ours.sum(axis=1)).ravel()
        lengths = np.array([len(set(_sequences(words, length))) for words in trained])
        for start in range(0, len(places), BLOCK):
            shared = (ours[start : start + BLOCK] @ theirs).tocsr()
            for row in range(shared.shape[0]):
                begin, end = shared.indptr[row], shared.indptr[row + 1]
                if begin == end:
                    continue
                columns_here, size = shared.indices[begin:end], sizes[start + row]
                whole = size if length == LONG else np.maximum(size, lengths[columns_here])
                likeness = shared.data[begin:end] / whole
                best = int(np.argmax(likeness))
                yield Near(places[start + row], int(columns_here[best]), float(likeness[best]))


def _words(turns: Sequence[str]) -> list[str]:
    return [word for turn in turns for word in WORD.findall(fold(turn))]


def _sequences(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))


def _matrix(
    rows: Sequence[Sequence[str]], length: int, columns: dict[tuple[str, ...], int], *, grow: bool
) -> csr_array:
    """Rows by distinct sequences of words (0 or 1); sequences that only training has are left out."""
    indices: list[int] = []
    ends = [0]
    for words in rows:
        sequences = set(_sequences(words, length))
        if grow:
            indices += [columns.setdefault(sequence, len(columns)) for sequence in sorted(sequences)]
        else:
            indices += sorted(columns[sequence] for sequence in sequences if sequence in columns)
        ends.append(len(indices))
    values: NDArray[np.int32] = np.ones(len(indices), dtype=np.int32)
    return csr_array((values, indices, ends), shape=(len(rows), max(1, len(columns))))
