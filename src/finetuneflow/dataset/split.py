"""Training, validation and test: seeded, the same for any order of the input, without leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finetuneflow.dataset.canonical import question_key
from finetuneflow.dataset.split_by_group import split_by_group
from finetuneflow.dataset.split_by_paraphrase import split_by_paraphrase
from finetuneflow.dataset.split_item import Fractions, make_items
from finetuneflow.errors import UsageError
from finetuneflow.schemas.dataset import Dropped, SplitStrategy
from finetuneflow.schemas.example import Example, Split


@dataclass(frozen=True)
class SplitResult:
    """The splits, and what could be in none of them without a leak."""

    splits: dict[Split, list[Example]]
    dropped: list[Dropped] = field(default_factory=list)
    """`line` is the 1-based position in the examples given. Examples in == examples in splits + dropped."""


def split_examples(
    examples: Sequence[Example],
    *,
    strategy: SplitStrategy = "group",
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
) -> dict[Split, list[Example]]:
    """The splits of `split_with_report`, for callers who keep no ledger."""
    result = split_with_report(examples, strategy=strategy, seed=seed, validation=validation, test=test)
    return result.splits


def split_with_report(
    examples: Sequence[Example],
    *,
    strategy: SplitStrategy = "group",
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
) -> SplitResult:
    """Examples by split, each in an order that depends on content and seed alone, and what was dropped.

    group: no test question is about a record, a fact or a source passage that training saw, nor stands in
    training. Examples about several records go where all their records are, else they are dropped.
    paraphrase: facts are learnt by heart and tested in other words. A test example's fact and wording are
    both in training, its exact question is not. Examples without a fact are grouped by question text.
    Either way held-out wordings are never trained on: they are tested, but in a group split dropped when
    training speaks of their record.

    Raises:
        UsageError: fractions below 0, or that leave nothing for training.
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        message = f"validation {validation} and test {test} leave nothing for training"
        raise UsageError(message, "give fractions of at least 0 that add up to less than 1")
    fractions: Fractions = {"train": 1 - validation - test, "validation": validation, "test": test}
    items = make_items(examples, seed)
    assign = split_by_group if strategy == "group" else split_by_paraphrase
    assign(items, fractions, seed)
    splits: dict[Split, list[Example]] = {"train": [], "validation": [], "test": []}
    dropped = []
    for item in items:
        if item.split is None:
            message, remedy = _REASONS[item.reason]
            dropped.append(Dropped(line=item.position, reason=item.reason, message=message, remedy=remedy))
        else:
            splits[item.split].append(item.example)
    return SplitResult(splits, sorted(dropped, key=lambda drop: drop.line))


def overlap(splits: Mapping[Split, Sequence[Example]]) -> int:
    """How many test questions stand in training too, case, spacing and punctuation aside; should be 0."""
    trained = {question_key(example) for example in splits.get("train", ())}
    return sum(question_key(example) in trained for example in splits.get("test", ()))


_REASONS = {
    "crosses_splits": (
        "it speaks of records that are in different splits, so it would tell training about the test",
        "nothing to do, or split by paraphrase to keep it",
    ),
    "held_out_wording": (
        "its wording is held out of training, and training speaks of its record",
        "nothing to do, or split by paraphrase to test it",
    ),
    "held_out_question": (
        "its question is word for word that of a held-out example",
        "give the held-out example a wording of its own",
    ),
}
