"""What to do with what was measured: the guide's decision table."""

import pytest

from finetuneflow.evaluation.recommendation import recommend
from finetuneflow.schemas.evaluation import Arm, EvaluationConfig, Recommendation

CONFIG = EvaluationConfig()


def told(items: int = 400, language: str = "en", **shares: float) -> Recommendation:
    scores: dict[Arm, list[float]] = {
        arm: [1.0] * round(share * items) + [0.0] * (items - round(share * items))  # type: ignore[misc]
        for arm, share in shares.items()
    }
    latencies: dict[Arm, float] = {"base": 0.5, "rag": 3.0, "tuned": 1.0, "tuned_rag": 3.0}
    found = recommend(scores, CONFIG, latencies=latencies, language=language)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("shares", "choice"),
    [
        ({"base": 0.95, "rag": 0.95, "tuned": 0.96}, "keep_base"),
        ({"base": 0.40, "rag": 0.95, "tuned": 0.95, "tuned_rag": 0.96}, "retrieval"),
        ({"base": 0.40, "rag": 0.60, "tuned": 0.95, "tuned_rag": 0.96}, "fine_tune"),
        ({"base": 0.40, "rag": 0.70, "tuned": 0.80, "tuned_rag": 0.95}, "both"),
        ({"base": 0.40, "rag": 0.88, "tuned": 0.70, "tuned_rag": 0.97}, "both"),
        ({"base": 0.05, "rag": 0.30, "tuned": 0.50}, "none"),
        ({"base": 0.30, "tuned": 0.95}, "fine_tune"),
    ],
)
def test_the_choice_follows_from_the_scores(shares: dict[str, float], choice: str) -> None:
    found = told(**shares)
    assert found.choice == choice
    french = told(language="fr", **shares)
    assert french.choice == choice
    assert len(french.reasons) == len(found.reasons)
    assert "{" not in " ".join([french.headline, *french.reasons])


def test_when_nothing_decides_it_says_so() -> None:
    found = told(12, base=0.75, rag=0.84, tuned=0.92)
    assert found.choice == "undecided"
    assert "too small to tell" in found.headline
    assert any("too few questions" in reason for reason in found.reasons)


def test_a_question_left_open_below_the_choice_does_not_matter() -> None:
    assert told(100, base=0.30, rag=0.32, tuned=0.95).choice == "fine_tune"


def test_it_says_what_was_not_measured_and_where_a_tuned_model_is_faster() -> None:
    assert any("not measured" in reason for reason in told(base=0.30, tuned=0.95).reasons)
    found = told(base=0.40, rag=0.95, tuned=0.95)
    assert any("3.0 times as fast" in reason for reason in found.reasons)
    slower = told(base=0.40, rag=0.95, tuned=0.60)
    assert not any("times as fast" in reason for reason in slower.reasons)


def test_one_arm_alone_recommends_nothing() -> None:
    assert recommend({"tuned": [1.0]}, CONFIG) is None


def test_a_classifiers_base_is_the_most_frequent_label_and_retrieval_is_no_question() -> None:
    scores: dict[Arm, list[float]] = {"base": [0.0] * 60 + [1.0] * 40, "tuned": [1.0] * 95 + [0.0] * 5}
    found = recommend(scores, EvaluationConfig(metric="accuracy"))
    assert found is not None
    assert found.choice == "fine_tune"
    text = " ".join(found.reasons)
    assert "always the most frequent label" in text
    assert "etrieval" not in text
