"""What to look at in rows that can be used, and the checklist before training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import get_args

from ftfy.badness import is_bad

from finetuneflow.dataset.canonical import context_key
from finetuneflow.dataset.deduplicate import conflicts
from finetuneflow.dataset.formats import ReadReport
from finetuneflow.dataset.quality import Language, is_negative, load_quality, percentage, sentences
from finetuneflow.dataset.split import overlap
from finetuneflow.dataset.statistics import question_types
from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.dataset import CoverageReport, Dropped, ValidationReport
from finetuneflow.schemas.example import Example, Split

_SUSPECT = re.compile(r"[^\x00-\x7f]{2}|[ÃÂâ] ")
"""Where mojibake can be at all; ftfy takes 20 µs to be sure, and most texts have no such place."""


class ChecklistItem(Schema):
    """One line of the checklist."""

    name: str
    """size, format, duplicates, coverage, balance, quality, length, negatives or split."""
    item: str
    """What is asked for."""
    ok: bool | None
    """Null when there was nothing to check it with."""
    detail: str
    """What was found."""


def check(examples: Sequence[Example], report: ValidationReport) -> ValidationReport:
    """The report with a warning, by line, for each row that stays but should be looked at.

    Conflicting answers, answers very long or very short, mojibake, a last turn that is not the assistant's.
    `report` is that of `read_dataset` on the same examples; it is left as it is.
    """
    known = report.lines if isinstance(report, ReadReport) else []
    lines = known if len(known) == len(examples) else list(range(1, len(examples) + 1))
    warnings = conflicts(examples, lines)
    for line, example in zip(lines, examples, strict=True):
        warnings += _warnings(line, example)
    warnings.sort(key=lambda warning: warning.line)
    return report.model_copy(update={"warnings": [*report.warnings, *warnings]})


def _warnings(line: int, example: Example) -> list[Dropped]:
    found = []

    def warn(reason: str, message: str, remedy: str) -> None:
        found.append(Dropped(line=line, reason=reason, message=message, remedy=remedy))

    if is_damaged(example):
        remedy = "it was read in the wrong encoding once: export it again as UTF-8"
        warn("mojibake", "the text looks damaged, like `Ã©` for `é`", remedy)
    if not example.messages:
        return found
    limits = load_quality().thresholds
    length = len(example.answer)
    if length > limits.very_long_answer_characters:
        message = f"the answer has {length:,} characters, over {limits.very_long_answer_characters:,}"
        warn("long_answer", message, "shorten it, or see that max_seq_length holds it")
    if length < limits.very_short_answer_characters:
        warn(
            "short_answer", f"the answer is only {example.answer!r}", "answer in a sentence, if that is meant"
        )
    if example.messages[-1].role != "assistant":
        warn(
            "last_turn",
            "the last turn is not the assistant's",
            "end with the answer, or delete the last turn",
        )
    return found


def is_damaged(example: Example) -> bool:
    """True when a text of the example looks like mojibake."""
    texts = [message.content for message in example.messages] or [example.text or ""]
    return any(_SUSPECT.search(text) and is_bad(text) for text in texts)


def checklist(
    splits: Mapping[Split, Sequence[Example]],
    report: ValidationReport | None = None,
    coverage: CoverageReport | None = None,
    *,
    language: Language = "en",
) -> list[ChecklistItem]:
    """The nine points to look at before training, each with what was found.

    Format needs the report of the file that was read, coverage that of the records; without them they are
    left open. Balance and length are about conversations. An unsplit dataset is one that has only `train`.
    """
    examples = [example for split in splits.values() for example in split]
    found = {
        "size": _size(examples),
        "format": _format(report),
        "duplicates": _duplicates(examples),
        "coverage": _coverage(coverage, language),
        "balance": _balance(examples),
        "quality": _quality(examples),
        "length": _length(examples),
        "negatives": _negatives(examples),
        "split": _split(splits),
    }
    texts, limits = sentences(language), load_quality().thresholds
    asked: dict[str, object] = {
        "minimum": limits.minimum_examples,
        "good": limits.good_examples,
        "short": limits.short_answer_words,
        "long": limits.long_answer_words,
    }
    shares: dict[str, dict[str, object]] = {
        "coverage": {"minimum": percentage(limits.minimum_coverage, language)}
    }
    return [
        ChecklistItem(
            name=name,
            item=texts.checklist[name][0].format(**(asked | shares.get(name, {}))),
            ok=ok,
            detail=texts.unknown if ok is None else texts.checklist[name][1].format(**figures),
        )
        for name, (ok, figures) in found.items()
    ]


_Finding = tuple[bool | None, Mapping[str, object]]


def _size(examples: Sequence[Example]) -> _Finding:
    return len(examples) >= load_quality().thresholds.minimum_examples, {"count": len(examples)}


def _format(report: ValidationReport | None) -> _Finding:
    if report is None:
        return None, {}
    return not report.dropped, {"dropped": len(report.dropped), "rows": report.rows}


def _duplicates(examples: Sequence[Example]) -> _Finding:
    repeated = len(examples) - len({context_key(example) for example in examples})
    return repeated == 0, {"count": repeated}


def _coverage(report: CoverageReport | None, language: Language) -> _Finding:
    if report is None:
        return None, {}
    share = percentage(report.coverage, language)
    figures = {"covered": report.covered, "records": report.records, "share": share}
    return report.coverage >= load_quality().thresholds.minimum_coverage, figures


def _balance(examples: Sequence[Example]) -> _Finding:
    counts = question_types(examples)
    if not set(counts) - {"other"}:
        return None, {}
    least = load_quality().thresholds.minimum_type_share * sum(counts.values())
    text = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    return all(count >= least for kind, count in counts.items() if kind != "other"), {"counts": text}


def _quality(examples: Sequence[Example]) -> _Finding:
    contradictions, damaged = len(conflicts(examples)), sum(map(is_damaged, examples))
    return contradictions + damaged == 0, {"conflicts": contradictions, "damaged": damaged}


def _length(examples: Sequence[Example]) -> _Finding:
    limits = load_quality().thresholds
    words = [len(example.answer.split()) for example in examples if example.messages]
    if not words:
        return None, {}
    below = sum(count < limits.short_answer_words for count in words)
    above = sum(count > limits.long_answer_words for count in words)
    figures = {"below": below, "above": above, "count": len(words)}
    return below + above <= limits.tolerated_lengths * len(words), figures


def _negatives(examples: Sequence[Example]) -> _Finding:
    if not any(example.messages for example in examples):
        return None, {}
    count = sum(map(is_negative, examples))
    return count > 0, {"count": count, "total": len(examples)}


def _split(splits: Mapping[Split, Sequence[Example]]) -> _Finding:
    limits, leaked = load_quality().thresholds, overlap(splits)
    # held-out wordings come on top of the test fraction, so they do not count
    sizes: dict[str, int] = {
        split: sum(not example.provenance.wording_held_out for example in splits.get(split, ()))
        for split in get_args(Split)
    }
    total = sum(sizes.values())
    apart = (
        leaked == 0
        and min(sizes["validation"], sizes["test"]) >= limits.minimum_split_share * total > 0
        and sizes["train"] >= limits.minimum_training_share * total
    )
    return apart, {**sizes, "overlap": leaked}
