"""Errors whose text stands in the training data under another label: there the model learnt its mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from finetuneflow.evaluation.error_report import reason
from finetuneflow.metrics import normalize
from finetuneflow.schemas.error_report import Language, TrainingConflict
from finetuneflow.schemas.prediction import Prediction

SIMILAR = 0.9
MOST_ERRORS = 5_000
MOST_TRAINING = 50_000
"""Beyond these, only equal texts are compared."""
LISTED = 100
BLOCK = 500

Found = tuple[list[TrainingConflict] | None, int, str]


class TrainingRow(NamedTuple):
    """A training example as it is compared."""

    text: str
    label: str
    line: int | None = None


def training_conflicts(
    wrong: Sequence[Prediction],
    training: Sequence[TrainingRow],
    *,
    language: Language,
    vectorize: Any = None,
) -> Found:
    """Conflicts (at most 100), how many there are, and what was compared; None with the reason.

    Args:
        wrong: The errors.
        training: Rows of the training data.
        language: Of the note.
        vectorize: `error_texts.vectors`, where scikit-learn is installed; without it only equal texts.
    """
    labels = {row.gold for row in wrong} | {row.predicted for row in wrong}
    known = [row for row in training if row.label in labels]
    if wrong and not known:
        return None, 0, reason("training_not_classified", language)
    found = _equal(wrong, known)
    small = len(wrong) <= MOST_ERRORS and len(known) <= MOST_TRAINING
    if vectorize is not None and small and wrong:
        places = [place for place in range(len(wrong)) if place not in found]
        near = _alike([wrong[place] for place in places], known, vectorize)
        found |= {places[place]: conflict for place, conflict in near.items()}
    conflicts = sorted(found.values(), key=lambda conflict: (-conflict.similarity, conflict.line))
    key = "compared" if vectorize is not None and small else "compared_exactly"
    note = reason(key, language, errors=len(wrong), training=len(known))
    return conflicts[:LISTED], len(conflicts), note


def _equal(wrong: Sequence[Prediction], training: Sequence[TrainingRow]) -> dict[int, TrainingConflict]:
    by_text: dict[str, dict[str, TrainingRow]] = {}
    for row in training:
        by_text.setdefault(normalize(row.text), {}).setdefault(row.label, row)
    found = {}
    for place, error in enumerate(wrong):
        of_label = by_text.get(normalize(error.text), {})
        # the label that was predicted explains most
        other = of_label.get(error.predicted) or next(
            (row for label, row in of_label.items() if label != error.gold), None
        )
        if other is not None:
            found[place] = _conflict(error, other, 1.0)
    return found


def _alike(
    wrong: Sequence[Prediction], training: Sequence[TrainingRow], vectorize: Any
) -> dict[int, TrainingConflict]:
    if not wrong:
        return {}
    matrix, _ = vectorize([row.text for row in wrong] + [row.text for row in training])
    if matrix is None:
        return {}
    errors, others = matrix[: len(wrong)], matrix[len(wrong) :].T.tocsr()
    found: dict[int, TrainingConflict] = {}
    for start in range(0, len(wrong), BLOCK):
        likeness = (errors[start : start + BLOCK] @ others).tocoo()
        near = likeness.data >= SIMILAR
        for place, column, value in sorted(
            zip(
                likeness.row[near].tolist(),
                likeness.col[near].tolist(),
                likeness.data[near].tolist(),
                strict=True,
            ),
            key=lambda hit: -hit[2],
        ):
            error, other = wrong[start + place], training[column]
            if other.label != error.gold:
                # nearly: 1.0 is kept for the same text
                found.setdefault(start + place, _conflict(error, other, min(float(value), 0.999)))
    return found


def _conflict(error: Prediction, other: TrainingRow, similarity: float) -> TrainingConflict:
    return TrainingConflict(
        line=error.line,
        text=error.text,
        gold=error.gold,
        predicted=error.predicted,
        training_text=other.text,
        training_label=other.label,
        training_line=other.line,
        similarity=similarity,
    )
