"""The verdict on graded scores and its second look at chance."""

import numpy as np
import pytest

from finetuneflow.evaluation.significance import mcnemar, paired_p
from finetuneflow.evaluation.verdict import assess, judge, pair
from finetuneflow.schemas.evaluation import EvaluationConfig

CONFIG = EvaluationConfig()
GRADED = EvaluationConfig(metric="token_f1")


def test_the_p_is_the_mid_p_and_the_exact_one_stands_beside_it() -> None:
    tuned = [1.0] * 95 + [0.0] * 5
    base = [1.0] * 80 + [0.0] * 20
    verdict = judge(tuned, {"base": base}, CONFIG)
    assert verdict.p_value == paired_p(tuned, base)
    assert verdict.p_exact == mcnemar(15, 0) == pytest.approx(2 * verdict.p_value)
    assert "exact McNemar: 6.1e-05" in " ".join(verdict.reasons)


def test_a_p_below_alpha_is_not_enough_where_an_equal_model_would_win_as_clearly() -> None:
    # 13 won, 4 lost: mid-p 0.031, but an equal model does as well on 2.5 % of test sets
    tuned = [1.0] * 13 + [0.0] * 4 + [1.0] * 83
    base = [0.0] * 13 + [1.0] * 4 + [1.0] * 83
    found = assess(tuned, {"base": base}, CONFIG)
    assert found.best.p_value < 0.05
    assert found.best.equal_does_as_well == pytest.approx(0.0245, abs=1e-4)
    verdict = judge(tuned, {"base": base}, CONFIG)
    assert verdict.outcome == "NOT ENOUGH DATA"
    assert "an equal model would win as clearly on 2.5% of test sets" in " ".join(verdict.reasons)
    french = judge(tuned, {"base": base}, CONFIG, language="fr")
    assert "2,5\u202f% des jeux de test" in " ".join(french.reasons)
    assert judge(tuned, {"base": base}, EvaluationConfig(max_false_pass=0.03)).outcome == "PASS"


def test_graded_scores_are_worse_when_their_mean_falls_though_more_items_rise() -> None:
    tuned = np.array([0.31] * 60 + [0.0] * 40)
    base = np.array([0.3] * 60 + [0.8] * 40)
    verdict = judge(list(tuned), {"base": list(base)}, GRADED)
    assert verdict.outcome == "FAIL"
    assert any("worse than the base model" in reason for reason in verdict.reasons)


def test_graded_scores_pass_and_are_judged_by_sign_flips() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 0.9, 200)
    tuned = np.minimum(1.0, base + rng.uniform(0.0, 0.5, 200))
    found = assess(list(tuned), {"base": list(base)}, GRADED)
    assert found.best.graded
    assert found.best.p_value == pytest.approx(1 / 10_001)
    assert found.significance == "met"


def test_graded_scores_without_a_clear_difference_ask_for_items() -> None:
    rng = np.random.default_rng(2)
    base = rng.uniform(0.6, 1.0, 12)
    tuned = np.clip(base + rng.normal(0.06, 0.2, 12), 0, 1)
    verdict = judge(list(tuned), {"base": list(base)}, GRADED)
    assert verdict.outcome == "NOT ENOUGH DATA"
    assert verdict.more_items_needed > 10


def test_intervals_of_a_difference_stay_between_minus_one_and_one() -> None:
    paired = pair([1.0] * 3, [0.0] * 3, "base")
    assert paired.difference.high == 1.0
    paired = pair([0.0] * 3, [1.0] * 3, "base")
    assert paired.difference.low == -1.0
