import numpy as np
import pytest

from finetuneflow.evaluation.significance import (
    bootstrap_difference,
    bootstrap_mean,
    holm,
    items_for_power,
    mcnemar,
    mcnemar_mid_p,
    paired_p,
    sign_flip,
    wilson,
)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(6, 0) == pytest.approx(2 / 64)
    assert mcnemar(9, 1) == mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)


def test_mid_p_counts_the_result_at_hand_by_half() -> None:
    assert mcnemar_mid_p(0, 0) == 1.0
    assert mcnemar_mid_p(4, 4) == pytest.approx(1.0)
    assert mcnemar_mid_p(6, 0) == pytest.approx(2 / 64 / 2)
    assert mcnemar_mid_p(9, 1) == mcnemar_mid_p(1, 9) == pytest.approx((2 * 1 + 10) / 1024)
    assert all(mcnemar_mid_p(w, 20 - w) <= mcnemar(w, 20 - w) for w in range(21))


@pytest.mark.parametrize(("items", "discordant"), [(200, 0.08), (400, 0.15), (1000, 0.3)])
def test_a_thousand_equal_models_raise_a_false_alarm_as_often_as_alpha_says(
    items: int, discordant: float
) -> None:
    rng = np.random.default_rng(1)
    claimed = exact = 0
    for _ in range(1000):
        base = rng.random(items) < 0.8
        changed = rng.random(items) < discordant
        # an equal model: of the changed items, as many are lost as are won, on average
        won = changed & (rng.random(items) < 0.5)
        ours = np.where(changed, won, base)
        theirs = np.where(changed, ~won, base)
        claimed += paired_p(ours, theirs) < 0.05
        exact += mcnemar(int((ours & ~theirs).sum()), int((theirs & ~ours).sum())) < 0.05
    assert 0.03 <= claimed / 1000 <= 0.07
    assert exact <= claimed


def test_graded_scores_raise_a_false_alarm_as_often_as_alpha_says() -> None:
    rng = np.random.default_rng(2)
    alarms = 0
    for trial in range(1000):
        base = rng.random(100)
        first, second = (
            np.clip(base + rng.normal(0, 0.3, 100) * (rng.random(100) < 0.3), 0, 1) for _ in "ab"
        )
        alarms += sign_flip(first, second, samples=500, seed=trial) < 0.05
    assert 0.03 <= alarms / 1000 <= 0.07


def test_sign_flips_see_by_how_much_and_are_seeded() -> None:
    base = np.full(40, 0.5)
    # as many go up as go down: the sign test is blind, the mean is not
    ours = base + np.tile([0.4, -0.05], 20)
    assert mcnemar(20, 20) == 1.0
    assert paired_p(ours, base) < 0.01
    assert sign_flip(ours, base, seed=3) == sign_flip(ours, base, seed=3)
    assert sign_flip(base, base) == paired_p(base, base) == 1.0
    # all 2^8 signs, of which two are as far from zero
    exact = sign_flip(np.linspace(1, 2, 8), np.zeros(8), samples=100_000)
    assert exact == pytest.approx(2 / 256, abs=0.002)
    with pytest.raises(ValueError, match="same items"):
        sign_flip([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least one"):
        paired_p([], [])


def test_holm_equals_the_worked_example() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert holm({"x": 0.9, "y": 0.8}) == {"x": 1.0, "y": 1.0}
    assert holm({}) == {}


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
