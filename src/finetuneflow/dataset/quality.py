"""What a good dataset looks like, as data: thresholds, sentences, and answers that say "I do not know"."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

from finetuneflow.dataset.assets import read_yaml
from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.example import Example

Language = Literal["en", "fr"]


class Thresholds(Schema):
    """Figures of `assets/dataset_quality.yaml`; shares from 0 to 1."""

    minimum_examples: int
    good_examples: int
    minimum_coverage: float
    minimum_type_share: float
    short_definition_characters: int
    short_answer_words: int
    long_answer_words: int
    tolerated_lengths: float
    minimum_split_share: float
    minimum_training_share: float
    very_short_answer_characters: int
    very_long_answer_characters: int


class Sentences(Schema):
    """Sentences in one language, with `{…}` to be filled in."""

    more: str
    unknown: str
    recommendations: dict[str, str]
    checklist: dict[str, tuple[str, str]]


class Quality(Schema):
    """The whole file."""

    thresholds: Thresholds
    names_listed: int
    negative_openings: tuple[str, ...]
    en: Sentences
    fr: Sentences


@cache
def load_quality() -> Quality:
    """The package's thresholds and sentences, read once."""
    return Quality.model_validate(read_yaml("dataset_quality.yaml"))


def sentences(language: Language) -> Sentences:
    """The sentences in one language."""
    quality = load_quality()
    return quality.fr if language == "fr" else quality.en


def percentage(share: float, language: Language) -> str:
    """A share as people write it: `95.6%`, `95,6 %` in French."""
    figure = f"{share * 100:.1f}".removesuffix(".0")
    return f"{figure.replace('.', ',')} %" if language == "fr" else f"{figure}%"


def listed(names: Sequence[str], language: Language) -> str:
    """A few names, and how many more there are."""
    limit = load_quality().names_listed
    shown = ", ".join(names[:limit])
    rest = len(names) - limit
    return f"{shown} {sentences(language).more.format(count=rest)}" if rest > 0 else shown


def is_negative(example: Example) -> bool:
    """True for an answer that says that it does not know, by provenance or by its first words."""
    if not example.messages:
        return False
    if example.provenance.question_type == "negative":
        return True
    opening = " ".join(example.answer[:80].casefold().replace("’", "'").split())
    return opening.startswith(load_quality().negative_openings)
