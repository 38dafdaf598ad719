"""Is a difference real: exact McNemar, paired bootstrap, Wilson's interval. Seeded."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm

from finetuneflow.schemas.evaluation import Interval

CHUNK = 4_000_000
"""Resampled values held at once (32 MB)."""


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided exact p that wins and losses are equally likely; 1.0 when nothing differs.

    For a graded metric the wins and losses are the items that went up and down: the same test, then called
    the sign test.
    """
    return float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def wilson(successes: float, items: int, confidence: float = 0.95) -> Interval:
    """A proportion with Wilson's score interval, honest at 0 % and 100 %.

    Raises:
        ValueError: no items.
    """
    if items <= 0:
        raise ValueError("a proportion needs at least one item")
    z = float(norm.ppf(0.5 + confidence / 2))
    share = successes / items
    centre = (share + z * z / (2 * items)) / (1 + z * z / items)
    half = z / (1 + z * z / items) * math.sqrt(share * (1 - share) / items + z * z / (4 * items * items))
    # exact at the ends, where rounding would put the share outside its own interval
    return Interval(
        value=share, low=min(max(0.0, centre - half), share), high=max(min(1.0, centre + half), share)
    )


def bootstrap_mean(
    values: ArrayLike, *, samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """A mean with its percentile bootstrap interval; of paired differences, this is the paired bootstrap.

    Raises:
        ValueError: no values.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("a mean needs at least one value")
    means = _resampled_means(data, samples, np.random.default_rng(seed))
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value=float(data.mean()), low=float(low), high=float(high))


def bootstrap_difference(
    ours: ArrayLike, theirs: ArrayLike, *, samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Mean of ours - theirs on the same items, in the same order, with its paired bootstrap interval.

    Raises:
        ValueError: different numbers of items, or none.
    """
    first, second = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError("paired values must be of the same items")
    return bootstrap_mean(first - second, samples=samples, seed=seed, confidence=confidence)


def _resampled_means(
    data: NDArray[np.float64], samples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    distinct, counts = np.unique(data, return_counts=True)
    if len(distinct) <= 8:
        # exact matches have two or three distinct values: drawing their counts is the same law, and hundreds
        # of times cheaper than drawing items
        drawn = rng.multinomial(data.size, counts / data.size, size=samples)
        return np.asarray(drawn @ distinct / data.size, dtype=np.float64)
    rows = max(1, CHUNK // data.size)
    means = np.empty(samples)
    for start in range(0, samples, rows):
        stop = min(start + rows, samples)
        means[start:stop] = data[rng.integers(0, data.size, size=(stop - start, data.size))].mean(axis=1)
    return means


def items_for_power(share_won: float, share_lost: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """About how many items McNemar's test needs to see these shares of wins and losses (Connor 1987).

    Infinite when there is no difference to see.
    """
    difference, discordant = abs(share_won - share_lost), share_won + share_lost
    if difference == 0:
        return math.inf
    spread = math.sqrt(max(0.0, discordant - difference**2))
    needed = float(norm.ppf(1 - alpha / 2)) * math.sqrt(discordant) + float(norm.ppf(power)) * spread
    return (needed / difference) ** 2
