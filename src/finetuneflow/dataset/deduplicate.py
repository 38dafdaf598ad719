"""Exact duplicates after normalisation, and questions that have more than one answer."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from finetuneflow.dataset.canonical import answer_key, context_key
from finetuneflow.schemas.dataset import Dropped
from finetuneflow.schemas.example import Example


def deduplicate(
    examples: Sequence[Example], lines: Sequence[int] | None = None
) -> tuple[list[Example], list[Dropped]]:
    """The examples without repetitions, in order, and those dropped; len(in) == len(kept) + len(dropped).

    Two examples are one when system prompt, question and answer are equal but for case, spacing, composition
    (NFC) and punctuation; the first one stays. `lines` names them in messages, else their 1-based positions.
    The same question with another answer is no duplicate: `conflicts` finds those.
    """
    places = lines or range(1, len(examples) + 1)
    first: dict[bytes, int] = {}
    kept: list[Example] = []
    dropped: list[Dropped] = []
    for line, example in zip(places, examples, strict=True):
        digest = _digest(example)
        original = first.setdefault(digest, line)
        if original == line:
            kept.append(example)
        else:
            message = f"the same question and answer as line {original}: {_short(example.question)}"
            remedy = "nothing to do: the first one was kept"
            dropped.append(Dropped(line=line, reason="duplicate", message=message, remedy=remedy))
    return kept, dropped


def conflicts(examples: Sequence[Example], lines: Sequence[int] | None = None) -> list[Dropped]:
    """A warning for every example whose question was answered otherwise further up; names that line."""
    places = lines or range(1, len(examples) + 1)
    first: dict[str, tuple[int, str]] = {}
    warnings = []
    for line, example in zip(places, examples, strict=True):
        answer = answer_key(example)
        original, other = first.setdefault(context_key(example), (line, answer))
        if answer != other:
            message = f"the same question as line {original} with another answer: {_short(example.question)}"
            remedy = f"keep the right one of lines {original} and {line}, or make the questions differ"
            warnings.append(Dropped(line=line, reason="conflict", message=message, remedy=remedy))
    return warnings


def count_duplicates(examples: Sequence[Example]) -> int:
    """How many examples `deduplicate` would drop."""
    return len(examples) - len({_digest(example) for example in examples})


def _digest(example: Example) -> bytes:
    key = f"{bool(example.messages)}\x1d{context_key(example)}\x1d{answer_key(example)}"
    return xxhash.xxh3_128_digest(key.encode())


def _short(text: str, limit: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
