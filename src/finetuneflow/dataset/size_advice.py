"""How large a dataset should be, and whether records × types × wordings get there."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetuneflow.dataset.assets import read_yaml

MAX_VARIATIONS = 12
"""Wordings of one question beyond which more of them teach little."""


@dataclass(frozen=True)
class SizeAdvice:
    """What a size is good for."""

    examples: int
    level: str
    """too_small, minimum, good, optimal or enterprise."""
    next_level: int | None
    """Examples from which the next level holds; None at the last."""
    message: str
    """One or two sentences for people."""


def size_advice(records: int, types: int, variations: int, *, language: str = "fr") -> SizeAdvice:
    """What `records` × `types` of questions × `variations` of wording come to, against the usual sizes.

    The sizes are 100 (minimum), 500 (good), 2,000 (optimal) and 10,000 (enterprise) examples. Below "good",
    the message says how many wordings would reach it, where a reasonable number does.
    """
    content = read_yaml("questions/size_advice.yaml")
    examples = records * types * variations
    levels = content["levels"]
    place = max(index for index, level in enumerate(levels) if examples >= level["from"])
    following = levels[place + 1]["from"] if place + 1 < len(levels) else None
    message = content["sentence"][language].format(
        records=records,
        types=types,
        variations=variations,
        examples=examples,
        advice=levels[place][language].format(next=following),
    )
    good = next(level["from"] for level in levels if level["id"] == "good")
    if records and types and examples < good:
        enough = math.ceil(good / (records * types))
        if enough <= MAX_VARIATIONS:
            remedy = content["remedy"][language]
            message += remedy.format(variations=enough, examples=records * types * enough)
    return SizeAdvice(examples, levels[place]["id"], following, message)
