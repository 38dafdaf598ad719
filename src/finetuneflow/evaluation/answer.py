"""Answers of the arms to the frozen questions, by a local model: greedy, batched, kept batch by batch."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from finetuneflow.errors import JobCancelled, UsageError
from finetuneflow.evaluation.items import AnswerLog, question_of
from finetuneflow.metrics import exact_match, rouge_l, token_f1
from finetuneflow.modeling.generate import Generated, classify, generate
from finetuneflow.modeling.load import LoadedModel, load_causal_lm, load_classifier
from finetuneflow.modeling.tokenize import encode_prompt
from finetuneflow.schemas.evaluation import Arm, EvaluateInputs, EvaluationConfig, Prediction, TestItem

Notify = Callable[[str], None]
CLASSIFIER_CHUNK = 256
"""Texts classified between two looks at the cancel file."""


class Progress:
    """Counts answers over all arms, and stops when somebody asked for it."""

    def __init__(
        self,
        total: int,
        done: int,
        report: Callable[[int, int, float | None], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self.total = total
        self.done = done
        self._report = report
        self._cancelled = cancelled
        self._started = time.monotonic()
        self._at_start = done

    def check(self) -> None:
        """Raises JobCancelled once the job was asked to stop."""
        if self._cancelled():
            raise JobCancelled("the evaluation was stopped", "start it again: answers already given are kept")

    def add(self, count: int) -> None:
        """Tells that so many more answers were given."""
        self.done += count
        rate = (self.done - self._at_start) / max(time.monotonic() - self._started, 1e-9)
        self._report(self.done, self.total, (self.total - self.done) / rate if rate else None)


def answer_arms(
    arms: Sequence[Arm],
    items: Sequence[TestItem],
    config: EvaluationConfig,
    inputs: EvaluateInputs,
    log: AnswerLog,
    progress: Progress,
    notify: Notify,
) -> None:
    """Answers every item for every arm that has not answered it yet; the base model is loaded once.

    Raises:
        NotFoundError, ModelError: a model cannot be loaded.
        JobCancelled: the job was asked to stop; what was answered is kept.
    """
    todo = [arm for arm in arms if len(log.answers.get(arm, {})) < len(items)]
    untuned = [arm for arm in todo if arm != "tuned"]
    if untuned:
        loaded = load_causal_lm(inputs.base_model, precision=inputs.precision)
        for arm in untuned:
            answer_arm(loaded, arm, items, config, log, progress, notify)
        del loaded
        gc.collect()
    if "tuned" in todo:
        loaded = load_causal_lm(
            inputs.model or inputs.base_model,
            precision=inputs.precision,
            adapter=Path(inputs.adapter) if inputs.adapter else None,
        )
        answer_arm(loaded, "tuned", items, config, log, progress, notify)


def answer_arm(
    loaded: LoadedModel,
    arm: Arm,
    items: Sequence[TestItem],
    config: EvaluationConfig,
    log: AnswerLog,
    progress: Progress,
    notify: Notify,
) -> None:
    """Answers one arm, shortest questions first.

    Batches are cut from the whole list, also when a part is answered already: the same items share a batch on
    every run, so an interrupted evaluation ends with the same answers.
    """
    context = getattr(loaded.model.config, "max_position_embeddings", None)
    fitted = [fit(loaded, item, arm, context, config.max_new_tokens) for item in items]
    shortened = sum(cut for _, _, cut in fitted)
    if shortened:
        notify(
            f"{arm}: {shortened} passages left out, least relevant first: the model reads {context} tokens"
        )
    answerable = [index for index, (_, length, _) in enumerate(fitted) if not context or length < context]
    if len(answerable) < len(items):
        silenced = len(items) - len(answerable)
        notify(f"{arm}: {silenced} questions are longer than {context} tokens and count as wrong")
    known = log.answers.get(arm, {})
    silent = [
        index for index in range(len(items)) if index not in set(answerable) and items[index].id not in known
    ]
    if silent:
        log.add(arm, [prediction(items[index], Generated("", 0.0, 0, False)) for index in silent])
        progress.add(len(silent))
    order = sorted(answerable, key=lambda index: (fitted[index][1], index))
    for start in range(0, len(order), config.batch_size):
        batch = order[start : start + config.batch_size]
        missing = [index for index in batch if items[index].id not in known]
        if not missing:
            continue
        progress.check()
        answers = generate(
            loaded,
            [fitted[index][0] for index in batch],
            max_new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
        )
        by_index = dict(zip(batch, answers, strict=True))
        log.add(arm, [prediction(items[index], by_index[index]) for index in missing])
        progress.add(len(missing))


def fit(
    loaded: LoadedModel, item: TestItem, arm: Arm, context: int | None, max_new_tokens: int
) -> tuple[list[dict[str, str]], int, int]:
    """The conversation as an arm asks it, its length in tokens, and how many passages had to be left out."""
    if arm != "rag" or not item.rag_messages:
        return item.messages, len(encode_prompt(loaded.tokenizer, item.messages)), 0
    messages, cut = item.rag_messages, 0
    length = len(encode_prompt(loaded.tokenizer, messages))
    # the first passage is the best one: it goes only when it does not fit alone
    for passage in [*reversed(item.passages[1:]), None]:
        if not context or length + max_new_tokens <= context:
            break
        if passage is None:
            messages = item.messages
        else:
            messages = [
                {**turn, "content": turn["content"].replace(f"\n\n{passage}\n\n", "\n\n", 1)}
                for turn in messages
            ]
        length = len(encode_prompt(loaded.tokenizer, messages))
        cut += 1
    return messages, length, cut


def prediction(item: TestItem, answer: Generated) -> Prediction:
    """An answer with its scores."""
    return Prediction(
        item_id=item.id,
        question=question_of(item),
        expected=item.expected,
        predicted=answer.text,
        exact_match=exact_match(answer.text, item.expected),
        token_f1=token_f1(answer.text, item.expected),
        rouge_l=rouge_l(answer.text, item.expected),
        latency_seconds=answer.seconds,
        question_type=item.question_type,
        wording_held_out=item.wording_held_out,
    )


def classify_items(
    items: Sequence[TestItem],
    config: EvaluationConfig,
    inputs: EvaluateInputs,
    labels: Sequence[str],
    log: AnswerLog,
    progress: Progress,
) -> None:
    """Labels of the tuned classifier for the items it has not labelled yet.

    Raises:
        UsageError: no labels are known.
        NotFoundError, ModelError: the model cannot be loaded.
        JobCancelled: the job was asked to stop.
    """
    if not labels:
        raise UsageError(
            "the classifier's labels are not known", "evaluate a run, or give the dataset's labels"
        )
    todo = [item for item in items if item.id not in log.answers.get("tuned", {})]
    if not todo:
        return
    loaded = load_classifier(
        inputs.model or inputs.base_model,
        labels=list(labels),
        precision=inputs.precision,
        adapter=Path(inputs.adapter) if inputs.adapter else None,
    )
    for start in range(0, len(todo), CLASSIFIER_CHUNK):
        progress.check()
        chunk = todo[start : start + CLASSIFIER_CHUNK]
        began = time.perf_counter()
        indices, _ = classify(loaded, [question_of(item) for item in chunk], batch_size=config.batch_size)
        seconds = (time.perf_counter() - began) / len(chunk)
        log.add(
            "tuned",
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
