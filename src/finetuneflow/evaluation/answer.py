"""Answers of the arms to the frozen questions: greedy, nothing asked twice, kept as they come."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetuneflow.errors import UsageError
from finetuneflow.evaluation.answerers import Generation
from finetuneflow.evaluation.answerers_cache import AnswerCache
from finetuneflow.evaluation.answerers_local import Local, open_answerer
from finetuneflow.evaluation.answerers_round import Notify, Round, wordings
from finetuneflow.evaluation.items import AnswerLog, question_of
from finetuneflow.evaluation.items import Progress as Progress  # whoever answers needs one
from finetuneflow.modeling.generate import classify
from finetuneflow.modeling.load import LoadedModel, load_classifier
from finetuneflow.schemas.answerer import AnswererSpec, ArmSpeed
from finetuneflow.schemas.evaluation import Arm, EvaluationConfig, Prediction, TestItem

CLASSIFIER_CHUNK = 256
"""Texts classified between two looks at the cancel file."""


def answer_arms(
    arms: Sequence[Arm],
    items: Sequence[TestItem],
    config: EvaluationConfig,
    answerers: Mapping[Arm, AnswererSpec],
    log: AnswerLog,
    progress: Progress,
    notify: Notify,
    *,
    cache: Path | None = None,
) -> dict[Arm, ArmSpeed]:
    """Answers every item for every arm that has not answered it yet, and gives the arms' speed.

    Arms of one model are answered one after the other, so that each model is loaded once. `cache` is the
    folder of answers given before; None keeps them for this call only.

    Raises:
        UsageError, NotFoundError, ModelError, OllamaError, EndpointError: a model cannot be asked.
        JobCancelled: the job was asked to stop; what was answered is kept.
    """
    members: dict[str, list[Arm]] = {}
    for arm in arms:
        members.setdefault(_without_retrieval(answerers[arm]).model_dump_json(), []).append(arm)
    speeds: dict[Arm, ArmSpeed] = {}
    for same in members.values():
        spec = _without_retrieval(answerers[same[0]])
        # A local model draws no lots: its answers do not depend on the seed.
        how = Generation(config.max_new_tokens, 0 if spec.kind == "local" else config.seed, config.batch_size)
        asked = [next(wordings(item, answerers[arm].retrieval)) for arm in same for item in items]
        with open_answerer(spec, how, asked) as answerer:
            known = AnswerCache(cache, answerer.identity, how)
            for arm in same:
                round_ = Round(answerer, arm, how, log, progress, notify, known)
                speeds[arm] = round_.run(items, retrieval=answerers[arm].retrieval)
    return {arm: speeds[arm] for arm in arms}


def _without_retrieval(spec: AnswererSpec) -> AnswererSpec:
    return spec.model_copy(update={"retrieval": False})


def answer_arm(
    loaded: LoadedModel,
    arm: Arm,
    items: Sequence[TestItem],
    config: EvaluationConfig,
    log: AnswerLog,
    progress: Progress,
    notify: Notify,
) -> None:
    """Answers one arm by a model that is loaded already."""
    how = Generation(config.max_new_tokens, 0, config.batch_size)
    local = Local(AnswererSpec(kind="local", model=str(loaded.folder)), how, loaded)
    Round(local, arm, how, log, progress, notify, AnswerCache(None, local.identity, how)).run(items)


def classify_items(
    items: Sequence[TestItem],
    arm: Arm,
    config: EvaluationConfig,
    spec: AnswererSpec,
    labels: Sequence[str],
    log: AnswerLog,
    progress: Progress,
) -> None:
    """Labels of a trained classifier for the items it has not labelled yet.

    Raises:
        UsageError: no labels are known.
        NotFoundError, ModelError: the model cannot be loaded.
        JobCancelled: the job was asked to stop.
    """
    if not labels:
        raise UsageError(
            "the classifier's labels are not known", "evaluate a run, or give the dataset's labels"
        )
    todo = [item for item in items if item.id not in log.answers.get(arm, {})]
    if not todo:
        return
    loaded = load_classifier(
        spec.model,
        labels=list(labels),
        precision=spec.precision,
        adapter=Path(spec.adapter) if spec.adapter else None,
    )
    for start in range(0, len(todo), CLASSIFIER_CHUNK):
        progress.check()
        chunk = todo[start : start + CLASSIFIER_CHUNK]
        began = time.perf_counter()
        indices, _ = classify(loaded, [question_of(item) for item in chunk], batch_size=config.batch_size)
        seconds = (time.perf_counter() - began) / len(chunk)
        log.add(
            arm,
            [labelled(item, labels[index], seconds) for item, index in zip(chunk, indices, strict=True)],
        )
        progress.add(len(chunk))


def majority_label(items: Sequence[TestItem], labels: Sequence[str]) -> str:
    """The most frequent gold label; of equally frequent ones, the first in the order of the labels."""
    counts = Counter(item.expected for item in items)
    rank = {label: position for position, label in enumerate(labels)}
    return min(counts, key=lambda label: (-counts[label], rank.get(label, len(rank)), label))


def labelled(item: TestItem, label: str, seconds: float) -> Prediction:
    """A label with its scores: right or wrong, there is nothing between."""
    right = float(label == item.expected)
    return Prediction(
        item_id=item.id,
        question=question_of(item),
        expected=item.expected,
        predicted=label,
        exact_match=right,
        token_f1=right,
        rouge_l=right,
        latency_seconds=seconds,
        question_type=item.question_type,
        wording_held_out=item.wording_held_out,
    )
