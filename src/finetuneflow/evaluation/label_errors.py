"""Gold labels that are probably wrong, by confident learning (Northcutt et al. 2021, arXiv:1911.00068).

A row is doubtful when a model that never saw it is confident of another label: as confident as it is, on
average, of rows that bear that label. The probabilities are the classifier's own where the file has all of
them, else ours, out of fold.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from finetuneflow.evaluation.error_report import reason
from finetuneflow.evaluation.error_texts import sample, vectors
from finetuneflow.schemas.error_report import LabelError, Language
from finetuneflow.schemas.prediction import Prediction

MOST_ROWS = 20_000
MOST_CELLS = 600_000
"""Rows times labels: many labels make a regression slow."""
FOLDS = 5
LEAST_PER_LABEL = FOLDS
LEAST_ROWS = 50
LISTED = 100
STRENGTH = 10.0
"""C of the regression: weak regularisation, as short texts need."""

Found = tuple[list[LabelError] | None, int, str]


def label_errors(rows: Sequence[Prediction], *, language: Language, seed: int = 0) -> Found:
    """The most doubtful rows (at most 100), how many were found, and how; None with the reason.

    Labels of fewer than five rows are not judged.
    """
    if all(row.probabilities for row in rows):
        counts = Counter(row.gold for row in rows)
        named = {label for row in rows for label in row.probabilities or ()}
        labels = sorted(
            label for label, count in counts.items() if count >= LEAST_PER_LABEL and label in named
        )
        if len(labels) > 1:
            place = {label: column for column, label in enumerate(labels)}
            judged = [row for row in rows if row.gold in place]
            given = np.fromiter((place[row.gold] for row in judged), np.int64, len(judged))
            shares = np.array(
                [[(row.probabilities or {}).get(label, 0.0) for label in labels] for row in judged],
                np.float32,
            )
            note = reason("given_probabilities", language, rows=len(judged))
            return *doubtful(judged, labels, given, shares), note
    return _by_own_model(rows, language, seed)


def _by_own_model(rows: Sequence[Prediction], language: Language, seed: int) -> Found:
    most = min(MOST_ROWS, MOST_CELLS // max(1, len({row.gold for row in rows})))
    taken = sample(rows, max(most, LEAST_ROWS), seed)
    counts = Counter(row.gold for row in taken)
    labels = sorted(label for label, count in counts.items() if count >= LEAST_PER_LABEL)
    known = set(labels)
    judged = [row for row in taken if row.gold in known]
    if len(labels) < 2 or len(judged) < LEAST_ROWS:
        note = reason("too_few_rows", language, rows=len(judged), wanted=LEAST_PER_LABEL, least=LEAST_ROWS)
        return None, 0, note
    place = {label: column for column, label in enumerate(labels)}
    given = np.fromiter((place[row.gold] for row in judged), np.int64, len(judged))
    shares = out_of_fold([row.text for row in judged], given, len(labels), seed)
    if shares is None:
        return None, 0, reason("no_telling_words", language)
    key = "own_probabilities" if len(taken) == len(rows) else "own_probabilities_sampled"
    note = reason(key, language, rows=len(judged), total=len(rows), folds=FOLDS)
    # A bag of words alone is a weak witness: it must say what the classifier under examination says.
    said = np.fromiter((place.get(row.predicted, -1) for row in judged), np.int64, len(judged))
    return *doubtful(judged, labels, given, shares, said), note


def out_of_fold(
    texts: Sequence[str], given: NDArray[np.int64], labels: int, seed: int
) -> NDArray[np.float32] | None:
    """Probabilities (texts, labels), each row's from a model fitted without it; None: not one word.

    The same text is always in one fold: a copy would give the label away.
    """
    matrix, _ = vectors(texts, shared_by=2 if len(texts) > 500 else 1)
    if matrix is None:
        return None
    folds = _folds(texts, given, seed)
    shares = np.zeros((len(texts), labels), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a loose fit is enough, and said to be one
        for fold in range(FOLDS):
            inside = folds == fold
            model = LogisticRegression(C=STRENGTH, solver="newton-cg", tol=1e-2, max_iter=50)
            model.fit(matrix[~inside], given[~inside])
            shares[np.ix_(inside, model.classes_)] = model.predict_proba(matrix[inside])
    return shares


def _folds(texts: Sequence[str], given: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A fold for every row: seeded, each label spread evenly, copies of a text together."""
    folds = np.empty(len(texts), np.int64)
    seen: Counter[int] = Counter()
    of_text: dict[str, int] = {}
    for row in np.random.default_rng(seed).permutation(len(texts)).tolist():
        label = int(given[row])
        fold = of_text.get(texts[row])
        if fold is None:
            fold = of_text[texts[row]] = seen[label] % FOLDS
            seen[label] += 1
        folds[row] = fold
    return folds


def doubtful(
    rows: Sequence[Prediction],
    labels: Sequence[str],
    given: NDArray[np.int64],
    shares: NDArray[np.float32],
    said: NDArray[np.int64] | None = None,
) -> tuple[list[LabelError], int]:
    """Rows confidently of another label than the given one, the widest gap first; all of them counted.

    `said`: labels that a second witness gave; both must agree.
    """
    everyone = np.arange(len(rows))
    own = shares[everyone, given]
    counts = np.bincount(given, minlength=len(labels))
    thresholds = np.bincount(given, own, len(labels)) / np.maximum(counts, 1)
    sure = np.where(shares >= thresholds, shares, -1.0)
    suggested = sure.argmax(1)
    found = np.flatnonzero((sure.max(1) > 0) & (suggested != given) & (sure.max(1) > own))
    if said is not None:
        found = found[said[found] == suggested[found]]
    order = found[np.argsort(own[found] - shares[found, suggested[found]], kind="stable")]
    listed = [
        LabelError(
            line=rows[place].line,
            text=rows[place].text,
            gold=rows[place].gold,
            suggested=labels[suggested[place]],
            predicted=rows[place].predicted,
            gold_probability=float(own[place]),
            suggested_probability=float(shares[place, suggested[place]]),
        )
        for place in order[:LISTED].tolist()
    ]
    return listed, len(found)
