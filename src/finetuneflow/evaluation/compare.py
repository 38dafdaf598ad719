"""From predictions to figures: scores of an arm on a slice, paired comparisons of arms, parts of the test.

What is compared is what the verdict judges: the wordings that training saw, all of them when it saw none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from finetuneflow.evaluation.significance import bootstrap_difference, bootstrap_mean, holm, wilson
from finetuneflow.evaluation.verdict import pair
from finetuneflow.schemas.evaluation import (
    Arm,
    ArmResult,
    Comparison,
    EvaluationConfig,
    Prediction,
    Scores,
    SliceComparison,
)

Outcome = Literal["won", "lost", "tied"]
BASELINES: tuple[Arm, ...] = ("base", "rag")
"""What a tuned model came from."""
CLASSIFIER_METRICS = ("accuracy",)
TEXT_METRICS = ("exact_match", "token_f1")
TINY = 1e-9
"""Scores that differ by less are the same."""


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


def seen_wordings(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Answers to wordings that training saw; all of them when it saw none."""
    return [row for row in predictions if not row.wording_held_out] or list(predictions)


def metrics_of(config: EvaluationConfig) -> list[str]:
    """What two arms are compared on; the metric of the verdict comes first."""
    metrics = CLASSIFIER_METRICS if config.metric == "accuracy" else TEXT_METRICS
    return sorted(metrics, key=lambda metric: metric != config.metric)


def baselines_of(arms: Sequence[Arm] | Mapping[Arm, object]) -> list[Arm]:
    """The arms that a tuned one has to beat, of those that there are: what it came from."""
    return [name for name in BASELINES if name in arms]


def compare(
    baseline: Arm,
    tuned: Sequence[Prediction],
    other: Sequence[Prediction],
    config: EvaluationConfig,
    *,
    metric: str | None = None,
    arm: Arm = "tuned",
) -> Comparison:
    """An arm against one baseline on the same items, in the same order; null is the verdict's metric."""
    metric = metric or config.metric
    ours, theirs = metric_values(tuned, metric), metric_values(other, metric)
    paired = pair(ours, theirs, baseline, seed=config.seed)
    return Comparison(
        arm=arm,
        baseline=baseline,
        metric=metric,
        difference=bootstrap_difference(ours, theirs, samples=config.bootstrap_samples, seed=config.seed),
        wins=paired.wins,
        losses=paired.losses,
        ties=paired.items - paired.wins - paired.losses,
        p_value=paired.p_value,
        p_exact=paired.p_exact,
    )


def compare_all(
    predictions: Mapping[Arm, Sequence[Prediction]],
    config: EvaluationConfig,
    *,
    arm: Arm = "tuned",
    others: Sequence[Arm] | None = None,
) -> list[Comparison]:
    """An arm against others (null: what it came from) on every metric; Holm over the metrics of each."""
    if arm not in predictions:
        return []
    ours, found = seen_wordings(predictions[arm]), []
    for baseline in baselines_of(predictions) if others is None else others:
        theirs = seen_wordings(predictions[baseline])
        rows = {
            metric: compare(baseline, ours, theirs, config, metric=metric, arm=arm)
            for metric in metrics_of(config)
        }
        honest = holm({metric: row.p_value for metric, row in rows.items()})
        found += [row.model_copy(update={"p_holm": honest[metric]}) for metric, row in rows.items()]
    return found


def outcomes(
    tuned: Sequence[Prediction], other: Sequence[Prediction], config: EvaluationConfig
) -> Iterator[tuple[Outcome, Prediction, Prediction]]:
    """Won, lost or tied, item by item, with both answers."""
    for ours, theirs in zip(tuned, other, strict=True):
        (first,), (second,) = (metric_values([row], config.metric) for row in (ours, theirs))
        difference = first - second
        yield "won" if difference > TINY else "lost" if difference < -TINY else "tied", ours, theirs


def compare_slices(
    baseline: Arm,
    tuned: Sequence[Prediction],
    other: Sequence[Prediction],
    traits: Mapping[str, Mapping[str, str]],
    config: EvaluationConfig,
) -> list[SliceComparison]:
    """An arm against one baseline on every part of the test set, by dimension, the largest part first.

    Args:
        baseline: Name of the other arm.
        tuned: Answers of the arm.
        other: Answers of the baseline, to the same items in the same order.
        traits: Item id to dimension to the name of the part that the item belongs to.
        config: Metric and seed.
    """
    parts: dict[str, dict[str, list[int]]] = {}
    for position, row in enumerate(tuned):
        for dimension, name in traits.get(row.item_id, {}).items():
            parts.setdefault(dimension, {}).setdefault(name, []).append(position)
    found = []
    for dimension, by_name in parts.items():
        if len(by_name) < 2:
            continue
        of_part = {
            name: pair(
                metric_values([tuned[place] for place in places], config.metric),
                metric_values([other[place] for place in places], config.metric),
                baseline,
                seed=config.seed,
            )
            for name, places in by_name.items()
        }
        honest = holm({name: paired.p_value for name, paired in of_part.items()})
        for name, part in sorted(of_part.items(), key=lambda entry: (-entry[1].items, entry[0])):
            found.append(
                SliceComparison(
                    dimension=dimension,
                    name=name,
                    items=part.items,
                    metric=config.metric,
                    baseline=baseline,
                    baseline_score=part.baseline_score,
                    score=part.score.value,
                    difference=part.difference,
                    wins=part.wins,
                    losses=part.losses,
                    p_value=part.p_value,
                    p_holm=honest[name],
                )
            )
    return found


def length_parts(predictions: Sequence[Prediction]) -> dict[str, str]:
    """Item id to short, medium or long: thirds of the test set by words of the question, ties together."""
    words = {row.item_id: len(row.question.split()) for row in predictions}
    low, high = (int(edge) for edge in np.quantile(list(words.values()), [1 / 3, 2 / 3], method="lower"))
    middle = f"{high} words" if low + 1 == high else f"{low + 1} to {high} words"
    names = (f"up to {low} words", middle, f"over {high} words")
    return {
        item: names[0] if count <= low else names[1] if count <= high else names[2]
        for item, count in words.items()
    }
