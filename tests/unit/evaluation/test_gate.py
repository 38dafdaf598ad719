"""The gate's promises: equal models hardly ever pass, better ones nearly always, leaked questions never."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from finetuneflow.errors import UsageError
from finetuneflow.evaluation.gate import Decision, decide, decide_scores, metrics_version, recompute
from finetuneflow.schemas.evaluation import EvaluationConfig, Prediction
from finetuneflow.schemas.forgetting import FamilyResult, TextChange, TextLikelihood
from finetuneflow.schemas.gate import (
    ForgettingFacts,
    GateEvidence,
    GatePolicy,
    ModelFacts,
    NearDuplicate,
    Overlap,
    ParityFacts,
)
from finetuneflow.schemas.interval import Interval
from finetuneflow.services import gate_policy

POLICY = gate_policy.load()
CONFIG = EvaluationConfig()
CLEAN = Overlap(items=100, training_examples=1000, training_sha256="0")
LEAKED = CLEAN.model_copy(update={"leaked": ["test-00007"]})
Scores = NDArray[np.float64]


def pairs(
    rng: np.random.Generator, items: int, accuracy: float, won: float, lost: float
) -> tuple[Scores, Scores]:
    """Right and wrong of a tuned model and its base; the base has `accuracy`."""
    shares = [accuracy - lost, won, lost, 1 - accuracy - won]
    kind = rng.choice(4, size=items, p=shares)
    return (kind <= 1).astype(float), ((kind == 0) | (kind == 2)).astype(float)


def look(tuned: Scores, base: Scores, policy: GatePolicy = POLICY, overlap: Overlap = CLEAN) -> Decision:
    scores = {"base": list(base), "tuned": list(tuned)}
    config = CONFIG.model_copy(
        update=policy.model_dump(include=set(EvaluationConfig.model_fields) & set(GatePolicy.model_fields))
    )
    return decide_scores(scores, policy, config, overlap=overlap)  # type: ignore[arg-type]


def states(decision: Decision) -> dict[str, str]:
    return {check.name: check.state for check in decision.checks}


@pytest.mark.parametrize(
    ("accuracy", "discordant"), [(0.84, 0.20), (0.86, 0.12), (0.88, 0.15), (0.90, 0.18), (0.95, 0.09)]
)
def test_an_equal_model_passes_in_under_two_percent_of_trials(accuracy: float, discordant: float) -> None:
    rng = np.random.default_rng(4)
    half = discordant / 2
    passed = [look(*pairs(rng, 200, accuracy, half, half)).outcome == "PASS" for _ in range(500)]
    assert np.mean(passed) < 0.02


def test_no_share_of_discordant_pairs_lets_an_equal_model_pass_more_often() -> None:
    loose = POLICY.model_copy(update={"min_improvement": 0.0, "min_score": 0.0})
    for discordant in (5, 9, 14, 20, 33, 60):
        passing = [
            won
            for won in range(discordant + 1)
            if look(
                np.array([1.0] * won + [0.0] * (discordant - won) + [1.0] * 40),
                np.array([0.0] * won + [1.0] * (discordant - won) + [1.0] * 40),
                loose,
            ).outcome
            == "PASS"
        ]
        assert binom.pmf(passing, discordant, 0.5).sum() < 0.015, discordant


def test_a_truly_better_model_passes_in_over_ninety_percent_of_trials() -> None:
    rng = np.random.default_rng(8)
    passed = [look(*pairs(rng, 800, 0.82, 0.115, 0.035)).outcome == "PASS" for _ in range(500)]
    assert np.mean(passed) > 0.9


@pytest.mark.parametrize(("items", "discordant"), [(100, 0.15), (200, 0.15), (800, 0.12)])
def test_the_p_that_it_uses_raises_a_false_alarm_in_three_to_seven_percent(
    items: int, discordant: float
) -> None:
    rng = np.random.default_rng(3)
    half = discordant / 2
    p_values = [look(*pairs(rng, items, 0.87, half, half)).found.best.p_value for _ in range(1000)]
    assert 0.03 <= np.mean(np.array(p_values) < 0.05) <= 0.07


def test_leaked_questions_always_fail_however_good_the_scores() -> None:
    rng = np.random.default_rng(5)
    kindest = POLICY.model_copy(
        update={"min_improvement": 0.0, "min_score": 0.0, "alpha": 1.0, "max_false_pass": 1.0}
    )
    for policy in (POLICY, kindest):
        for _ in range(100):
            tuned, base = pairs(rng, 300, 0.5, 0.45, 0.0)
            assert look(tuned, base, policy).outcome == "PASS"
            decision = look(tuned, base, policy, LEAKED)
            assert decision.outcome == "FAIL"
            assert states(decision)["overlap"] == "missed"


def test_too_few_items_ask_for_more_and_the_number_is_told() -> None:
    decision = look(np.ones(9), np.array([1.0] * 5 + [0.0] * 4))
    assert decision.outcome == "NOT ENOUGH DATA"
    assert 1 <= decision.more_items < 100
    assert any(f"About {decision.more_items} more" in check.reason for check in decision.checks)


def test_a_strict_policy_wants_the_score_proven() -> None:
    tuned, base = np.array([1.0] * 88 + [0.0] * 12), np.zeros(100)
    assert look(tuned, base).outcome == "PASS"
    strict = look(tuned, base, POLICY.model_copy(update={"prove_score": True}))
    assert strict.outcome == "NOT ENOUGH DATA"
    assert "not proven" in " ".join(check.reason for check in strict.checks)
    enough = np.array([1.0] * 879 + [0.0] * 121), np.zeros(1000)
    assert look(*enough, POLICY.model_copy(update={"prove_score": True})).outcome == "PASS"


def forgotten(drop: float, *, rise: float = 0.0, divergence: float = 0.1) -> ForgettingFacts:
    before = TextLikelihood(tokens=10, bytes=50, nats=10, perplexity=2.7, bits_per_byte=0.3)
    return ForgettingFacts(
        job_id="forget-1",
        suite_hash="0",
        families=[
            FamilyResult(
                family="json",
                items=40,
                base=0.9,
                tuned=0.9 - drop,
                difference=Interval(value=-drop, low=-drop, high=0),
                wins=0,
                losses=round(40 * drop),
                p_value=0.001,
                p_exact=0.002,
                p_holm=0.001,
                dropped=drop > 0.05,
            )
        ],
        texts={"en": TextChange(base=before, tuned=before, rise=rise)},
        divergence=Interval(value=divergence, low=divergence, high=divergence),
        prompts=100,
    )


@pytest.mark.parametrize(
    ("facts", "keys", "expected"),
    [
        (None, {}, "noted"),
        (None, {"require_forgetting": True}, "open"),
        (forgotten(0.0), {}, "met"),
        (forgotten(0.3), {}, "missed"),
        (forgotten(0.3), {"max_family_drop": 0.5}, "met"),
        (forgotten(0.04), {"max_family_drop": 0.01}, "missed"),
        (forgotten(0.0, rise=0.2), {}, "missed"),
        (forgotten(0.0, rise=0.2), {"max_bits_per_byte_rise": 0.5}, "met"),
        (forgotten(0.0, divergence=3.0), {}, "missed"),
    ],
)
def test_forgetting_counts_when_it_was_measured_and_is_demanded_only_by_the_policy(
    facts: ForgettingFacts | None, keys: dict[str, object], expected: str
) -> None:
    policy = POLICY.model_copy(update=keys)
    scores = {"base": [0.0] * 100, "tuned": [1.0] * 100}
    decision = decide_scores(scores, policy, CONFIG, overlap=CLEAN, forgetting=facts)  # type: ignore[arg-type]
    assert states(decision)["forgetting"] == expected
    outcome = {"noted": "PASS", "met": "PASS", "open": "NOT ENOUGH DATA", "missed": "FAIL"}[expected]
    assert decision.outcome == outcome


@pytest.mark.parametrize(
    ("facts", "required", "expected"),
    [
        (None, False, "noted"),
        (None, True, "open"),
        (ParityFacts(export_id="export-1", passed=True), False, "met"),
        (ParityFacts(export_id="export-1", passed=False), False, "missed"),
    ],
)
def test_a_gguf_export_must_have_passed_its_check(
    facts: ParityFacts | None, required: bool, expected: str
) -> None:
    policy = POLICY.model_copy(update={"require_parity": required})
    scores = {"base": [0.0] * 100, "tuned": [1.0] * 100}
    decision = decide_scores(scores, policy, CONFIG, overlap=CLEAN, parity=facts)  # type: ignore[arg-type]
    assert states(decision)["parity"] == expected


def test_near_duplicates_are_reported_and_fail_only_when_the_policy_says_so() -> None:
    near = NearDuplicate(item_id="a", question="Who?", training_question="Who then?", similarity=0.9)
    overlap = CLEAN.model_copy(update={"near_duplicates": 1, "nearest": [near]})
    tuned, base = np.ones(100), np.zeros(100)
    told = look(tuned, base, overlap=overlap)
    assert (told.outcome, states(told)["near_duplicates"]) == ("PASS", "noted")
    assert look(tuned, base, POLICY.model_copy(update={"near_duplicates": "fail"}), overlap).outcome == "FAIL"


def test_answers_that_come_too_late_fail_where_the_policy_asks() -> None:
    policy = POLICY.model_copy(update={"max_latency_p95_seconds": 2.0})
    scores = {"base": [0.0] * 100, "tuned": [1.0] * 100}

    def at(seconds: float) -> str:
        return decide_scores(scores, policy, CONFIG, overlap=CLEAN, latency_p95_seconds=seconds).outcome  # type: ignore[arg-type]

    assert (at(1.9), at(2.1)) == ("PASS", "FAIL")


def test_without_a_baseline_or_the_candidate_there_is_nothing_to_decide() -> None:
    with pytest.raises(UsageError, match="baseline"):
        decide_scores({"tuned": [1.0]}, POLICY, CONFIG, overlap=CLEAN)
    with pytest.raises(UsageError, match="tuned_rag"):
        decide_scores(
            {"base": [0.0], "tuned": [1.0]},
            POLICY.model_copy(update={"candidate": "tuned_rag"}),
            CONFIG,
            overlap=CLEAN,
        )


def answers(rights: str, arm_word: str) -> list[Prediction]:
    return [
        Prediction(
            item_id=f"test-{number:05d}",
            question=f"Question {number}?",
            expected="yes",
            predicted="yes" if right == "1" else arm_word,
            exact_match=float(right),
            token_f1=float(right),
            rouge_l=float(right),
            latency_seconds=0.1,
        )
        for number, right in enumerate(rights)
    ]


PREDICTIONS = {"base": answers("1" * 10 + "0" * 40, "no"), "tuned": answers("1" * 48 + "0" * 2, "never")}
EVIDENCE = GateEvidence(
    evaluation_id="eval-1",
    run_id="run-1",
    dataset_id="ds-1",
    dataset_hash="d",
    test_set_hash="t",
    predictions_sha256="p",
    metrics_version=metrics_version(),
    metric="exact_match",
    seed=3,
    bootstrap_samples=500,
    model=ModelFacts(
        base_model="embedded:tiny", base_fingerprint="b", kind="adapter", weights_sha256={"adapter": "w"}
    ),
    overlap=CLEAN,
)


def test_a_decision_is_made_again_bit_for_bit_from_its_own_json() -> None:
    first = decide(PREDICTIONS, EVIDENCE, POLICY, "fr")
    read = type(first).model_validate_json(first.model_dump_json(indent=2))
    again, differences = recompute(read, PREDICTIONS, predictions_sha256="p", test_set_hash="t")
    assert differences == []
    assert again.model_dump_json() == first.model_dump_json()
    assert [(row.metric, row.p_holm is not None) for row in first.comparisons] == [
        ("exact_match", True),
        ("token_f1", True),
    ]


@pytest.mark.parametrize("key", list(GatePolicy.model_fields))
def test_any_changed_threshold_is_noticed(key: str) -> None:
    first = decide(PREDICTIONS, EVIDENCE, POLICY, "en")
    value = getattr(POLICY, key)
    words: dict[str, object] = {
        "candidate": "tuned_rag",
        "near_duplicates": "fail",
        "max_latency_p95_seconds": 9.0,
    }
    other = words[key] if key in words else not value if isinstance(value, bool) else value * 0.999
    changed = POLICY.model_copy(update={key: other})
    forged = first.model_copy(update={"policy": changed})
    candidates = {**PREDICTIONS, "tuned_rag": PREDICTIONS["tuned"]}
    _, differences = recompute(forged, candidates, predictions_sha256="p")  # type: ignore[arg-type]
    assert any("digest" in line for line in differences)
    _, differences = recompute(first, candidates, predictions_sha256="p", policy=changed)  # type: ignore[arg-type]
    assert any(line.startswith(f"policy.{key}") for line in differences)


@pytest.mark.parametrize("arm", ["base", "tuned"])
def test_any_changed_answer_is_noticed_without_looking_at_the_hash_of_the_file(arm: str) -> None:
    first = decide(PREDICTIONS, EVIDENCE, POLICY, "en")
    for position in (0, 20, 49):
        rows = [row.model_copy() for row in PREDICTIONS[arm]]
        before = rows[position]
        rows[position] = before.model_copy(
            update={"predicted": "no idea at all" if before.exact_match else "yes"}
        )
        changed = {**PREDICTIONS, arm: rows}
        _, differences = recompute(first, changed, predictions_sha256="p")
        assert any(before.item_id in line for line in differences)
        flipped = 1 - before.exact_match
        rows[position] = rows[position].model_copy(update={"exact_match": flipped, "token_f1": flipped})
        _, differences = recompute(first, changed, predictions_sha256="p")
        assert any("recorded" in line for line in differences)


def test_another_file_test_set_or_metric_code_is_noticed() -> None:
    first = decide(PREDICTIONS, EVIDENCE, POLICY, "en")
    _, differences = recompute(first, PREDICTIONS, predictions_sha256="x", test_set_hash="y")
    text = " ".join(differences)
    assert "evidence.predictions_sha256" in text
    assert "evidence.test_set_hash" in text
    old = decide(PREDICTIONS, EVIDENCE.model_copy(update={"metrics_version": "0.1 ffff"}), POLICY, "en")
    _, differences = recompute(old, PREDICTIONS, predictions_sha256="p")
    assert any(line.startswith("evidence.metrics_version") for line in differences)
