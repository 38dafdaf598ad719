"""The evaluation stage: every arm answers the same frozen questions; was tuning worth it?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetuneflow.artifacts import ANSWERERS, PREDICTIONS, SPEEDS, JobFolder, write_text
from finetuneflow.errors import UsageError
from finetuneflow.evaluation import classification
from finetuneflow.evaluation.answer import answer_arms, classify_items, labelled, majority_label
from finetuneflow.evaluation.compare import arm_result, compare, metric_values
from finetuneflow.evaluation.items import AnswerLog, Progress, read_items, test_set_hash
from finetuneflow.evaluation.verdict import judge
from finetuneflow.modeling.device import prepare
from finetuneflow.schemas.answerer import AnswererSpec, Answering, ArmSpeeds
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
KNOWN_ARMS: tuple[Arm, ...] = (*BASELINES, "tuned", "tuned_rag")
ANSWERS = "answers"
"""Folder of the answers by content, when the evaluation is given none that it shares with others."""
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
    answering = _answering(inputs)
    arms = _arms(config, inputs, answering.arms, items, job)
    log.rewrite(arms, items)
    if classifying:
        labels = inputs.labels
        _label(arms, items, config, inputs, answering.arms, log, job)
    else:
        labels = []
        speeds = answer_arms(
            arms,
            items,
            config,
            answering.arms,
            log,
            _progress(arms, items, log, job),
            lambda text: _say(job, text),
            cache=Path(answering.cache) if answering.cache else job.path / ANSWERS,
        )
        write_text(job.path / SPEEDS, ArmSpeeds(arms=speeds).model_dump_json(indent=1) + "\n")
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


def _answering(inputs: EvaluateInputs) -> Answering:
    """Who answers which arm: the run's base and tuned model, and whoever stands in `answerers.json`."""
    base = AnswererSpec(kind="local", model=inputs.base_model, precision=inputs.precision)
    own = {"base": base, "rag": base.model_copy(update={"retrieval": True})}
    if inputs.adapter or inputs.model:
        changes = {"model": inputs.model or inputs.base_model, "adapter": inputs.adapter}
        own["tuned"] = base.model_copy(update=changes)
        own["tuned_rag"] = base.model_copy(update=changes | {"retrieval": True})
    path = Path(inputs.items).with_name(ANSWERERS)
    given = Answering.model_validate_json(path.read_bytes()) if path.exists() else Answering()
    return given.model_copy(update={"arms": own | given.arms})


def _arms(
    config: EvaluationConfig,
    inputs: EvaluateInputs,
    answerers: Mapping[Arm, AnswererSpec],
    items: Sequence[TestItem],
    job: JobFolder,
) -> list[Arm]:
    """The arms that can be answered: base, rag, tuned, tuned_rag, then the others as they were named."""
    arms: list[Arm] = []
    others = [arm for arm in config.arms if arm not in KNOWN_ARMS]
    for arm in (*(arm for arm in KNOWN_ARMS if arm in config.arms), *others):
        spec = answerers.get(arm)
        if spec is None:
            what = "tuned model" if arm in KNOWN_ARMS else "answerer of that name"
            _say(job, f"no {what} was given: the arm `{arm}` is left out")
        elif inputs.task != "causal_lm" and (spec.retrieval or spec.kind != "local"):
            if arm in others:
                _say(job, f"`{arm}` is no classifier of these labels: it is left out")
        elif spec.retrieval and not any(item.rag_messages for item in items):
            _say(job, f"no passages were retrieved: the arm `{arm}` is left out")
        elif arm not in arms:
            arms.append(arm)
    if not arms:
        raise UsageError(
            "none of the chosen arms can be answered", f"choose among {', '.join(KNOWN_ARMS)}, or name others"
        )
    return arms


def _label(
    arms: Sequence[Arm],
    items: Sequence[TestItem],
    config: EvaluationConfig,
    inputs: EvaluateInputs,
    answerers: Mapping[Arm, AnswererSpec],
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
    for arm in arms:
        if arm != "base":
            classify_items(items, arm, config, answerers[arm], inputs.labels, log, progress)


def _classified(predictions: Sequence[Prediction], labels: Sequence[str]) -> ClassificationScores:
    gold, predicted = [row.expected for row in predictions], [row.predicted for row in predictions]
    return classification.score(gold, predicted, labels)


def seen_wordings(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Answers to wordings that training saw; all of them when it saw none."""
    return [row for row in predictions if not row.wording_held_out] or list(predictions)


def comparisons(predictions: Predictions, config: EvaluationConfig) -> list[Comparison]:
    """Tuned against each other arm, on the wordings that training saw."""
    if "tuned" not in predictions:
        return []
    tuned = seen_wordings(predictions["tuned"])
    return [
        compare(arm, tuned, seen_wordings(rows), config)
        for arm, rows in predictions.items()
        if arm != "tuned"
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
