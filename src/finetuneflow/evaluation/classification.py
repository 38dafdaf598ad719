"""Figures of a classifier: accuracy, macro precision, recall, F1, kappa, per label, confusion matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sklearn.metrics import cohen_kappa_score, precision_recall_fscore_support

from finetuneflow.errors import DatasetError
from finetuneflow.schemas.evaluation import ClassificationScores

KAPPA_UNDEFINED = "kappa is undefined: gold and predicted are all one label, so chance alone agrees"


def all_labels(declared: Sequence[str], gold: Sequence[str], predicted: Sequence[str]) -> list[str]:
    """The declared labels in their order, then unknown ones met in gold or predictions, sorted.

    An unknown prediction gets a row of its own instead of vanishing: macro figures depend on the list of
    labels.
    """
    known = set(declared)
    return [*declared, *sorted((set(gold) | set(predicted)) - known)]


def score(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str] = ()) -> ClassificationScores:
    """All figures of predictions against gold labels; a label nobody used scores 0, as in scikit-learn.

    Raises:
        DatasetError: no items, or different numbers of gold labels and predictions.
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
    return ClassificationScores(
        items=len(gold),
        accuracy=sum(a == b for a, b in zip(gold, predicted, strict=True)) / len(gold),
        macro_precision=float(precision.mean()),
        macro_recall=float(recall.mean()),
        macro_f1=float(f1.mean()),
        kappa=kappa(gold, predicted, names),
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
    )


def kappa(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> float | None:
    """Cohen's kappa, or None where it is undefined (`KAPPA_UNDEFINED` says why)."""
    if len(set(gold) | set(predicted)) < 2:
        return None
    return float(cohen_kappa_score(gold, predicted, labels=list(labels)))
