"""Which examples go through the model together: packed rows under a token budget, or rows of like length."""

from __future__ import annotations

import random
from collections.abc import Sequence


def shuffled(count: int, *, seed: int, epoch: int) -> list[int]:
    """Indices 0..count-1 in this epoch's order."""
    order = list(range(count))
    random.Random(f"{seed}:{epoch}").shuffle(order)  # noqa: S311 - an order, not a secret
    return order


def pack(lengths: Sequence[int], order: Sequence[int], *, budget: int) -> list[list[int]]:
    """Groups examples into rows of at most `budget` tokens, first fit over the open rows, in the given order.

    Args:
        lengths: Tokens per example; one longer than the budget gets a row of its own.
        order: Indices of the examples.
        budget: Tokens per row.

    Returns:
        Rows of indices; every index of `order` exactly once. O(n) time: at most 16 rows stay open.
    """
    full: list[list[int]] = []
    rows: list[tuple[int, list[int]]] = []
    for index in order:
        for position, (used, row) in enumerate(rows):
            if used + lengths[index] <= budget:
                row.append(index)
                rows[position] = (used + lengths[index], row)
                break
        else:
            if len(rows) == OPEN_ROWS:
                fullest = max(range(len(rows)), key=lambda position: rows[position][0])
                full.append(rows.pop(fullest)[1])
            rows.append((lengths[index], [index]))
    return full + [row for _, row in rows]


OPEN_ROWS = 16


def group_by_length(
    lengths: Sequence[int], order: Sequence[int], *, batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Batches of like length, in random order: little padding, and still a different mix every epoch.

    Args:
        lengths: Tokens per example.
        order: Indices of the examples, shuffled.
        batch_size: Examples per batch.
        seed: Of the run.
        epoch: Decides the order of the batches.
    """
    window = batch_size * 50
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        block = sorted(order[start : start + window], key=lambda index: lengths[index])
        batches += [block[first : first + batch_size] for first in range(0, len(block), batch_size)]
    random.Random(f"{seed}:{epoch}:batches").shuffle(batches)  # noqa: S311 - an order, not a secret
    return batches
