"""How often the source of a question is found: recall@k and MRR with intervals, and kinds compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from finetuneflow.schemas.interval import Interval
from finetuneflow.schemas.retrieval import SourcedQuestion

CUTS = (1, 3, 5, 10)
DEPTH = 100
"""Ranks beyond count as not found."""
SAMPLES = 10_000
CHUNK = 4_000_000
"""Resampled values held at once (32 MB)."""
Values = NDArray[np.float64]


def recall_values(questions: Sequence[SourcedQuestion], found: Sequence[Sequence[int]], k: int) -> Values:
    """Of each question, the share of its sources (at most `k` of them) that is among the first `k`."""
    return np.array(
        [
            len(set(question.relevant) & set(positions[:k])) / min(k, len(question.relevant))
            for question, positions in zip(questions, found, strict=True)
        ]
    )


def reciprocal_ranks(questions: Sequence[SourcedQuestion], found: Sequence[Sequence[int]]) -> Values:
    """Of each question, 1/rank of its first source; 0 beyond `DEPTH`."""
    values = []
    for question, positions in zip(questions, found, strict=True):
        relevant = set(question.relevant)
        ranks = (rank for rank, position in enumerate(positions[:DEPTH], start=1) if position in relevant)
        values.append(1 / next(ranks, math.inf))
    return np.array(values)


def interval(values: Values, questions: Sequence[SourcedQuestion], *, seed: int = 0) -> Interval:
    """Mean of shares and its 95 % interval, by bootstrap (seeded) over sources.

    Questions on one passage are not independent: passages are drawn, not questions. Where every value is 0,
    or every one is 1, the interval is Wilson's, by the number of sources.

    Raises:
        ValueError: no questions.
    """
    if not len(values):
        raise ValueError("a mean needs at least one value")
    if values[0] in (0.0, 1.0) and (values == values[0]).all():
        slack = _slack(questions)
        mean = float(values[0])
        return Interval(value=mean, low=mean * (1 - slack), high=mean + (1 - mean) * slack)
    return _bootstrap(values, questions, seed)


def difference(
    ours: Values, theirs: Values, questions: Sequence[SourcedQuestion], *, seed: int = 0
) -> Interval:
    """Mean of paired differences and its 95 % interval, as `interval`; never sure that nothing differs."""
    if (ours == theirs).all():
        slack = _slack(questions)
        return Interval(value=0.0, low=-slack, high=slack)
    return _bootstrap(ours - theirs, questions, seed)


def _bootstrap(values: Values, questions: Sequence[SourcedQuestion], seed: int) -> Interval:
    _, owners = np.unique([question.relevant[0] for question in questions], return_inverse=True)
    sums = np.bincount(owners, weights=values)
    counts = np.bincount(owners).astype(np.float64)
    mean = float(values.mean())
    rng = np.random.default_rng(seed)
    means: list[float] = []
    rows = max(1, CHUNK // len(sums))
    while len(means) < SAMPLES:
        drawn = rng.integers(len(sums), size=(min(rows, SAMPLES - len(means)), len(sums)))
        means += (sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)).tolist()
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(value=mean, low=min(mean, float(low)), high=max(mean, float(high)))


def _slack(questions: Sequence[SourcedQuestion]) -> float:
    """Wilson's bound for a share of 0, where a bootstrap would claim to be sure."""
    z = NormalDist().inv_cdf(0.975)
    return z * z / (len({question.relevant[0] for question in questions}) + z * z)
