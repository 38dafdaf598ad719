"""The gate: may this model be deployed? From answers and the evidence beside them; the same every time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import numpy as np

from finetuneflow import __version__
from finetuneflow.errors import UsageError
from finetuneflow.evaluation import verdict
from finetuneflow.evaluation.compare import baselines_of, compare_all, metric_values, seen_wordings
from finetuneflow.evaluation.forgetting_verdict import judge as judge_forgetting
from finetuneflow.evaluation.reason_texts import Language, Sentences
from finetuneflow.metrics import exact_match, token_f1
from finetuneflow.schemas.evaluation import Arm, EvaluationConfig, Outcome, Prediction
from finetuneflow.schemas.forgetting import ForgettingConfig
from finetuneflow.schemas.gate import (
    CheckName,
    CheckState,
    ForgettingFacts,
    GateCheck,
    GateEvidence,
    GatePolicy,
    GateResult,
    Overlap,
    ParityFacts,
)

Predictions = Mapping[Arm, Sequence[Prediction]]
"""Arm to its answers, in the order of the items."""
FORGETTING_ALPHA = 0.05
NAMED = 3
"""Items that a reason names."""


class Decision(NamedTuple):
    """What the scores and the evidence come to."""

    outcome: Outcome
    checks: list[GateCheck]
    more_items: int
    found: verdict.Assessment


def decide(
    predictions: Predictions, evidence: GateEvidence, policy: GatePolicy, language: Language
) -> GateResult:
    """The decision, with a digest over all of it.

    Raises:
        UsageError: the evaluation lacks the arm to be deployed, or anything to compare it with.
    """
    arm = policy.candidate
    config = _config(policy, evidence.metric, evidence.seed, evidence.bootstrap_samples)
    scores = _scores(predictions, evidence.metric)
    latency = _latency(predictions[arm]) if arm in predictions else 0.0
    decision = decide_scores(
        scores,
        policy,
        config,
        overlap=evidence.overlap,
        forgetting=evidence.forgetting,
        parity=evidence.parity,
        latency_p95_seconds=latency,
        language=language,
    )
    best = decision.found.best
    result = GateResult(
        outcome=decision.outcome,
        checks=decision.checks,
        more_items_needed=decision.more_items,
        baseline=best.baseline,
        score=best.score.value,
        baseline_score=best.baseline_score,
        improvement=best.difference,
        p_value=best.p_value,
        p_exact=best.p_exact,
        items=best.items,
        comparisons=compare_all(predictions, config, arm=arm),
        language=language,
        policy=policy,
        evidence=evidence,
    )
    return result.model_copy(update={"digest": digest_of(result)})


def decide_scores(
    scores: Mapping[Arm, Sequence[float]],
    policy: GatePolicy,
    config: EvaluationConfig,
    *,
    overlap: Overlap,
    forgetting: ForgettingFacts | None = None,
    parity: ParityFacts | None = None,
    latency_p95_seconds: float = 0.0,
    language: Language = "en",
) -> Decision:
    """The decision from scores (0 to 1, by arm, the same items in the same order). Raises UsageError."""
    arm = policy.candidate
    baselines = baselines_of(scores)
    if arm not in scores or not baselines:
        missing = f"arm `{arm}`" if arm not in scores else "baseline"
        raise UsageError(
            f"the evaluation has no {missing}: there is nothing to decide",
            "evaluate the run again with the arms base and tuned"
            + (" (`candidate: tuned` judges the tuned model alone)" if arm == "tuned_rag" else ""),
        )
    found = verdict.assess(scores[arm], {name: scores[name] for name in baselines}, config)
    say = Sentences("gate", language)
    checks = _score_checks(found, config, language)
    checks += _overlap_checks(say, overlap, policy)
    checks.append(_forgetting_check(say, forgetting, policy, language))
    checks.append(_parity_check(say, parity, policy))
    checks += _latency_check(say, latency_p95_seconds, policy)
    states = {check.state for check in checks}
    outcome: Outcome = "FAIL" if "missed" in states else "NOT ENOUGH DATA" if "open" in states else "PASS"
    more = found.more_items if outcome == "NOT ENOUGH DATA" else 0
    if more:
        told = verdict.more_items_reason(verdict.sentences(found, config, language), more)
        place = next(place for place, check in enumerate(checks) if check.state == "open")
        checks[place] = checks[place].model_copy(update={"reason": f"{checks[place].reason} {told}"})
    return Decision(outcome, checks, more, found)


def recompute(
    stored: GateResult,
    predictions: Predictions,
    *,
    predictions_sha256: str,
    test_set_hash: str | None = None,
    policy: GatePolicy | None = None,
) -> tuple[GateResult, list[str]]:
    """The decision made again, and what is not as it was recorded (empty: bit for bit the same).

    Args:
        stored: The record.
        predictions: The answers as they are now.
        predictions_sha256: Of their file.
        test_set_hash: Of the test set as it is now, where it is at hand.
        policy: The policy that should have been applied; null is the recorded one.

    Raises:
        UsageError: the answers lack an arm.
    """
    wanted = policy or stored.policy
    evidence = stored.evidence.model_copy(
        update={
            "predictions_sha256": predictions_sha256,
            "test_set_hash": test_set_hash or stored.evidence.test_set_hash,
            "metrics_version": metrics_version(),
        }
    )
    differences = []
    if digest_of(stored) != stored.digest:
        differences.append("the record itself was changed: its digest does not fit")
    differences += rescored(predictions, stored.evidence.metric)
    again = decide(predictions, evidence, wanted, stored.language)
    before, after = stored.model_dump(mode="json"), again.model_dump(mode="json")
    differences += [line for line in _differences(before, after) if not line.startswith("digest:")]
    return again, differences


def rescored(predictions: Predictions, metric: str) -> list[str]:
    """Answers whose recorded scores are not what the metrics give now, in words."""
    found = []
    for arm, rows in predictions.items():
        for row in rows:
            if metric == "accuracy":
                expected = (float(row.predicted == row.expected),) * 2
            else:
                expected = exact_match(row.predicted, row.expected), token_f1(row.predicted, row.expected)
            if (row.exact_match, row.token_f1) != expected:
                found.append(f"{arm}, {row.item_id}: its recorded scores are not those of its answer")
    return found[:NAMED] + ([f"… and {len(found) - NAMED} more answers"] if len(found) > NAMED else [])


def digest_of(result: GateResult) -> str:
    """SHA-256 of a result without its digest."""
    content = result.model_dump(mode="json", exclude={"digest"})
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@cache
def metrics_version() -> str:
    """Version of the program, and the hash of the code that scores an answer."""
    source = (resources.files("finetuneflow.metrics") / "text.py").read_bytes()
    return f"{__version__} {hashlib.sha256(source).hexdigest()[:16]}"


def _config(
    policy: GatePolicy, metric: Literal["exact_match", "token_f1", "accuracy"], seed: int, samples: int
) -> EvaluationConfig:
    return EvaluationConfig(
        metric=metric,
        seed=seed,
        bootstrap_samples=samples,
        min_improvement=policy.min_improvement,
        min_score=policy.min_score,
        prove_score=policy.prove_score,
        alpha=policy.alpha,
        max_false_pass=policy.max_false_pass,
    )


def _scores(predictions: Predictions, metric: str) -> dict[Arm, list[float]]:
    return {arm: metric_values(seen_wordings(rows), metric) for arm, rows in predictions.items() if rows}


def _latency(rows: Sequence[Prediction]) -> float:
    return float(np.quantile([row.latency_seconds for row in rows], 0.95))


def _score_checks(found: verdict.Assessment, config: EvaluationConfig, language: Language) -> list[GateCheck]:
    say = verdict.sentences(found, config, language)
    keys: tuple[tuple[CheckName, CheckState, str], ...] = (
        ("improvement", found.improvement, f"improvement_{found.improvement}"),
        ("score", found.score, verdict.score_key(found, config)),
        ("significance", found.significance, verdict.significance_key(found, config)),
    )
    checks = [GateCheck(name=name, state=state, reason=say(key)) for name, state, key in keys]
    if config.metric == "accuracy" and found.best.baseline == "base":
        checks.append(GateCheck(name="improvement", state="noted", reason=say("majority")))
    return checks


def _overlap_checks(say: Sentences, overlap: Overlap, policy: GatePolicy) -> list[GateCheck]:
    leaked = len(overlap.leaked)
    names = ", ".join(overlap.leaked[:NAMED]) + (" …" if leaked > NAMED else "")
    reason = say(
        "leaked" if leaked else "not_leaked",
        leaked=leaked,
        items=overlap.items,
        training=overlap.training_examples,
        names=names,
    )
    checks = [GateCheck(name="overlap", state="missed" if leaked else "met", reason=reason)]
    if overlap.in_validation:
        reason = say("in_validation", count=overlap.in_validation)
        checks.append(GateCheck(name="overlap", state="noted", reason=reason))
    if overlap.near_duplicates:
        nearest = overlap.nearest[0]
        reason = say(
            "near_duplicates",
            count=overlap.near_duplicates,
            question=nearest.question,
            training_question=nearest.training_question,
        )
        state: CheckState = "missed" if policy.near_duplicates == "fail" else "noted"
        checks.append(GateCheck(name="near_duplicates", state=state, reason=reason))
    elif overlap.note:
        state = "open" if policy.near_duplicates == "fail" else "noted"
        reason = say("near_not_looked_for", items=overlap.items, training=overlap.training_examples)
        checks.append(GateCheck(name="near_duplicates", state=state, reason=reason))
    return checks


def _forgetting_check(
    say: Sentences, facts: ForgettingFacts | None, policy: GatePolicy, language: Language
) -> GateCheck:
    if facts is None:
        demanded = policy.require_forgetting
        key = "forgetting_demanded" if demanded else "forgetting_unknown"
        return GateCheck(name="forgetting", state="open" if demanded else "noted", reason=say(key))
    families = [
        row.model_copy(
            update={
                "dropped": row.difference.value < -policy.max_family_drop - verdict.EPSILON
                and row.p_value < FORGETTING_ALPHA
            }
        )
        for row in facts.families
    ]
    config = ForgettingConfig(
        language=language,
        alpha=FORGETTING_ALPHA,
        max_family_drop=policy.max_family_drop,
        fail_bits_per_byte=policy.max_bits_per_byte_rise,
        warn_bits_per_byte=policy.max_bits_per_byte_rise,
        fail_divergence=policy.max_divergence,
        warn_divergence=policy.max_divergence,
    )
    outcome, reasons = judge_forgetting(families, facts.texts, facts.divergence, facts.prompts, config)
    failed = outcome == "FAIL"
    told = say("forgetting_failed" if failed else "forgetting_kept", reasons=" ".join(reasons))
    return GateCheck(name="forgetting", state="missed" if failed else "met", reason=told)


def _parity_check(say: Sentences, facts: ParityFacts | None, policy: GatePolicy) -> GateCheck:
    if facts is None:
        demanded = policy.require_parity
        key = "parity_demanded" if demanded else "parity_unknown"
        return GateCheck(name="parity", state="open" if demanded else "noted", reason=say(key))
    key = "parity_passed" if facts.passed else "parity_failed"
    told = say(key, export=facts.export_id, quantization=facts.quantization or "GGUF", reason=facts.reason)
    return GateCheck(name="parity", state="met" if facts.passed else "missed", reason=told.strip())


def _latency_check(say: Sentences, seconds: float, policy: GatePolicy) -> list[GateCheck]:
    limit = policy.max_latency_p95_seconds
    if limit is None:
        return []
    met = seconds <= limit
    shown = {"seconds": say.number(f"{seconds:.2f}"), "limit": say.number(f"{limit:g}")}
    reason = say("latency_met" if met else "latency_missed", **shown)
    return [GateCheck(name="latency", state="met" if met else "missed", reason=reason)]


def _differences(before: Any, after: Any, place: str = "") -> list[str]:
    """Where two JSON values differ: `place: before → after`."""
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        return [
            line
            for key in before
            for line in _differences(before[key], after[key], f"{place}.{key}" if place else key)
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for number, (a, b) in pairs for line in _differences(a, b, f"{place}[{number}]")]
    return [f"{place}: {_short(before)} recorded, {_short(after)} now"]


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
