"""chrF: overlap of character n-grams, by sacrebleu, with the signature that makes a figure comparable."""

from __future__ import annotations

from collections.abc import Sequence

from sacrebleu.metrics.chrf import CHRF

from finetuneflow.errors import DatasetError


def _metric() -> CHRF:
    return CHRF(char_order=6, word_order=0, beta=2)


def chrf(predicted: str, expected: str) -> float:
    """chrF2 of one answer, 0 to 1; two answers of nothing but spaces are equal (sacrebleu says 0)."""
    if not predicted.split() and not expected.split():
        return 1.0
    return float(_metric().sentence_score(predicted, [expected]).score) / 100


def corpus_chrf(predicted: Sequence[str], expected: Sequence[str]) -> tuple[float, str]:
    """chrF2 over all answers (0 to 1), n-grams counted together, and sacrebleu's signature.

    Raises:
        DatasetError: no answers, or different numbers of answers and expected ones.
    """
    if not predicted or len(predicted) != len(expected):
        raise DatasetError(
            f"{len(predicted)} answers and {len(expected)} expected ones cannot be compared",
            "an evaluation needs at least one item, and one answer for each",
        )
    metric = _metric()
    if not any(text.split() for text in (*predicted, *expected)):
        score = 1.0
        metric.corpus_score(list(predicted), [list(expected)])
    else:
        score = float(metric.corpus_score(list(predicted), [list(expected)]).score) / 100
    return score, str(metric.get_signature())
