"""The forgetting stage: does the tuned model still do what its base did?

Three looks: requests that code can check (`forgetting_suite`), bits per byte on a page of ordinary prose, and
the divergence of the tuned model from its base on neutral prompts. The last two need no skill of the base, so
they also catch what happens to a model too small to follow instructions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from finetuneflow.artifacts import PREDICTIONS, JobFolder
from finetuneflow.errors import ModelError, UsageError
from finetuneflow.evaluation.answer import Progress, answer_arm
from finetuneflow.evaluation.forgetting_suite import fixed_texts, neutral_prompts, passes, suite, suite_hash
from finetuneflow.evaluation.forgetting_verdict import family_results, judge
from finetuneflow.evaluation.items import AnswerLog
from finetuneflow.evaluation.likelihood import divergences, read_text, without_adapter
from finetuneflow.evaluation.significance import bootstrap_mean
from finetuneflow.modeling.device import prepare
from finetuneflow.modeling.generate import generate
from finetuneflow.modeling.load import LoadedModel, load_causal_lm
from finetuneflow.modeling.tokenize import encode_prompt, token_ids
from finetuneflow.schemas.evaluation import Arm, EvaluationConfig, TestItem
from finetuneflow.schemas.event import LogEvent, ProgressEvent
from finetuneflow.schemas.forgetting import (
    ForgettingConfig,
    ForgettingInputs,
    ForgettingResult,
    LostAnswer,
    SuiteItem,
    TextChange,
)

ARMS: tuple[Arm, ...] = ("base", "tuned")
COMPARED_TOKENS = 16
"""Tokens of the base's own answer on which the two models are compared."""
LISTED_LOSSES = 20


def run(config: ForgettingConfig, inputs: ForgettingInputs, job: JobFolder) -> ForgettingResult:
    """What the tuned model lost, with a verdict.

    Answers go to `predictions.jsonl` as they come: started again in the same folder, only what is missing is
    answered.

    Raises:
        UsageError: there is no tuned model.
        NotFoundError, ModelError: a model cannot be loaded, or the two have different vocabularies.
        JobCancelled: the job was asked to stop.
    """
    started = time.monotonic()
    prepare(config.seed)
    items, texts, prompts = suite(config.families), fixed_texts(), neutral_prompts()
    asked = [_as_test_item(item) for item in items]
    log = AnswerLog(job.path / PREDICTIONS, asked)
    log.rewrite(ARMS, asked)
    progress = _progress(log, 2 * (len(items) + len(texts) + len(prompts)), job)
    base, tuned = _load(inputs)
    met = {
        arm: _requests(arm, loaded, items, asked, config, log, progress, job)
        for arm, loaded in zip(ARMS, (base, tuned), strict=True)
    }
    log.rewrite(ARMS, asked)
    changes = {language: _reread(base, tuned, text, progress) for language, text in texts.items()}
    moved = _moved(base, tuned, prompts, config, progress)
    families = family_results(items, met["base"], met["tuned"], config) if items else []
    divergence = bootstrap_mean(moved, seed=config.seed)
    outcome, reasons = judge(families, changes, divergence, len(prompts), config)
    return ForgettingResult(
        run_id=inputs.run_id,
        base_model=inputs.base_model,
        suite_hash=suite_hash(items),
        items=len(items),
        families=families,
        texts=changes,
        divergence=divergence,
        prompts=len(prompts),
        outcome=outcome,
        reasons=reasons,
        lost=_lost(items, met["base"], met["tuned"], log),
        predictions_path=PREDICTIONS,
        seconds=time.monotonic() - started,
        config=config,
    )


def _load(inputs: ForgettingInputs) -> tuple[LoadedModel, LoadedModel]:
    if inputs.adapter:
        tuned = load_causal_lm(inputs.base_model, precision=inputs.precision, adapter=Path(inputs.adapter))
        return without_adapter(tuned), tuned
    if not inputs.model:
        raise UsageError("no tuned model was given", "give a run that has ended well")
    base = load_causal_lm(inputs.base_model, precision=inputs.precision)
    tuned = load_causal_lm(inputs.model, precision=inputs.precision)
    if base.model.config.vocab_size != tuned.model.config.vocab_size:
        raise ModelError(
            f"`{inputs.base_model}` and the tuned model have different vocabularies",
            "compare it with the model that it was made from",
        )
    return base, tuned


def _as_test_item(item: SuiteItem) -> TestItem:
    return TestItem(id=item.id, messages=item.messages, expected=item.value, question_type=item.family)


def _requests(
    arm: Arm,
    loaded: LoadedModel,
    items: Sequence[SuiteItem],
    asked: Sequence[TestItem],
    config: ForgettingConfig,
    log: AnswerLog,
    progress: Progress,
    job: JobFolder,
) -> list[bool]:
    """Which requests a model meets; in the log, `exact_match` then says so."""
    if not items:
        return []
    how = EvaluationConfig(max_new_tokens=config.max_new_tokens, batch_size=config.batch_size)
    answer_arm(loaded, arm, asked, how, log, progress, lambda text: job.emit(LogEvent(message=text)))
    answers = log.answers[arm]
    met = [passes(item, answers[item.id].predicted) for item in items]
    for item, good in zip(items, met, strict=True):
        answers[item.id] = answers[item.id].model_copy(update={"exact_match": float(good)})
    job.emit(LogEvent(message=f"{arm}: {sum(met)} of {len(met)} requests met"))
    return met


def _reread(base: LoadedModel, tuned: LoadedModel, text: str, progress: Progress) -> TextChange:
    progress.check()
    before, after = read_text(base, text), read_text(tuned, text)
    progress.add(2)
    rise = after.bits_per_byte / before.bits_per_byte - 1
    return TextChange(base=before, tuned=after, rise=rise)


def _moved(
    base: LoadedModel,
    tuned: LoadedModel,
    prompts: list[list[dict[str, str]]],
    config: ForgettingConfig,
    progress: Progress,
) -> list[float]:
    """Divergence on each prompt, along the answer that the base itself gives."""
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        progress.check()
        progress.add(count - done)
        done = count

    answers = generate(
        base, prompts, max_new_tokens=COMPARED_TOKENS, batch_size=config.batch_size, on_batch=tell
    )
    done = 0
    sequences = []
    for messages, answer in zip(prompts, answers, strict=True):
        prompt = encode_prompt(base.tokenizer, messages)
        sequences.append((prompt + token_ids(base.tokenizer, answer.text), len(prompt) - 1))
    return divergences(base, tuned, sequences, on_batch=tell)


def _lost(
    items: Sequence[SuiteItem], base: Sequence[bool], tuned: Sequence[bool], log: AnswerLog
) -> list[LostAnswer]:
    rows = [
        LostAnswer(
            item_id=item.id,
            family=item.family,
            request=item.messages[-1]["content"],
            base=log.answers["base"][item.id].predicted,
            tuned=log.answers["tuned"][item.id].predicted,
        )
        for item, before, after in zip(items, base, tuned, strict=True)
        if before and not after
    ]
    return rows[:LISTED_LOSSES]


def _progress(log: AnswerLog, total: int, job: JobFolder) -> Progress:
    def report(done: int, whole: int, remaining: float | None) -> None:
        job.emit(ProgressEvent(stage="forgetting", step=done, total_steps=whole, remaining_seconds=remaining))

    done = sum(map(len, log.answers.values()))
    report(done, total, None)
    return Progress(total, done, report, job.cancelled)
