"""Figures of a classifier's predictions: overall, per label, confusions, confidence. Needs numpy alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetuneflow.errors import InputError
from finetuneflow.evaluation.charter import known_confusion
from finetuneflow.evaluation.confusions import ALPHA, confusion_tests
from finetuneflow.evaluation.error_report import reason
from finetuneflow.schemas.error_report import (
    HIGH_CONFIDENCE,
    LOW_CONFIDENCE,
    Charter,
    ConfidenceBand,
    Confusion,
    ErrorExample,
    ErrorReport,
    LabelScores,
    Language,
    Targets,
    TechnicalMetadata,
)
from finetuneflow.schemas.prediction import Prediction, PredictionFile

TOP_CONFUSIONS = 5
EXAMPLES = 3
MAX_LABELS = 2_000
ALARM_SHARE = 0.1
"""Over this share of errors made with high confidence, something is systematically wrong."""
OBJECTIVE = 0.05
WILSON_Z = 1.959963984540054


def analyse(
    file: PredictionFile,
    charter: Charter,
    *,
    language: Language,
    metadata: TechnicalMetadata,
) -> ErrorReport:
    """The report without what compares texts (clusters, doubtful annotations, training conflicts).

    A million rows take about 2 s.

    Raises:
        InputError: more than 2,000 different labels: that is text, not a classification.
    """
    rows = file.predictions
    labels = ordered_labels(rows, charter)
    if len(labels) > MAX_LABELS:
        raise InputError(
            f"{len(labels):,} different labels in {len(rows):,} rows: this looks like free text, not labels",
            "name the fields that hold the labels with --mapping",
            path=file.path,
            code="too_many_labels",
        )
    matrix = confusion_matrix(rows, labels)
    scores = label_scores(matrix, labels)
    total, correct = len(rows), int(np.trace(matrix))
    low, high = wilson(correct, total)
    kappa = cohen_kappa(matrix)
    wrong = [row for row in rows if not row.correct]
    confusions, note = _confusions(matrix, labels, wrong, charter, language)
    bands, high_share = confidence_bands(rows, wrong)
    known = [row.confidence for row in rows if row.confidence is not None]
    times = [row.milliseconds for row in rows if row.milliseconds is not None]
    return ErrorReport(
        language=language,
        name=file.path.replace("\\", "/").rsplit("/", 1)[-1],
        rows=file.rows,
        kept=total,
        dropped=file.dropped_by_reason,
        dropped_rows=file.dropped,
        notices=file.notices,
        notes=file.notes,
        correct=correct,
        errors=total - correct,
        accuracy=correct / total,
        accuracy_low=low,
        accuracy_high=high,
        error_rate=(total - correct) / total,
        kappa=kappa,
        kappa_note=reason("kappa_undefined", language) if kappa is None else None,
        macro_precision=_macro(scores, "precision"),
        macro_recall=_macro(scores, "recall"),
        macro_f1=_macro(scores, "f1"),
        weighted_f1=sum((score.f1 or 0.0) * score.support for score in scores) / total,
        mean_confidence=math.fsum(known) / len(known) if known else None,
        mean_milliseconds=math.fsum(times) / len(times) if times else None,
        algorithm=file.algorithm,
        labels=labels,
        per_label=scores,
        confusion=matrix.tolist(),
        confusions=confusions,
        confusions_note=note,
        by_confidence=bands,
        confidence_note=None if known else reason("no_confidence", language),
        high_confidence_alarm=high_share is not None and high_share > ALARM_SHARE,
        high_confidence_share=high_share,
        expert_examples=expert_examples(wrong),
        targets=Targets(baseline=correct / total, objective=min(1.0, correct / total + OBJECTIVE)),
        metadata=metadata,
    )


def ordered_labels(rows: Sequence[Prediction], charter: Charter) -> list[str]:
    """Labels that occur, the charter's first and in its order, then the others sorted."""
    found = {row.gold for row in rows} | {row.predicted for row in rows}
    first = [label for label in dict.fromkeys([*charter.priority, *charter.labels]) if label in found]
    return [*first, *sorted(found - set(first))]


def confusion_matrix(rows: Sequence[Prediction], labels: Sequence[str]) -> NDArray[np.int64]:
    """Counts; rows predicted, columns gold."""
    place = {label: index for index, label in enumerate(labels)}
    size, total = len(labels), len(rows)
    predicted = np.fromiter((place[row.predicted] for row in rows), np.int64, total)
    gold = np.fromiter((place[row.gold] for row in rows), np.int64, total)
    return np.bincount(predicted * size + gold, minlength=size * size).reshape(size, size)


def label_scores(matrix: NDArray[np.int64], labels: Sequence[str]) -> list[LabelScores]:
    """Precision, recall and F1 of every label, null where undefined."""
    predicted, support, correct = matrix.sum(1).tolist(), matrix.sum(0).tolist(), np.diag(matrix).tolist()
    return [
        LabelScores(
            label=label,
            support=gold,
            predicted=said,
            correct=hits,
            precision=hits / said if said else None,
            recall=hits / gold if gold else None,
            f1=2 * hits / (said + gold) if said + gold else None,
        )
        for label, said, gold, hits in zip(labels, predicted, support, correct, strict=True)
    ]


def _macro(scores: Sequence[LabelScores], figure: str) -> float:
    return math.fsum(getattr(score, figure) or 0.0 for score in scores) / len(scores)


def cohen_kappa(matrix: NDArray[np.int64]) -> float | None:
    """Agreement beyond chance; None where chance alone agrees (one label in all)."""
    total = float(matrix.sum())
    chance = float(matrix.sum(0) @ matrix.sum(1)) / total**2
    if chance >= 1:
        return None
    return (float(np.trace(matrix)) / total - chance) / (1 - chance)


def wilson(successes: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, honest at 0 % and 100 %."""
    share, z2 = successes / total, WILSON_Z**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = WILSON_Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)


def error_example(row: Prediction) -> ErrorExample:
    """A wrong row as reports show it."""
    around = row.around
    return ErrorExample(
        line=row.line,
        text=row.text,
        predicted=row.predicted,
        gold=row.gold,
        confidence=row.confidence,
        prev1=around.prev1 if around else None,
        next1=around.next1 if around else None,
        annotation=around.annotations[0] if around and around.annotations else None,
    )


def expert_examples(wrong: Sequence[Prediction]) -> list[ErrorExample]:
    """The first errors that an expert commented on, then others."""
    commented: list[Prediction] = []
    for row in wrong:
        if row.around and row.around.annotations:
            commented.append(row)
            if len(commented) == EXAMPLES:
                break
    others = [row for row in wrong[: 2 * EXAMPLES] if row not in commented]
    return [error_example(row) for row in [*commented, *others][:EXAMPLES]]


def confidence_bands(
    rows: Sequence[Prediction], wrong: Sequence[Prediction]
) -> tuple[list[ConfidenceBand], float | None]:
    """Rows and errors by confidence, and the share of errors with a high one (None: no error has any)."""
    everything, errors = Counter(map(_band, rows)), Counter(map(_band, wrong))
    bands = [
        ConfidenceBand(
            band=band,
            rows=everything[band],
            errors=errors[band],
            share_of_errors=errors[band] / len(wrong) if wrong else 0.0,
            error_rate=errors[band] / everything[band] if everything[band] else None,
        )
        for band in ("high", "medium", "low", "unknown")
        if band != "unknown" or everything[band]
    ]
    return bands, errors["high"] / len(wrong) if errors.total() > errors["unknown"] else None


def _band(row: Prediction) -> str:
    if row.confidence is None:
        return "unknown"
    if row.confidence >= HIGH_CONFIDENCE:
        return "high"
    return "medium" if row.confidence >= LOW_CONFIDENCE else "low"


def _confusions(
    matrix: NDArray[np.int64],
    labels: Sequence[str],
    wrong: Sequence[Prediction],
    charter: Charter,
    language: Language,
) -> tuple[list[Confusion], str | None]:
    """Every confusion that occurs, most frequent first, the first five with cause, action and examples."""
    tests = confusion_tests(matrix)
    cells = np.argwhere((matrix > 0) & ~np.eye(len(labels), dtype=bool)).tolist()
    cells.sort(key=lambda cell: (-int(matrix[cell[0], cell[1]]), cell))
    confusions = []
    for row, column in cells:
        count = int(matrix[row, column])
        confusion = Confusion(
            predicted=labels[row], gold=labels[column], count=count, share_of_errors=count / len(wrong)
        )
        if tests is not None:
            expected, found = tests
            confusion.expected = float(expected[row, column])
            confusion.p_value, confusion.p_adjusted = found[row, column]
            confusion.significant = confusion.p_adjusted < ALPHA
        confusions.append(confusion)
    for confusion in confusions[:TOP_CONFUSIONS]:
        known = known_confusion(charter, confusion.predicted, confusion.gold)
        confusion.cause = (known.cause if known else charter.default_cause).say(language)
        confusion.action = (known.action if known else charter.default_action).say(language)
    _add_examples(confusions[:TOP_CONFUSIONS], wrong)
    note = reason("too_few_labels_to_test", language) if tests is None and confusions else None
    return confusions, note


def _add_examples(confusions: Sequence[Confusion], wrong: Sequence[Prediction]) -> None:
    open_ones = {(confusion.predicted, confusion.gold): confusion for confusion in confusions}
    for row in wrong:
        confusion = open_ones.get((row.predicted, row.gold))
        if confusion is None:
            continue
        if row.text not in {example.text for example in confusion.examples}:
            confusion.examples.append(error_example(row))
        if len(confusion.examples) == EXAMPLES:
            del open_ones[row.predicted, row.gold]
            if not open_ones:
                return
