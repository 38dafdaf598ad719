"""Which confusions are more than chance: exact binomial tests against quasi-independence, Holm over all."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
_ROUNDS = 500


def expected_errors(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Errors per cell if a wrong label did not depend on the gold label: quasi-independence.

    The diagonal is left out (a wrong label is never the gold one), so the margins are those of the errors and
    the fit is iterative (proportional fitting). Both matrices: rows predicted, columns gold.
    """
    errors = confusion.astype(np.float64)
    np.fill_diagonal(errors, 0)
    rows, columns = errors.sum(1), errors.sum(0)
    fit = np.outer(rows > 0, columns > 0).astype(np.float64)
    np.fill_diagonal(fit, 0)
    for _ in range(_ROUNDS):
        fit *= _ratio(rows, fit.sum(1))[:, None]
        factor = _ratio(columns, fit.sum(0))
        fit *= factor[None, :]
        if np.all(np.abs(factor[columns > 0] - 1) < 1e-9):
            break
    return fit


def _ratio(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(wanted, found, out=np.zeros_like(wanted), where=found > 0)


def at_least(successes: int, trials: int, share: float) -> float:
    """Exact one-sided binomial p: `successes` or more of `trials`, each with probability `share`."""
    if successes <= 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    if successes <= trials * share:  # the other tail is the short one
        return 1 - at_least(trials - successes + 1, trials, 1 - share)
    log_choose = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
    log_first = log_choose + successes * math.log(share) + (trials - successes) * math.log1p(-share)
    total = term = 1.0
    for count in range(successes, trials):
        term *= (trials - count) / (count + 1) * share / (1 - share)
        total += term
        if term < total * 1e-16:
            break
    return min(1.0, math.exp(min(0.0, log_first + math.log(total))))


def confusion_tests(
    confusion: NDArray[np.int64],
) -> tuple[NDArray[np.float64], dict[tuple[int, int], tuple[float, float]]] | None:
    """Expected errors, and per confusion that occurs (predicted, gold): p, and p after Holm.

    Each is tested given how many errors its gold label has. Holm counts every cell that could hold an error.
    None with fewer than three labels: a wrong label is then always the other one.
    """
    if len(confusion) < 3:
        return None
    expected = expected_errors(confusion)
    of_gold = confusion.sum(0) - np.diag(confusion)
    found: dict[tuple[int, int], float] = {}
    for row, column in np.argwhere((confusion > 0) & ~np.eye(len(confusion), dtype=bool)).tolist():
        count, trials = int(confusion[row, column]), int(of_gold[column])
        # fewer than expected is never significant: no need to sum a long tail
        found[row, column] = (
            at_least(count, trials, expected[row, column] / trials) if count > expected[row, column] else 1.0
        )
    possible = int((expected > 0).sum())
    return expected, {cell: (p, adjusted) for cell, p, adjusted in _holm(found, possible)}


def _holm(found: dict[tuple[int, int], float], tests: int) -> list[tuple[tuple[int, int], float, float]]:
    adjusted, running = [], 0.0
    for rank, (cell, p) in enumerate(sorted(found.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (tests - rank) * p))
        adjusted.append((cell, p, running))
    return adjusted
