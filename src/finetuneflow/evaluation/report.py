"""The table that everybody looks at first: base, base + retrieval, tuned. Pure: no torch, no files."""

from __future__ import annotations

from finetuneflow.schemas.evaluation import EvaluationResult, Scores
from finetuneflow.schemas.interval import Interval

ARM_NAMES = {
    "base": "base",
    "rag": "base + retrieval",
    "tuned": "tuned",
    "tuned_rag": "tuned + retrieval",
}
HEADER = ["arm", "exact match", "token F1", "ROUGE-L", "held-out wordings", "mean latency"]
CLASSIFIER_HEADER = ["arm", "accuracy", "macro F1", "macro precision", "macro recall", "kappa"]
CLASSIFIER_ARM_NAMES = ARM_NAMES | {"base": "most frequent label"}


def table(result: EvaluationResult) -> list[list[str]]:
    """Rows of the comparison, the header first; a figure comes with its 95 % interval."""
    if result.classification:
        return [CLASSIFIER_HEADER] + [
            [
                CLASSIFIER_ARM_NAMES.get(arm, arm),
                percent(figures.accuracy),
                percent(figures.macro_f1),
                percent(figures.macro_precision),
                percent(figures.macro_recall),
                "undefined" if figures.kappa is None else f"{figures.kappa:.3f}",
            ]
            for arm, figures in result.classification.items()
        ]
    rows = [HEADER]
    for arm, figures in result.arms.items():
        held_out = figures.held_out_wordings
        shown = figures.overall or held_out
        if shown is None:
            continue
        rows.append(
            [
                ARM_NAMES.get(arm, arm),
                *(interval(value) for value in (shown.exact_match, shown.token_f1, shown.rouge_l)),
                interval(held_out.exact_match) if held_out else "-",
                f"{shown.latency_mean_seconds * 1000:.0f} ms",
            ]
        )
    return rows


def question_type_table(result: EvaluationResult) -> list[list[str]]:
    """Exact match per question type and arm, the header first; only the header when there are no types."""
    arms = list(result.arms)
    by_type: dict[str, dict[str, Scores]] = {}
    for arm, figures in result.arms.items():
        for kind, scores in figures.by_question_type.items():
            by_type.setdefault(kind, {})[arm] = scores
    rows = [["question type", "items", *(ARM_NAMES.get(arm, arm) for arm in arms)]]
    for kind, by_arm in sorted(by_type.items()):
        items = next(iter(by_arm.values())).items
        rows.append([kind, str(items), *(interval(by_arm[arm].exact_match) for arm in arms)])
    return rows


def markdown(rows: list[list[str]]) -> str:
    """Rows as a Markdown table; bars and line breaks in a cell are neutralised."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(cells[0]), *lines[1:]])


def interval(figure: Interval) -> str:
    """A share with its interval, such as `93.3% (88.1 to 96.3)`."""
    return f"{percent(figure.value)} ({figure.low * 100:.1f} to {figure.high * 100:.1f})"


def percent(share: float) -> str:
    """A share in percent, one decimal."""
    return f"{share:.1%}"
