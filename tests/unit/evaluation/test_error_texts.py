"""What compares texts: groups of similar errors, doubtful annotations, contradictions with training data."""

from __future__ import annotations

import random

import numpy as np
import pytest

from finetuneflow.evaluation.error_clusters import LEAST_ERRORS, cluster_errors
from finetuneflow.evaluation.error_texts import telling_words, vectors
from finetuneflow.evaluation.label_errors import label_errors, out_of_fold
from finetuneflow.evaluation.training_conflicts import TrainingRow, training_conflicts
from finetuneflow.schemas.prediction import Prediction

MATTERS = {
    "facture": "la facture du mois montre un montant trop élevé pour mon abonnement",
    "panne": "la connexion internet est en panne depuis hier et la box clignote",
    "déménagement": "je déménage bientôt et voudrais transférer ma ligne à ma nouvelle adresse",
}


def texts_about(matter: str, count: int, seed: int = 0) -> list[str]:
    """Sentences with most words of one matter, in another order each."""
    rng = random.Random(f"{matter}{seed}")  # noqa: S311
    words = MATTERS[matter].split()
    return [" ".join(rng.sample(words, len(words) - 2)) + f" n{number}" for number in range(count)]


def rows_about(counts: dict[str, int], predicted: str = "x", seed: int = 0) -> list[Prediction]:
    """Rows whose gold label is their matter."""
    rows: list[Prediction] = []
    for matter, count in counts.items():
        for text in texts_about(matter, count, seed):
            rows.append(Prediction(len(rows) + 1, text, predicted, matter))
    return rows


def with_noise(share: float, seed: int = 0) -> tuple[list[Prediction], set[int]]:
    """Rows that the classifier gets right, of which some bear a wrong gold label; and the lines of those."""
    rng = random.Random(seed)  # noqa: S311
    rows, wrong = [], set()
    for row in rows_about(dict.fromkeys(MATTERS, 100), seed=seed):
        gold = row.gold
        if rng.random() < share:
            gold = rng.choice([matter for matter in MATTERS if matter != row.gold])
            wrong.add(row.line)
        rows.append(Prediction(row.line, row.text, row.gold, gold))
    return rows, wrong


def test_errors_are_grouped_by_matter_and_named_by_their_words() -> None:
    clusters, note = cluster_errors(rows_about(dict.fromkeys(MATTERS, 15)), language="fr")
    assert note is None
    assert clusters is not None
    lines = {
        line: matter
        for matter, first in zip(MATTERS, (1, 16, 31), strict=True)
        for line in range(first, first + 15)
    }
    assert all(len({lines[line] for line in cluster.lines}) == 1 for cluster in clusters)
    named = {word for cluster in clusters for word in cluster.name.split(" · ")}
    assert named & {"facture", "montant", "abonnement", "élevé"}
    assert named & {"panne", "connexion", "box", "clignote", "internet"}
    assert not named & {"la", "je", "et", "un", "est", "the"}


def test_the_same_seed_gives_the_same_groups() -> None:
    rows = rows_about(dict.fromkeys(MATTERS, 15))
    assert cluster_errors(rows, language="en", seed=3) == cluster_errors(rows, language="en", seed=3)


@pytest.mark.parametrize(
    "rows",
    [
        rows_about({"facture": LEAST_ERRORS - 1}),
        [Prediction(n, "the the of", "a", "b") for n in range(30)],
        [Prediction(n, "?!", "a", "b") for n in range(30)],
        [Prediction(n, f"only{n} once{n}", "a", "b") for n in range(30)],
    ],
    ids=["too few", "stop words", "no words", "nothing shared"],
)
def test_without_groups_the_reason_is_given(rows: list[Prediction]) -> None:
    clusters, note = cluster_errors(rows, language="en")
    assert clusters is None
    assert note


def test_equal_texts_are_one_group() -> None:
    clusters, _ = cluster_errors([Prediction(n, "same words", "a", "b") for n in range(30)], language="en")
    assert clusters is not None
    assert [cluster.size for cluster in clusters] == [30]


def test_planted_annotation_errors_are_found() -> None:
    rows, wrong = with_noise(0.06)
    found, count, note = label_errors(rows, language="en")
    assert found is not None
    lines = {row.line for row in found}
    assert count == len(found)
    assert len(lines & wrong) >= 0.9 * len(wrong)
    assert len(lines & wrong) >= 0.9 * len(lines)
    assert all(row.suggested == row.predicted for row in found)
    assert "5 folds" in note


def test_clean_annotations_raise_no_doubt() -> None:
    rows, _ = with_noise(0)
    assert label_errors(rows, language="en")[:2] == ([], 0)


def test_the_classifiers_own_probabilities_are_used_where_given() -> None:
    def row(line: int, gold: str, share: float) -> Prediction:
        shares = {"a": share, "b": 1 - share}
        return Prediction(line, "x", "a" if share > 0.5 else "b", gold, probabilities=shares)

    rows = [row(n, "a", 0.9) for n in range(20)] + [row(n, "b", 0.2) for n in range(20, 40)]
    rows += [row(40, "a", 0.05), row(41, "a", 0.4)]
    found, count, note = label_errors(rows, language="en")
    assert found is not None
    assert [one.line for one in found] == [40]
    assert count == 1
    assert "own probabilities" in note


def test_a_label_of_too_few_rows_is_not_judged_by_given_probabilities_either() -> None:
    def row(line: int, gold: str) -> Prediction:
        shares = {"a": 0.1, "b": 0.9, "rare": 0.0}
        return Prediction(line, "x", "b", gold, probabilities=shares)

    rows = [row(n, "b") for n in range(20)] + [row(n, "a") for n in range(20, 40)] + [row(40, "rare")]
    found, _, note = label_errors(rows, language="en")
    assert found is not None
    assert "rare" not in {one.gold for one in found}
    assert "40" in note


@pytest.mark.parametrize("rows", [[], rows_about({"facture": 80}), rows_about(dict.fromkeys(MATTERS, 3))])
def test_too_few_rows_to_judge_by(rows: list[Prediction]) -> None:
    found, count, note = label_errors(rows, language="fr")
    assert (found, count) == (None, 0)
    assert note


def test_copies_of_a_text_never_vouch_for_each_other() -> None:
    rng = np.random.default_rng(0)
    label_of_text = rng.integers(0, 2, 60)
    texts = [f"word{n}a word{n}b word{n}c" for n in range(60)] * 5
    given = np.tile(label_of_text, 5)
    shares = out_of_fold(texts, given, 2, seed=0)
    assert shares is not None
    # every text is of words of its own: without its copies nothing is known about it
    assert shares[np.arange(300), given].mean() < 0.6


def test_an_error_that_was_taught_is_found() -> None:
    wrong = [
        Prediction(1, "Where is my card?", "lost", "arrival"),
        Prediction(2, "please tell me when my new card will finally arrive at home", "lost", "arrival"),
        Prediction(3, "something else entirely", "lost", "arrival"),
        Prediction(4, "taught as it should be", "lost", "arrival"),
    ]
    training = [
        TrainingRow("where is my CARD", "lost", 11),
        TrainingRow("please tell me when my new card will finally arrive at home now", "lost", 12),
        TrainingRow("taught as it should be", "arrival", 13),
        TrainingRow("where is my card?", "arrival", 14),
    ]
    found, count, _ = training_conflicts(wrong, training, language="en", vectorize=vectors)
    assert found is not None
    assert [(one.line, one.training_line, one.similarity == 1.0) for one in found] == [
        (1, 11, True),
        (2, 12, False),
    ]
    assert count == 2
    exact, _, note = training_conflicts(wrong, training, language="en")
    assert exact is not None
    assert [one.line for one in exact] == [1]
    assert "scikit-learn" in note


def test_training_data_of_another_kind_is_said_to_be() -> None:
    wrong = [Prediction(1, "x", "a", "b")]
    found, count, note = training_conflicts(wrong, [TrainingRow("x", "c")], language="en")
    assert (found, count) == (None, 0)
    assert "labels" in note


def test_telling_words_in_several_scripts() -> None:
    assert telling_words("J'ai reçu l'échéance n°3, d'accord ?") == ["reçu", "échéance", "accord"]
    assert telling_words("ไฟล์") != []
    assert telling_words("银行卡") == ["银", "行", "卡"]
