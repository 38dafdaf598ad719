import numpy as np
import pytest

from finetuneflow.evaluation.verdict import judge
from finetuneflow.schemas.evaluation import EvaluationConfig

CONFIG = EvaluationConfig()


def right(number: int, of: int) -> list[float]:
    return [1.0] * number + [0.0] * (of - number)


def test_a_clearly_better_model_passes_with_its_three_reasons() -> None:
    verdict = judge(right(96, 100), {"base": right(2, 100), "rag": right(40, 100)}, CONFIG)
    assert verdict.outcome == "PASS"
    assert (verdict.baseline, verdict.score, verdict.baseline_score) == ("rag", 0.96, 0.4)
    assert verdict.improvement == pytest.approx(0.56)
    assert verdict.more_items_needed == 0
    text = " ".join(verdict.reasons)
    assert "+56 points" in text
    assert "above 85.0%" in text
    assert "56 questions won, 0 lost" in text


def test_exactly_five_points_more_are_enough() -> None:
    assert judge(right(920, 1000), {"base": right(870, 1000)}, CONFIG).outcome == "PASS"


def test_a_low_score_fails_however_large_the_improvement() -> None:
    verdict = judge(right(60, 100), {"base": right(5, 100)}, CONFIG)
    assert verdict.outcome == "FAIL"
    assert "does not come above the 85.0%" in " ".join(verdict.reasons)


def test_a_worse_model_fails() -> None:
    verdict = judge(right(70, 100), {"base": right(95, 100)}, CONFIG)
    assert verdict.outcome == "FAIL"
    assert "worse than the base model" in " ".join(verdict.reasons)


def test_few_items_are_not_enough_data_and_say_how_many_more() -> None:
    verdict = judge(right(9, 9), {"base": right(5, 9)}, CONFIG)
    assert verdict.outcome == "NOT ENOUGH DATA"
    assert 1 <= verdict.more_items_needed < 100
    assert any("more test questions would settle it" in reason for reason in verdict.reasons)


def test_the_number_of_items_asked_for_settles_a_true_difference() -> None:
    rng = np.random.default_rng(0)
    first = judge(right(27, 30), {"base": right(24, 30)}, CONFIG)
    assert first.outcome == "NOT ENOUGH DATA"
    items = 30 + first.more_items_needed
    settled = 0
    for _ in range(200):
        base = rng.random(items) < 0.8
        tuned = base | (rng.random(items) < 0.5)
        settled += judge(tuned, {"base": base}, CONFIG).outcome == "PASS"
    assert settled > 130


def test_a_result_on_the_threshold_says_that_it_is_too_close_to_call() -> None:
    verdict = judge(right(85, 100), {"base": right(20, 100)}, CONFIG)
    assert verdict.outcome == "NOT ENOUGH DATA"
    assert verdict.more_items_needed == 100_000
    assert "too close to the threshold" in " ".join(verdict.reasons)


def test_a_handful_of_ties_rules_nothing_out_but_many_do() -> None:
    assert judge(right(3, 3), {"base": right(3, 3)}, CONFIG).outcome == "NOT ENOUGH DATA"
    assert judge(right(300, 300), {"base": right(300, 300)}, CONFIG).outcome == "FAIL"


def test_it_says_when_retrieval_is_enough() -> None:
    verdict = judge(right(96, 100), {"base": right(3, 100), "rag": right(95, 100)}, CONFIG)
    assert verdict.outcome != "PASS"
    assert "Retrieval alone reaches 95.0%" in " ".join(verdict.reasons)


def test_it_says_when_there_is_nothing_left_to_gain() -> None:
    verdict = judge(right(98, 100), {"base": right(97, 100)}, CONFIG)
    assert "do not fine-tune" in " ".join(verdict.reasons)


def test_thresholds_come_from_the_configuration() -> None:
    loose = EvaluationConfig(min_improvement=0.01, min_score=0.5)
    assert judge(right(60, 100), {"base": right(5, 100)}, loose).outcome == "PASS"
    strict = EvaluationConfig(alpha=1e-30)
    assert judge(right(96, 100), {"base": right(2, 100)}, strict).outcome == "NOT ENOUGH DATA"


def test_held_out_wordings_and_the_majority_baseline_are_named() -> None:
    verdict = judge(
        right(9, 10), {"base": right(1, 10)}, CONFIG, held_out=right(1, 4), majority_baseline=True
    )
    assert (
        "On 4 questions in wordings never seen in training, the tuned model scores 25.0%." in verdict.reasons
    )
    assert any("most frequent label" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("tuned", "base"), [(96, 2), (60, 5), (70, 95), (85, 20), (86, 80), (98, 97), (95, 95)]
)
def test_reasons_are_told_in_french_with_french_numbers(tuned: int, base: int) -> None:
    english = judge(right(tuned, 100), {"rag": right(base, 100)}, CONFIG, held_out=[1.0])
    french = judge(right(tuned, 100), {"rag": right(base, 100)}, CONFIG, held_out=[1.0], language="fr")
    assert len(french.reasons) == len(english.reasons)
    text = " ".join(french.reasons)
    assert f"{tuned},0\u202f%" in text
    assert "{" not in text


def test_equal_models_hardly_ever_pass_and_better_ones_nearly_always() -> None:
    rng = np.random.default_rng(6)

    def passed(items: int, gain: float) -> float:
        outcomes = []
        for _ in range(300):
            base = rng.random(items) < 0.84
            lost = rng.random(items) < 0.04
            won = rng.random(items) < (0.04 * 0.84 + gain) / 0.16
            tuned = np.where(base, ~lost, won)
            outcomes.append(judge(tuned, {"base": base}, CONFIG).outcome == "PASS")
        return float(np.mean(outcomes))

    assert passed(200, 0.0) < 0.02
    assert passed(800, 0.08) > 0.9
