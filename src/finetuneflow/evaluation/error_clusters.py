"""Errors grouped by what their texts are about, each group named by its most telling words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack

from finetuneflow.evaluation.error_analysis import error_example
from finetuneflow.evaluation.error_report import reason
from finetuneflow.evaluation.error_texts import sample, vectors
from finetuneflow.schemas.error_report import ErrorCluster, Language
from finetuneflow.schemas.prediction import Prediction

LEAST_ERRORS = 20
MOST_ERRORS = 10_000
MOST_CLUSTERS = 40
LABEL_WEIGHT = 0.5
"""Of the predicted and of the gold label beside a text of length one."""
SMALLEST = 3
NAMED_BY = 3
EXAMPLES = 3
ROUNDS = 25
STARTS = 3


def cluster_errors(
    wrong: Sequence[Prediction], *, language: Language, seed: int = 0
) -> tuple[list[ErrorCluster] | None, str | None]:
    """Groups of at least three errors, largest first, and a note; None with the reason.

    TF-IDF without stop words, and the two labels as weaker signs, so that a group is one kind of mistake
    about one matter; spherical k-means; about the square root of half the errors groups, at most 40. Errors
    that share no telling word with others are in none.
    """
    if len(wrong) < LEAST_ERRORS:
        return None, reason("too_few_errors", language, errors=len(wrong), wanted=LEAST_ERRORS)
    taken = sample(wrong, MOST_ERRORS, seed)
    matrix, names = vectors([row.text for row in taken], telling=True, shared_by=2)
    if matrix is None:
        return None, reason("no_telling_words", language)
    spoken = np.flatnonzero(np.diff(matrix.indptr))
    matrix, taken = matrix[spoken], [taken[place] for place in spoken.tolist()]
    if len(taken) < LEAST_ERRORS:
        return None, reason("no_telling_words", language)
    count = max(2, min(MOST_CLUSTERS, round(math.sqrt(len(taken) / 2))))
    signs = _with_labels(matrix, taken)
    groups, centres = spherical_k_means(signs, count, seed)
    overall = np.asarray(matrix.mean(axis=0)).ravel()
    clusters = []
    for group in range(len(centres)):
        members = np.flatnonzero(groups == group)
        if len(members) < SMALLEST:
            continue
        near = members[np.argsort(-(signs[members] @ centres[group]), kind="stable")]
        telling = _telling(matrix[members], overall, names)
        clusters.append(_cluster(telling, [taken[place] for place in near.tolist()]))
    clusters.sort(key=lambda cluster: -cluster.size)
    note = None
    if len(wrong) > MOST_ERRORS:
        note = reason("clusters_sampled", language, sample=MOST_ERRORS, errors=len(wrong))
    return clusters, note


def _with_labels(matrix: Any, rows: Sequence[Prediction]) -> Any:
    """The matrix with a column for each predicted and each gold label; rows of unit length."""
    places = np.arange(len(rows))
    parts = [matrix]
    for labels in ([row.predicted for row in rows], [row.gold for row in rows]):
        columns = np.unique(labels, return_inverse=True)[1]
        weight = np.full(len(rows), LABEL_WEIGHT, np.float32)
        parts.append(csr_matrix((weight, (places, columns))))
    return hstack(parts, format="csr") * np.float32(1 / math.sqrt(1 + 2 * LABEL_WEIGHT**2))


def _cluster(name: str, rows: Sequence[Prediction]) -> ErrorCluster:
    (predicted, gold), most = Counter((row.predicted, row.gold) for row in rows).most_common(1)[0]
    return ErrorCluster(
        name=name,
        size=len(rows),
        predicted=predicted,
        gold=gold,
        share=most / len(rows),
        examples=[error_example(row) for row in rows[:EXAMPLES]],
        lines=sorted(row.line for row in rows),
    )


def _telling(members: Any, overall: NDArray[np.float32], names: NDArray[Any]) -> str:
    """The words that weigh most here compared with all errors; those of at least two texts."""
    weight = np.asarray(members.mean(axis=0)).ravel() - overall
    shared = np.bincount(members.indices, minlength=len(names)) >= 2
    weight[~shared] = -1
    best = np.argsort(-weight, kind="stable")[:NAMED_BY]
    return " · ".join(str(names[place]) for place in best.tolist() if weight[place] > 0) or "—"


def spherical_k_means(matrix: Any, count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Group of each row and the groups' centres (unit length): the best of three seeded starts.

    Ours, because scikit-learn's is Euclidean and takes longer to import than to run.
    """
    rng = np.random.default_rng(seed)
    best: tuple[float, NDArray[np.int64], NDArray[np.float32]] | None = None
    for _ in range(STARTS):
        centres = _spread_centres(matrix, count, rng)
        groups = np.full(matrix.shape[0], -1)
        for _ in range(ROUNDS):
            likeness = np.asarray(matrix @ centres.T)
            nearest = likeness.argmax(1)
            if np.array_equal(nearest, groups):
                break
            groups = nearest
            centres = _centres(matrix, groups, centres)
        score = float(likeness.max(1).sum())
        if best is None or score > best[0]:
            best = score, groups, centres
    assert best is not None  # noqa: S101 - STARTS is above zero
    return best[1], best[2]


def _spread_centres(matrix: Any, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """k-means++: each next centre a row drawn by how unlike it is to those there are."""
    chosen = [int(rng.integers(matrix.shape[0]))]
    unlike = np.ones(matrix.shape[0])
    while len(chosen) < count:
        last = np.asarray(matrix[chosen[-1]].todense()).ravel()
        unlike = np.minimum(unlike, np.clip(1 - matrix @ last, 0, None))
        if unlike.sum() <= 1e-9:
            break
        chosen.append(int(rng.choice(matrix.shape[0], p=unlike / unlike.sum())))
    return np.asarray(matrix[chosen].todense(), dtype=np.float32)


def _centres(matrix: Any, groups: NDArray[np.int64], old: NDArray[np.float32]) -> NDArray[np.float32]:
    centres = old.copy()
    for group in range(len(old)):
        members = np.flatnonzero(groups == group)
        if len(members):
            centre = np.asarray(matrix[members].sum(axis=0)).ravel()
            centres[group] = centre / np.linalg.norm(centre)
    return centres
