"""Figures about a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from finetuneflow.dataset.deduplicate import count_duplicates
from finetuneflow.dataset.quality import is_negative
from finetuneflow.schemas.dataset import SplitCounts, Statistics
from finetuneflow.schemas.example import Example, Split


def statistics(splits: Mapping[Split, Sequence[Example]]) -> Statistics:
    """Counts and lengths over all splits; conversations without a known question type count as `other`."""
    examples = [example for split in splits.values() for example in split]
    answers = [example.answer for example in examples if example.messages]
    return Statistics(
        examples=len(examples),
        splits=SplitCounts.model_validate({split: len(members) for split, members in splits.items()}),
        question_types=question_types(examples),
        labels=_ordered(Counter(example.label for example in examples if example.label is not None)),
        question_characters_mean=_mean([len(example.question) for example in examples]),
        answer_characters_mean=_mean([len(answer) for answer in answers]),
        answer_characters_max=max(map(len, answers), default=0),
        answer_words_mean=_mean([len(answer.split()) for answer in answers]),
        exact_duplicates=count_duplicates(examples),
        negatives=sum(map(is_negative, examples)),
        held_out_wordings=sum(example.provenance.wording_held_out for example in examples),
    )


def question_types(examples: Sequence[Example]) -> dict[str, int]:
    """Number of conversations of each question type, most frequent first."""
    kinds = (example.provenance.question_type or "other" for example in examples if example.messages)
    return _ordered(Counter(kinds))


def _ordered(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _mean(values: Sequence[int]) -> float:
    return round(sum(values) / len(values), 1) if values else 0.0
