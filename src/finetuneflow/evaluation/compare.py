"""From predictions to figures: scores of an arm on a slice, and the paired comparison of two arms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetuneflow.evaluation.significance import bootstrap_difference, bootstrap_mean, mcnemar, wilson
from finetuneflow.schemas.evaluation import (
    Arm,
    ArmResult,
    Comparison,
    EvaluationConfig,
    Prediction,
    Scores,
)


def scores(predictions: Sequence[Prediction], config: EvaluationConfig) -> Scores:
    """Figures of one arm on one slice: Wilson's interval for exact match, else the bootstrap's."""
    seed, samples = config.seed, config.bootstrap_samples
    latencies = [prediction.latency_seconds for prediction in predictions]
    return Scores(
        items=len(predictions),
        exact_match=wilson(sum(prediction.exact_match for prediction in predictions), len(predictions)),
        token_f1=bootstrap_mean(
            [prediction.token_f1 for prediction in predictions], samples=samples, seed=seed
        ),
        rouge_l=bootstrap_mean(
            [prediction.rouge_l for prediction in predictions], samples=samples, seed=seed
        ),
        latency_mean_seconds=float(np.mean(latencies)),
        latency_p95_seconds=float(np.quantile(latencies, 0.95)),
    )


def arm_result(arm: Arm, predictions: Sequence[Prediction], config: EvaluationConfig) -> ArmResult:
    """Figures of one arm: wordings seen in training, in all and by question type, and held-out wordings."""
    seen = [prediction for prediction in predictions if not prediction.wording_held_out]
    held_out = [prediction for prediction in predictions if prediction.wording_held_out]
    types = sorted({prediction.question_type for prediction in seen})
    return ArmResult(
        arm=arm,
        overall=scores(seen, config) if seen else None,
        held_out_wordings=scores(held_out, config) if held_out else None,
        by_question_type={
            kind: scores([prediction for prediction in seen if prediction.question_type == kind], config)
            for kind in types
        },
    )


def metric_values(predictions: Sequence[Prediction], metric: str) -> list[float]:
    """One metric, item by item; the accuracy of a classifier is its exact match."""
    if metric == "token_f1":
        return [prediction.token_f1 for prediction in predictions]
    return [prediction.exact_match for prediction in predictions]


def compare(
    baseline: Arm, tuned: Sequence[Prediction], other: Sequence[Prediction], config: EvaluationConfig
) -> Comparison:
    """Tuned against one baseline on the same items, in the same order, on the configured metric."""
    ours, theirs = metric_values(tuned, config.metric), metric_values(other, config.metric)
    wins = sum(a > b for a, b in zip(ours, theirs, strict=True))
    losses = sum(a < b for a, b in zip(ours, theirs, strict=True))
    return Comparison(
        baseline=baseline,
        metric=config.metric,
        difference=bootstrap_difference(ours, theirs, samples=config.bootstrap_samples, seed=config.seed),
        wins=wins,
        losses=losses,
        ties=len(ours) - wins - losses,
        p_value=mcnemar(wins, losses),
    )
