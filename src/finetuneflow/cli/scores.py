"""An evaluation's figures for people: arms, held-out wordings, question types, errors, verdict."""

from __future__ import annotations

from collections.abc import Sequence

from finetuneflow.cli.output import print_line, visible
from finetuneflow.cli.tables import percent, print_table
from finetuneflow.schemas.evaluation import (
    Comparison,
    EvaluationResult,
    Recommendation,
    Scores,
    SliceComparison,
    Verdict,
)
from finetuneflow.schemas.export import ParityResult
from finetuneflow.schemas.gate import GateResult
from finetuneflow.schemas.interval import Interval

ARM_NAMES = {
    "base": "base",
    "rag": "base + retrieval",
    "tuned": "tuned",
    "tuned_rag": "tuned + retrieval",
}
ERRORS_SHOWN = 5
SLICES_SHOWN = 12
"""Of each dimension, the largest ones."""
STATES = {"met": "ok", "missed": "FAILED", "open": "open", "noted": "note"}


def print_evaluation(result: EvaluationResult) -> None:
    """Prints all of an evaluation, the verdict last."""
    if result.classification:
        _print_classification(result)
    else:
        _print_arms(result)
        _print_question_types(result)
    _print_errors(result)
    if result.verdict is not None:
        print_line()
        print_verdict(result.verdict)


def print_verdict(verdict: Verdict) -> None:
    """Prints the verdict with its reasons."""
    print_line(f"Verdict: {verdict.outcome}")
    for reason in verdict.reasons:
        print_line(f"  - {reason}")


def print_comparisons(comparisons: Sequence[Comparison]) -> None:
    """Prints every paired comparison: each metric against each baseline."""
    print_table(
        ("paired", "metric", "difference", "won", "lost", "tied", "p", "Holm", "exact McNemar"),
        (
            (
                f"{ARM_NAMES.get(row.arm, row.arm)} - {ARM_NAMES.get(row.baseline, row.baseline)}",
                row.metric.replace("_", " "),
                in_points(row.difference),
                row.wins,
                row.losses,
                row.ties,
                *("" if p is None else f"{p:.2g}" for p in (row.p_value, row.p_holm, row.p_exact)),
            )
            for row in comparisons
        ),
    )


def print_slices(slices: Sequence[SliceComparison]) -> None:
    """Prints the parts of the test set, one table per dimension, the largest parts first."""
    for dimension in dict.fromkeys(row.dimension for row in slices):
        rows = [row for row in slices if row.dimension == dimension]
        print_line()
        baseline = ARM_NAMES.get(rows[0].baseline, rows[0].baseline)
        name = f"{rows[0].metric.replace('_', ' ')} by {dimension.replace('_', ' ')}"
        print_table(
            (name, "questions", baseline, "tuned", "difference", "won", "lost", "p", "Holm"),
            (
                (
                    row.name,
                    row.items,
                    percent(row.baseline_score),
                    percent(row.score),
                    in_points(row.difference),
                    row.wins,
                    row.losses,
                    f"{row.p_value:.2g}",
                    f"{row.p_holm:.2g}",
                )
                for row in rows[:SLICES_SHOWN]
            ),
        )
        if len(rows) > SLICES_SHOWN:
            print_line(f"… and {len(rows) - SLICES_SHOWN} smaller ones (`--json` has all)")


def print_recommendation(recommendation: Recommendation) -> None:
    """Prints what to do, with its reasons."""
    print_line(f"Recommendation: {recommendation.headline}")
    for reason in recommendation.reasons:
        print_line(f"  - {visible(reason)}")


def print_gate(result: GateResult) -> None:
    """Prints the gate's decision with every check."""
    print_line(f"Gate: {result.outcome}")
    for check in result.checks:
        print_line(f"  {STATES[check.state]:6}  {check.name.replace('_', ' ')}: {visible(check.reason)}")


def print_parity(parity: ParityResult) -> None:
    """Prints whether the GGUF file answers like the trained model."""
    print_line(
        f"Served = trained: {'yes' if parity.passed else 'NO'} ({parity.quantization}, {parity.runtime})"
    )
    print_line(
        f"  - same most likely next token: {percent(parity.top1_agreement)} of {parity.prompts} prompts; "
        f"largest log-probability difference: median {parity.median_max_logprob_difference:.2g}, "
        f"maximum {parity.max_logprob_difference:.2g} over {parity.vocabulary:,} tokens"
    )
    print_line(f"  - same continuation: {parity.continuations_equal} of {parity.continuations}")
    if parity.trained_score is not None and parity.served_score is not None:
        print_line(
            f"  - {parity.metric.replace('_', ' ')} on {parity.answers} test questions of all wordings: "
            f"{percent(parity.served_score)} served, {percent(parity.trained_score)} trained"
        )


def with_interval(interval: Interval) -> str:
    """A share with its 95 % interval: 96.0 % (91.2 to 98.8)."""
    return f"{percent(interval.value)} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def in_points(difference: Interval) -> str:
    """A difference of shares with its 95 % interval: +5.0 points (+2.1 to +7.9)."""
    value, low, high = (
        f"{100 * share:+.1f}" for share in (difference.value, difference.low, difference.high)
    )
    return f"{value} points ({low} to {high})"


def _row(name: str, scores: Scores) -> tuple[object, ...]:
    return (
        name,
        scores.items,
        with_interval(scores.exact_match),
        with_interval(scores.token_f1),
        with_interval(scores.rouge_l),
        f"{1000 * scores.latency_mean_seconds:.0f} ms",
    )


def _print_arms(result: EvaluationResult) -> None:
    rows = []
    for name, arm in result.arms.items():
        label = ARM_NAMES.get(name, name)
        if arm.overall is not None:
            rows.append(_row(label, arm.overall))
        if arm.held_out_wordings is not None:
            rows.append(_row(f"{label}, new wordings", arm.held_out_wordings))
    print_table(("", "questions", "exact match", "token F1", "ROUGE-L", "time"), rows)


def _print_question_types(result: EvaluationResult) -> None:
    arms = list(result.arms.values())
    types = sorted({name for arm in arms for name in arm.by_question_type})
    if len(types) < 2:
        return
    print_line()
    rows = []
    for name in types:
        scores = [arm.by_question_type.get(name) for arm in arms]
        items = next(score.items for score in scores if score is not None)
        rows.append(
            (name, items, *("" if score is None else percent(score.exact_match.value) for score in scores))
        )
    print_table(
        ("exact match by type", "questions", *(ARM_NAMES.get(arm.arm, arm.arm) for arm in arms)), rows
    )


def _print_classification(result: EvaluationResult) -> None:
    print_table(
        ("", "rows", "accuracy", "macro F1", "macro precision", "macro recall"),
        (
            (
                ARM_NAMES.get(name, name),
                scores.items,
                percent(scores.accuracy),
                percent(scores.macro_f1),
                percent(scores.macro_precision),
                percent(scores.macro_recall),
            )
            for name, scores in result.classification.items()
        ),
    )


def _print_errors(result: EvaluationResult) -> None:
    if not result.errors:
        return
    print_line()
    print_line("Wrong answers of the tuned model (the first ones):")
    for error in result.errors[:ERRORS_SHOWN]:
        print_line(f"  {visible(error.question)}")
        print_line(f"    expected: {visible(error.expected)}")
        print_line(f"    answered: {visible(error.predicted)}")
