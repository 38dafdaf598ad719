import json

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    f1_score,
    precision_score,
    recall_score,
)

from finetuneflow.errors import DatasetError
from finetuneflow.evaluation.classification import KAPPA_UNDEFINED, NO_PROBABILITIES, NO_VALIDATION, score
from finetuneflow.schemas.classification import ClassificationScores

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
    assert figures.kappa_reason == KAPPA_UNDEFINED
    assert figures.accuracy == 1.0
    assert "NaN" not in figures.model_dump_json()


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(DatasetError, match="0 gold labels"):
        score([], [], LABELS)
    with pytest.raises(DatasetError, match="1 gold labels and 2"):
        score(["joy"], ["joy", "fear"], LABELS)


def drawn(seed: int, items: int = 600, labels: int = 4) -> tuple[list[str], list[str], np.ndarray]:
    """Gold labels, predictions and probabilities of a classifier that is too sure of itself."""
    rng = np.random.default_rng(seed)
    names = [f"label-{number}" for number in range(labels)]
    truth = rng.choice(labels, size=items, p=np.arange(1, labels + 1) / sum(range(1, labels + 1)))
    logits = rng.normal(0, 1, (items, labels))
    logits[np.arange(items), truth] += 1.2
    values = np.exp(2.5 * logits)
    values /= values.sum(axis=1, keepdims=True)
    return [names[i] for i in truth], [names[i] for i in values.argmax(axis=1)], values


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_the_reference_implementations(seed: int) -> None:
    gold, predicted, values = drawn(seed)
    labels = sorted(set(gold) | set(predicted))
    figures = score(gold, predicted, labels, probabilities=values)
    options = {"labels": labels, "zero_division": 0}
    assert figures.accuracy == pytest.approx(accuracy_score(gold, predicted), abs=1e-6)
    assert figures.kappa == pytest.approx(cohen_kappa_score(gold, predicted), abs=1e-6)
    for average in ("macro", "weighted"):
        for name, reference in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
            ours = getattr(figures, f"{average}_{name}")
            assert ours == pytest.approx(reference(gold, predicted, average=average, **options), abs=1e-6)
    assert figures.calibration is not None
    assert figures.calibration.brier == pytest.approx(
        brier_score_loss(gold, values, labels=labels, scale_by_half=False), abs=1e-6
    )
    assert figures.calibration.ece == pytest.approx(straightforward_ece(gold, labels, values), abs=1e-6)
    assert figures.calibration_reason == ""


def straightforward_ece(gold: list[str], labels: list[str], values: np.ndarray) -> float:
    """As the definition says, item by item: 15 bins of equally many items, sorted by confidence."""
    rows = sorted(
        (float(max(row)), labels[int(np.argmax(row))] == right)
        for row, right in zip(values, gold, strict=True)
    )
    total, begin = 0.0, 0
    for number in range(15):
        size = len(rows) // 15 + (number < len(rows) % 15)
        part = rows[begin : begin + size]
        begin += size
        if part:
            sure = sum(confidence for confidence, _ in part) / len(part)
            total += len(part) / len(rows) * abs(sum(right for _, right in part) / len(part) - sure)
    return total


def test_the_reliability_curve_has_bins_of_equally_many_items() -> None:
    gold, predicted, values = drawn(7, items=1000)
    calibration = score(gold, predicted, sorted(set(gold)), probabilities=values).calibration
    assert calibration is not None
    assert len(calibration.bins) == 15
    assert {part.items for part in calibration.bins} == {66, 67}
    sure = [part.confidence for part in calibration.bins]
    assert sure == sorted(sure)
    gap = sum(part.items * abs(part.accuracy.value - part.confidence) for part in calibration.bins) / 1000
    assert gap == pytest.approx(calibration.ece)
    assert all(part.accuracy.low <= part.accuracy.value <= part.accuracy.high for part in calibration.bins)


def test_no_figure_depends_on_the_order_of_items_that_are_equally_sure() -> None:
    gold = ["joy"] * 30 + ["anger"] * 20 + ["joy"] * 50
    values = np.array([[0.9, 0.1]] * 60 + [[0.7, 0.3]] * 40)
    order = np.random.default_rng(0).permutation(100)
    first = score(gold, ["joy"] * 100, ["joy", "anger"], probabilities=values).calibration
    mixed = score(
        [gold[i] for i in order], ["joy"] * 100, ["joy", "anger"], probabilities=values[order]
    ).calibration
    assert first is not None
    assert mixed is not None
    assert first.ece == pytest.approx(mixed.ece)
    assert [part.items for part in first.bins] == [40, 60]


def test_temperature_scaling_is_fitted_on_validation_and_mends_a_model_that_is_too_sure() -> None:
    gold, predicted, values = drawn(1, items=3000)
    validation_gold, _, validation_values = drawn(2, items=3000)
    labels = sorted(set(gold))
    calibration = score(
        gold, predicted, labels, probabilities=values, validation=(validation_gold, validation_values)
    ).calibration
    assert calibration is not None
    assert calibration.temperature is not None
    # logits were multiplied by 2.5 where 1.2 would have been honest
    assert calibration.temperature == pytest.approx(2.5 / 1.2, rel=0.1)
    assert calibration.ece_scaled is not None
    assert calibration.ece > 0.1 > 0.03 > calibration.ece_scaled
    assert calibration.brier_scaled is not None
    assert calibration.brier_scaled < calibration.brier


def test_the_fitted_temperature_is_the_minimum_of_the_loss() -> None:
    gold, predicted, values = drawn(3, items=200)
    labels = sorted(set(gold))
    calibration = score(gold, predicted, labels, probabilities=values, validation=(gold, values)).calibration
    assert calibration is not None
    assert calibration.temperature is not None
    truth = [labels.index(label) for label in gold]

    def loss(temperature: float) -> float:
        logits = np.log(values) / temperature
        return float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(200), truth]).mean())

    best = loss(calibration.temperature)
    assert all(best <= loss(t) + 1e-9 for t in np.geomspace(0.05, 20, 400))


def test_perfect_validation_answers_say_that_the_temperature_means_little() -> None:
    values = [[0.9, 0.1], [0.2, 0.8], [0.8, 0.2]]
    gold = ["joy", "anger", "joy"]
    calibration = score(
        gold, gold, ["joy", "anger"], probabilities=values, validation=(gold, values)
    ).calibration
    assert calibration is not None
    assert calibration.temperature_reason


def test_a_small_sample_shows_the_error_that_chance_alone_makes() -> None:
    rng = np.random.default_rng(4)
    sure = rng.uniform(0.5, 1, 60)
    gold = ["joy" if right else "anger" for right in rng.random(60) < sure]
    calibration = score(
        gold, ["joy"] * 60, ["joy", "anger"], probabilities=np.stack([sure, 1 - sure], axis=1)
    ).calibration
    assert calibration is not None
    # perfectly calibrated, and yet far from zero
    assert calibration.ece > 0.05
    assert calibration.ece_by_chance == pytest.approx(calibration.ece, rel=0.6)


def test_what_cannot_be_known_is_null_with_a_reason() -> None:
    without = score(["joy"], ["joy"], LABELS)
    assert (without.calibration, without.calibration_reason) == (None, NO_PROBABILITIES)
    calibration = score(["joy"], ["joy"], LABELS, probabilities=[[1.0, 0.0, 0.0]]).calibration
    assert calibration is not None
    assert (calibration.temperature, calibration.temperature_reason) == (None, NO_VALIDATION)
    assert (calibration.ece, calibration.brier) == (0.0, 0.0)


def test_a_gold_label_that_the_model_does_not_know_counts_as_wrong() -> None:
    calibration = score(["surprise"], ["joy"], LABELS, probabilities=[[0.8, 0.1, 0.1]]).calibration
    assert calibration is not None
    assert calibration.ece == pytest.approx(0.8)
    assert calibration.brier == pytest.approx(0.64 + 0.01 + 0.01 + 1)


@pytest.mark.parametrize(
    "values", [[[0.5, 0.5]], [[0.5, 0.4, 0.3]], [[1.5, -0.5, 0.0]], [[float("nan"), 0.5, 0.5]], []]
)
def test_probabilities_that_are_none_are_refused(values: list[list[float]]) -> None:
    with pytest.raises(DatasetError, match="probabilities"):
        score(["joy"], ["joy"], LABELS, probabilities=values)


def test_all_figures_survive_json() -> None:
    gold, predicted, values = drawn(5, items=80)
    figures = score(gold, predicted, sorted(set(gold)), probabilities=values, validation=(gold, values))
    again = ClassificationScores.model_validate(json.loads(figures.model_dump_json()))
    assert again == figures
