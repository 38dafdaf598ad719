"""Figures of a classifier: accuracy, precision, recall, F1, kappa, confusion matrix, calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import cohen_kappa_score, precision_recall_fscore_support

from finetuneflow.errors import DatasetError
from finetuneflow.evaluation.significance import wilson
from finetuneflow.metrics.calibration import (
    COLDEST,
    HOTTEST,
    at_temperature,
    brier,
    chance_calibration_error,
    equal_mass_bins,
    expected_calibration_error,
    fit_temperature,
)
from finetuneflow.schemas.classification import Calibration, ClassificationScores, ReliabilityBin

KAPPA_UNDEFINED = "kappa is undefined: gold and predicted are all one label, so chance alone agrees"
NO_PROBABILITIES = "the probabilities of the labels are not known"
NO_VALIDATION = "there is no validation data to fit a temperature on"
AT_THE_END = "the temperature is at the end of its range: every validation answer may be right, or none"

Probabilities = tuple[Sequence[str], ArrayLike]
"""Gold labels and probabilities (items, labels) of a validation split."""


def all_labels(declared: Sequence[str], gold: Sequence[str], predicted: Sequence[str]) -> list[str]:
    """The declared labels in their order, then unknown ones met in gold or predictions, sorted.

    An unknown prediction gets a row of its own instead of vanishing: macro figures depend on the list of
    labels.
    """
    known = set(declared)
    return [*declared, *sorted((set(gold) | set(predicted)) - known)]


def score(
    gold: Sequence[str],
    predicted: Sequence[str],
    labels: Sequence[str] = (),
    *,
    probabilities: ArrayLike | None = None,
    validation: Probabilities | None = None,
) -> ClassificationScores:
    """All figures of predictions against gold labels; a label nobody used scores 0, as in scikit-learn.

    Args:
        gold: Right labels.
        predicted: Labels that were given.
        labels: The label map, in the order of the model.
        probabilities: (items, labels) in that order, for the calibration.
        validation: Gold labels and probabilities of the validation split, to fit a temperature on.

    Raises:
        DatasetError: no items, or numbers of gold labels, predictions or probabilities that differ.
    """
    if not gold or len(gold) != len(predicted):
        raise DatasetError(
            f"{len(gold)} gold labels and {len(predicted)} predictions cannot be compared",
            "an evaluation needs at least one item, and one prediction for each",
        )
    names = all_labels(labels, gold, predicted)
    pairs = Counter(zip(gold, predicted, strict=True))
    precision, recall, f1, support = precision_recall_fscore_support(
        gold, predicted, labels=names, average=None, zero_division=0
    )
    share = support / support.sum()
    agreement = kappa(gold, predicted, names)
    return ClassificationScores(
        items=len(gold),
        accuracy=sum(a == b for a, b in zip(gold, predicted, strict=True)) / len(gold),
        macro_precision=float(precision.mean()),
        macro_recall=float(recall.mean()),
        macro_f1=float(f1.mean()),
        weighted_precision=float(share @ precision),
        weighted_recall=float(share @ recall),
        weighted_f1=float(share @ f1),
        kappa=agreement,
        kappa_reason=KAPPA_UNDEFINED if agreement is None else "",
        per_label={
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": float(support[i]),
            }
            for i, name in enumerate(names)
        },
        confusion=[[pairs[row, column] for column in names] for row in names],
        labels=names,
        calibration=None if probabilities is None else calibrate(gold, probabilities, labels, validation),
        calibration_reason=NO_PROBABILITIES if probabilities is None else "",
    )


def kappa(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> float | None:
    """Cohen's kappa, or None where it is undefined (`KAPPA_UNDEFINED` says why)."""
    if len(set(gold) | set(predicted)) < 2:
        return None
    return float(cohen_kappa_score(gold, predicted, labels=list(labels)))


def calibrate(
    gold: Sequence[str],
    probabilities: ArrayLike,
    labels: Sequence[str],
    validation: Probabilities | None = None,
) -> Calibration:
    """How far the probability of the likeliest label can be trusted, before and after temperature scaling.

    A gold label that the model does not know counts as an answer that is wrong, however sure.

    Raises:
        DatasetError: probabilities that do not fit the items or the labels.
    """
    values, truth = _fitting(gold, probabilities, labels)
    sure, right = values.max(axis=1), values.argmax(axis=1) == truth
    temperature, reason = _temperature(labels, validation)
    scaled = None if temperature is None else at_temperature(values, temperature)
    return Calibration(
        items=len(truth),
        ece=expected_calibration_error(sure, right),
        ece_by_chance=chance_calibration_error(sure),
        brier=brier(values, truth),
        bins=[
            ReliabilityBin(
                items=len(part),
                confidence=float(sure[part].mean()),
                accuracy=wilson(int(right[part].sum()), len(part)),
            )
            for part in equal_mass_bins(sure)
        ],
        temperature=temperature,
        temperature_reason=reason,
        ece_scaled=None if scaled is None else expected_calibration_error(scaled.max(axis=1), right),
        brier_scaled=None if scaled is None else brier(scaled, truth),
    )


def _temperature(labels: Sequence[str], validation: Probabilities | None) -> tuple[float | None, str]:
    if validation is None:
        return None, NO_VALIDATION
    values, truth = _fitting(*validation, labels)
    known = truth >= 0
    if not known.any():
        return None, NO_VALIDATION
    fitted = fit_temperature(values[known], truth[known])
    at_the_end = fitted < COLDEST * 1.001 or fitted > HOTTEST / 1.001
    return fitted, AT_THE_END if at_the_end else ""


def _fitting(
    gold: Sequence[str], probabilities: ArrayLike, labels: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != (len(gold), len(labels)) or not values.size:
        raise DatasetError(
            f"probabilities of shape {values.shape} do not fit {len(gold)} items and {len(labels)} labels",
            "give one row for each item and one column for each label of the label map",
        )
    if not np.isfinite(values).all() or values.min() < 0 or np.abs(values.sum(axis=1) - 1).max() > 1e-3:
        raise DatasetError("the rows are not probabilities", "each row must be positive and add up to 1")
    position = {label: index for index, label in enumerate(labels)}
    return values, np.array([position.get(label, -1) for label in gold])
