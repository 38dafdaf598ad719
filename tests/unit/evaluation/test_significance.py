import numpy as np
import pytest

from finetuneflow.evaluation.significance import (
    bootstrap_difference,
    bootstrap_mean,
    items_for_power,
    mcnemar,
    wilson,
)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(6, 0) == pytest.approx(2 / 64)
    assert mcnemar(9, 1) == mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)


def test_a_thousand_equal_models_raise_few_false_alarms() -> None:
    rng = np.random.default_rng(1)
    discordant = rng.binomial(400, 0.15, size=1000)
    wins = rng.binomial(discordant, 0.5)
    alarms = sum(mcnemar(int(w), int(d - w)) < 0.05 for w, d in zip(wins, discordant, strict=True)) / 1000
    assert 0.015 <= alarms <= 0.06


def test_a_planted_improvement_of_twenty_points_is_found() -> None:
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(200):
        base = rng.random(150) < 0.6
        tuned = np.where(base, rng.random(150) < 0.97, rng.random(150) < 0.545)  # 0.80 on average
        found += mcnemar(int((tuned & ~base).sum()), int((base & ~tuned).sum())) < 0.05
    assert found / 200 > 0.9


def test_wilson_matches_published_values_and_is_honest_at_the_ends() -> None:
    interval = wilson(81, 263)
    assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(50, 50).high == 1.0
    assert wilson(50, 50).low == pytest.approx(0.9287, abs=1e-4)
    assert wilson(0, 50).low == 0.0
    with pytest.raises(ValueError, match="at least one item"):
        wilson(0, 0)


@pytest.mark.parametrize("values", [[0.0, 1.0], list(np.linspace(0, 1, 50))])
def test_the_bootstrap_covers_the_true_mean_about_as_often_as_it_says(values: list[float]) -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(300):
        interval = bootstrap_mean(rng.choice(values, size=120), samples=400, seed=trial)
        hits += interval.low <= np.mean(values) <= interval.high
    assert 0.89 <= hits / 300 <= 0.99


def test_the_bootstrap_is_seeded_and_paired() -> None:
    rng = np.random.default_rng(4)
    base = rng.random(200)
    tuned = base + 0.1 + rng.normal(0, 0.01, 200)
    first = bootstrap_difference(tuned, base, seed=7)
    assert first == bootstrap_difference(tuned, base, seed=7)
    assert first != bootstrap_difference(tuned, base, seed=8)
    assert first.value == pytest.approx(0.1, abs=0.005)
    # unpaired, the interval would be ten times as wide
    assert first.high - first.low < 0.01
    with pytest.raises(ValueError, match="same items"):
        bootstrap_difference([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])


def test_constant_values_have_an_interval_without_width() -> None:
    interval = bootstrap_mean([1.0] * 20)
    assert (interval.low, interval.value, interval.high) == (1.0, 1.0, 1.0)


def test_items_for_power_finds_the_difference_in_about_four_of_five_trials() -> None:
    items = round(items_for_power(0.15, 0.10))
    rng = np.random.default_rng(5)
    counts = rng.multinomial(items, [0.15, 0.10, 0.75], size=400)
    assert 0.7 < sum(mcnemar(int(w), int(lost)) < 0.05 for w, lost, _ in counts) / 400 < 0.88
    assert items_for_power(0.1, 0.1) == float("inf")
