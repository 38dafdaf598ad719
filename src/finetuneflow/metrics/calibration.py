"""Does 80 % sure mean right 4 times in 5: ECE, reliability curve, Brier score, temperature scaling.

Bins hold equally many items (equal-mass): with bins of equal width, nearly all items of a sure model fall
into the last one, and the figure says little. Items of the same confidence always share a bin, so no figure
depends on the order of the items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BINS = 15
COLDEST, HOTTEST = 0.05, 20.0
"""Temperatures looked at; where every answer is right, colder is always better."""
SMALLEST = 1e-12
"""Probabilities are clipped here before a logarithm is taken."""


def equal_mass_bins(confidence: ArrayLike, bins: int = BINS) -> list[NDArray[np.intp]]:
    """Indices of the items in each bin, least sure first; empty bins are left out.

    Without ties: the sorted items cut into `bins` parts whose sizes differ by one at most, larger ones first.
    """
    values = np.asarray(confidence, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    number = np.repeat(np.arange(bins), [len(part) for part in np.array_split(order, bins)])
    _, first = np.unique(values[order], return_index=True)
    number = np.repeat(number[first], np.diff([*first, len(values)]))
    return [order[number == index] for index in range(bins) if (number == index).any()]


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """Mean over items of |accuracy - confidence| of their bin, 0 to 1.

    Raises:
        ValueError: no items, or different numbers of them.
    """
    sure, right = _checked(confidence, correct)
    parts = equal_mass_bins(sure, bins)
    return float(sum(len(part) * abs(right[part].mean() - sure[part].mean()) for part in parts) / len(sure))


def chance_calibration_error(
    confidence: ArrayLike, bins: int = BINS, *, samples: int = 200, seed: int = 0
) -> float:
    """The ECE that a perfectly calibrated model with these confidences would show, on average (seeded).

    Above zero, and the more so the fewer items there are: an ECE near it proves nothing.
    """
    values = np.asarray(confidence, dtype=np.float64)
    parts = equal_mass_bins(values, bins)
    sure = values[np.concatenate(parts)]
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    expected = np.add.reduceat(sure, starts)
    rng = np.random.default_rng(seed)
    # one sample at a time: a million items times all samples would take gigabytes
    gaps = [
        np.abs(np.add.reduceat(rng.random(len(sure)) < sure, starts, dtype=np.float64) - expected).sum()
        for _ in range(samples)
    ]
    return float(np.mean(gaps) / len(sure))


def brier(probabilities: ArrayLike, gold: ArrayLike) -> float:
    """Mean squared distance from the truth, summed over labels: 0 to 2 (Brier 1950).

    Args:
        probabilities: (items, labels).
        gold: Index of the right label of each item; -1 for one that is none of the labels.
    """
    values, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(gold)
    known = truth >= 0
    right = np.where(known, values[np.arange(len(values)), np.where(known, truth, 0)], 0.0)
    # |p - y|^2 = |p|^2 - 2 p[gold] + 1
    return float(((values**2).sum(axis=1) - 2 * right + 1).mean())


def fit_temperature(probabilities: ArrayLike, gold: ArrayLike) -> float:
    """The temperature that makes the right labels likeliest (Guo et al. 2017); fit it on validation data.

    The loss is convex in 1 / temperature, so halving the interval of its slope finds the one minimum. Clamped
    to 0.05 to 20.

    Args:
        probabilities: (items, labels); their logarithms serve as logits.
        gold: Index of the right label of each item.

    Raises:
        ValueError: no items, or a right label that is none of the labels.
    """
    logits, truth = _logits(probabilities), np.asarray(gold)
    if not len(truth) or len(truth) != len(logits) or truth.min() < 0:
        raise ValueError("a temperature needs items, each with a right label among the labels")
    right = logits[np.arange(len(truth)), truth]
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)
    for _ in range(60):
        middle = (low + high) / 2
        weights = _softmax(logits * np.exp(middle))
        slope = ((weights * logits).sum(axis=1) - right).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def at_temperature(probabilities: ArrayLike, temperature: float) -> Floats:
    """Probabilities (items, labels) after temperature scaling; which label is likeliest never changes."""
    return _softmax(_logits(probabilities) / temperature)


def _logits(probabilities: ArrayLike) -> Floats:
    return np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST))


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float64)


def _checked(confidence: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.shape != right.shape or not sure.size:
        raise ValueError(f"{sure.size} confidences and {right.size} outcomes cannot be compared")
    return sure, right
