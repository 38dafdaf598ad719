"""The evaluation stage: every arm answers the same frozen questions; was tuning worth it?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from finetuneflow.artifacts import PREDICTIONS, JobFolder
from finetuneflow.errors import UsageError
from finetuneflow.evaluation import classification
from finetuneflow.evaluation.answer import Progress, answer_arms, classify_items, labelled, majority_label
from finetuneflow.evaluation.compare import arm_result, compare, metric_values
from finetuneflow.evaluation.items import AnswerLog, read_items, test_set_hash
from finetuneflow.evaluation.verdict import judge
from finetuneflow.modeling.device import prepare
from finetuneflow.schemas.classification import ClassificationScores
from finetuneflow.schemas.evaluation import (
    Arm,
    Comparison,
    EvaluateInputs,
    EvaluationConfig,
    EvaluationResult,
    Prediction,
    TestItem,
    Verdict,
)
from finetuneflow.schemas.event import LogEvent, ProgressEvent

BASELINES: tuple[Arm, ...] = ("base", "rag")
LISTED_ERRORS = 50

Predictions = dict[Arm, list[Prediction]]
"""Arm to its answers, in the order of the items."""


def run(config: EvaluationConfig, inputs: EvaluateInputs, job: JobFolder) -> EvaluationResult:
    """Answers, figures, comparisons and the verdict of one test set.

    Answers go to `predictions.jsonl` as they come: started again in the same folder, only what is missing is
    answered.

    Raises:
        DatasetError: the test set cannot be used.
        UsageError: no arm can be answered.
        NotFoundError, ModelError: a model cannot be loaded.
        JobCancelled: the job was asked to stop.
    """
    started = time.monotonic()
    prepare(config.seed)
    items = read_items(Path(inputs.items))
    log = AnswerLog(job.path / PREDICTIONS, items)
    classifying = inputs.task == "sequence_classification"
    if classifying:
        config = config.model_copy(update={"metric": "accuracy"})
    arms = _arms(config, inputs, items, job)
    log.rewrite(arms, items)
    if classifying:
        labels = inputs.labels
        _label(arms, items, config, inputs, log, job)
    else:
        labels = []
        answer_arms(
            arms, items, config, inputs, log, _progress(arms, items, log, job), lambda text: _say(job, text)
        )
    log.rewrite(arms, items)
    predictions: Predictions = {arm: [log.answers[arm][item.id] for item in items] for arm in arms}
    for arm in arms:
        _tell(arm, predictions[arm], job)
    return EvaluationResult(
        run_id=inputs.run_id,
        dataset_id=inputs.dataset_id,
        items=len(items),
        test_set_hash=test_set_hash(items),
        arms={} if classifying else {arm: arm_result(arm, predictions[arm], config) for arm in arms},
        classification={arm: _classified(predictions[arm], labels) for arm in arms} if classifying else {},
        comparisons=comparisons(predictions, config),
        verdict=verdict(predictions, config, majority_baseline=classifying),
        predictions_path=PREDICTIONS,
        errors=[answer for answer in predictions.get("tuned", []) if answer.exact_match < 1][:LISTED_ERRORS],
        seconds=time.monotonic() - started,
        config=config,
    )


def _arms(
    config: EvaluationConfig, inputs: EvaluateInputs, items: Sequence[TestItem], job: JobFolder
) -> list[Arm]:
    """The arms that can be answered, in the order base, rag, tuned; each one left out is told."""
    arms: list[Arm] = []
    for arm in ("base", "rag", "tuned"):
        if arm not in config.arms:
            continue
        if arm == "rag" and (inputs.task != "causal_lm" or not any(item.rag_messages for item in items)):
            if inputs.task == "causal_lm":
                _say(job, "no passages were retrieved: the arm `rag` is left out")
        elif arm == "tuned" and not (inputs.adapter or inputs.model):
            _say(job, "no tuned model was given: the arm `tuned` is left out")
        else:
            arms.append(arm)
    if not arms:
        raise UsageError("none of the chosen arms can be answered", "choose among base, rag and tuned")
    return arms


def _label(
    arms: Sequence[Arm],
    items: Sequence[TestItem],
    config: EvaluationConfig,
    inputs: EvaluateInputs,
    log: AnswerLog,
    job: JobFolder,
) -> None:
    progress = _progress(arms, items, log, job)
    if "base" in arms and len(log.answers.get("base", {})) < len(items):
        missing = [item for item in items if item.id not in log.answers.get("base", {})]
        majority = majority_label(items, inputs.labels)
        log.add("base", [labelled(item, majority, 0.0) for item in missing])
        progress.add(len(missing))
        _say(
            job,
            f"base: always answers `{majority}`, the most frequent label (an untrained encoder has no head)",
        )
    if "tuned" in arms:
        classify_items(items, config, inputs, inputs.labels, log, progress)


def _classified(predictions: Sequence[Prediction], labels: Sequence[str]) -> ClassificationScores:
    gold, predicted = [row.expected for row in predictions], [row.predicted for row in predictions]
    return classification.score(gold, predicted, labels)


def seen_wordings(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Answers to wordings that training saw; all of them when it saw none."""
    return [row for row in predictions if not row.wording_held_out] or list(predictions)


def comparisons(predictions: Predictions, config: EvaluationConfig) -> list[Comparison]:
    """Tuned against each baseline, on the wordings that training saw."""
    if "tuned" not in predictions:
        return []
    tuned = seen_wordings(predictions["tuned"])
    return [
        compare(arm, tuned, seen_wordings(predictions[arm]), config)
        for arm in BASELINES
        if arm in predictions
    ]


def verdict(
    predictions: Predictions, config: EvaluationConfig, *, majority_baseline: bool = False
) -> Verdict | None:
    """The verdict on the wordings that training saw, held-out ones beside it; None without two arms."""
    baselines = {
        arm: metric_values(seen_wordings(predictions[arm]), config.metric)
        for arm in BASELINES
        if arm in predictions
    }
    if "tuned" not in predictions or not baselines:
        return None
    tuned = seen_wordings(predictions["tuned"])
    held_out = [row for row in predictions["tuned"] if row.wording_held_out]
    return judge(
        metric_values(tuned, config.metric),
        baselines,
        config,
        held_out=metric_values(held_out, config.metric) if len(tuned) < len(predictions["tuned"]) else (),
        majority_baseline=majority_baseline,
        language=config.language,
    )


def _progress(arms: Sequence[Arm], items: Sequence[TestItem], log: AnswerLog, job: JobFolder) -> Progress:
    def report(done: int, total: int, remaining: float | None) -> None:
        job.emit(ProgressEvent(stage="evaluate", step=done, total_steps=total, remaining_seconds=remaining))

    done = sum(len(log.answers.get(arm, {})) for arm in arms)
    if done:
        _say(job, f"{done} answers were given before, they are kept")
    progress = Progress(len(arms) * len(items), done, report, job.cancelled)
    report(done, progress.total, None)
    return progress


def _tell(arm: Arm, predictions: Sequence[Prediction], job: JobFolder) -> None:
    right = sum(row.exact_match for row in predictions)
    seconds = sum(row.latency_seconds for row in predictions)
    _say(job, f"{arm}: {right:.0f} of {len(predictions)} answers right, in {seconds:.1f} s")


def _say(job: JobFolder, message: str) -> None:
    job.emit(LogEvent(message=message))
