import pytest

from finetuneflow.errors import DatasetError
from finetuneflow.evaluation.classification import score

LABELS = ["joy", "anger", "fear"]


def test_figures_of_a_small_confusion_worked_by_hand() -> None:
    gold = ["joy"] * 4 + ["anger"] * 3 + ["fear"] * 3
    predicted = ["joy", "joy", "joy", "anger", "anger", "anger", "fear", "fear", "fear", "joy"]
    figures = score(gold, predicted, LABELS)
    assert figures.confusion == [[3, 1, 0], [0, 2, 1], [1, 0, 2]]
    assert figures.accuracy == pytest.approx(0.7)
    assert figures.per_label["joy"] == pytest.approx(
        {"precision": 0.75, "recall": 0.75, "f1": 0.75, "support": 4}
    )
    assert figures.macro_f1 == pytest.approx((0.75 + 2 / 3 + 2 / 3) / 3)
    chance = (4 * 4 + 3 * 3 + 3 * 3) / 100
    assert figures.kappa == pytest.approx((0.7 - chance) / (1 - chance))


def test_a_prediction_outside_the_label_map_gets_its_own_row() -> None:
    figures = score(["joy", "anger"], ["joy", "surprise"], LABELS)
    assert figures.labels == [*LABELS, "surprise"]
    assert figures.confusion[1] == [0, 0, 0, 1]
    assert sum(map(sum, figures.confusion)) == 2


def test_kappa_is_null_and_not_nan_when_there_is_one_label() -> None:
    figures = score(["joy", "joy"], ["joy", "joy"], LABELS)
    assert figures.kappa is None
    assert figures.accuracy == 1.0


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(DatasetError, match="0 gold labels"):
        score([], [], LABELS)
    with pytest.raises(DatasetError, match="1 gold labels and 2"):
        score(["joy"], ["joy", "fear"], LABELS)
