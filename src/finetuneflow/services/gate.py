"""The gate: may this run's model be deployed? Collects the evidence, decides, records; and decides again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from finetuneflow.artifacts import (
    ANSWERERS,
    GATE,
    ITEMS,
    PREDICTIONS,
    read_examples,
    sha256_file,
    split_file,
    write_text,
)
from finetuneflow.errors import InputError, NotFoundError, UsageError
from finetuneflow.evaluation import gate
from finetuneflow.evaluation.items import read_items, test_set_hash
from finetuneflow.evaluation.overlap import find_overlap
from finetuneflow.evaluation.predictions_file import read_predictions
from finetuneflow.schemas.answerer import Answering
from finetuneflow.schemas.evaluation import EvaluationResult
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.forgetting import ForgettingResult
from finetuneflow.schemas.gate import (
    ForgettingFacts,
    GateEvidence,
    GatePolicy,
    GateResult,
    ModelFacts,
    Overlap,
    ParityFacts,
    Recomputed,
)
from finetuneflow.schemas.job import Job
from finetuneflow.services import datasets, evaluations, exports, gate_policy, jobs, runs
from finetuneflow.services.context import Context
from finetuneflow.store import queue

Notify = Callable[[str], None]
EVALUATION = "eval-"
"""What an evaluation's id begins with."""
WEIGHTS = ".safetensors"
CONFIGS = ("adapter_config.json", "config.json")
SLOW_BYTES = 1 << 30
"""Hashing more than this takes seconds."""


def decide(
    context: Context,
    reference: str,
    *,
    policy: GatePolicy | None = None,
    language: Literal["en", "fr"] = "en",
    out: Path | None = None,
    notify: Notify | None = None,
) -> tuple[GateResult, Path]:
    """The decision on a run (its newest evaluation) or on one evaluation, and the file that records it.

    Args:
        context: The workspace.
        reference: Id of a run or of an evaluation.
        policy: Null is the default.
        language: Of the reasons.
        out: Where to record it; null is `gate.json` in the evaluation's folder.
        notify: Told about steps that take a while.

    Raises:
        NotFoundError: no such run or evaluation, or its dataset or weights are gone.
        UsageError: no evaluation that ended well, or one without an arm that the policy needs.
        InputError: answers that cannot be used, or are not those of the evaluation.
    """
    policy = policy or gate_policy.load()
    job, result = _evaluation(context, reference)
    folder = Path(job.folder)
    predictions_file = folder / PREDICTIONS
    predictions = read_predictions(predictions_file)
    wrong = gate.rescored(predictions, result.config.metric)
    if wrong:
        raise InputError(
            "; ".join(wrong), "these answers were changed; evaluate the run again", path=predictions_file
        )
    evidence = _evidence(context, job, result, policy, notify)
    decision = gate.decide(predictions, evidence, policy, language)
    path = out or folder / GATE
    write_text(path, decision.model_dump_json(indent=2) + "\n")
    return decision, path


def recompute(
    context: Context, file: Path, *, predictions: Path | None = None, policy: GatePolicy | None = None
) -> Recomputed:
    """A recorded decision made again from the answers, and every difference from the record.

    Args:
        context: The workspace, where the evaluation is looked for.
        file: What `decide` wrote.
        predictions: The answers; null: beside the file, else in the workspace.
        policy: The policy that should have been applied; null is the recorded one.

    Raises:
        NotFoundError: no such file, or no answers.
        InputError: not a record, or answers that cannot be read.
    """
    stored = _stored(file)
    found = predictions or _answers(context, file, stored)
    items = found.parent / ITEMS
    again, differences = gate.recompute(
        stored,
        read_predictions(found),
        predictions_sha256=sha256_file(found),
        test_set_hash=test_set_hash(read_items(items)) if items.is_file() else None,
        policy=policy,
    )
    return Recomputed(same=not differences, differences=differences, result=again)


def _stored(file: Path) -> GateResult:
    if not file.is_file():
        raise NotFoundError(f"there is no file `{file}`", "`finetuneflow gate RUN` says where it records")
    try:
        return GateResult.model_validate_json(file.read_bytes())
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "the file"
        raise InputError(
            f"this is not a recorded decision ({place}: {error.errors()[0]['msg']})",
            "give the file that `finetuneflow gate RUN` wrote",
            path=file,
        ) from error


def _answers(context: Context, file: Path, stored: GateResult) -> Path:
    places = [file.parent, context.workspace.job("evaluate", stored.evidence.evaluation_id)]
    for place in places:
        if (place / PREDICTIONS).is_file():
            return place / PREDICTIONS
    raise NotFoundError(
        f"the answers of evaluation {stored.evidence.evaluation_id} are not here",
        "give their file with `--predictions`",
    )


def _evaluation(context: Context, reference: str) -> tuple[Job, EvaluationResult]:
    if reference.startswith(EVALUATION):
        return jobs.get_job(context, reference), evaluations.result(context, reference)
    runs.get_run(context, reference)
    for job in evaluations.list_evaluations(context, run_id=reference):
        if job.status == "success":
            return job, evaluations.result(context, job.id)
    raise UsageError(f"run `{reference}` was not evaluated yet", f"finetuneflow evaluate {reference}")


def _evidence(
    context: Context, job: Job, result: EvaluationResult, policy: GatePolicy, notify: Notify | None
) -> GateEvidence:
    folder = Path(job.folder)
    version = datasets.get_dataset(context, result.dataset_id)
    hashed = test_set_hash(read_items(folder / ITEMS))
    if hashed != result.test_set_hash:
        raise InputError(
            "the test set is not the one that was answered", "evaluate the run again", path=folder / ITEMS
        )
    config = result.config
    return GateEvidence(
        evaluation_id=job.id,
        run_id=result.run_id,
        dataset_id=version.id,
        dataset_hash=version.content_hash,
        test_set_hash=hashed,
        predictions_sha256=sha256_file(folder / PREDICTIONS),
        metrics_version=gate.metrics_version(),
        metric=config.metric,
        seed=config.seed,
        bootstrap_samples=config.bootstrap_samples,
        model=_model(context, result.run_id, folder, policy.candidate, notify),
        overlap=_overlap(folder / ITEMS, Path(version.path), policy, notify),
        forgetting=_forgetting(context, result.run_id),
        parity=_parity(context, result.run_id),
    )


def _model(
    context: Context, run_id: str, evaluation: Path, candidate: str, notify: Notify | None
) -> ModelFacts:
    """Which weights answered as the candidate: the run's own, or the exported file in their place."""
    run, trained = runs.finished(context, run_id)
    folder = Path(run.folder) / (trained.adapter or trained.model or "")
    exported = _answering(evaluation).arms.get(candidate)
    if exported is not None:
        folder, files = Path(exported.model).parent, [Path(exported.model)]
    else:
        files = sorted(path for path in folder.glob("*") if path.suffix == WEIGHTS or path.name in CONFIGS)
    if not any(path.suffix in (WEIGHTS, ".gguf") and path.is_file() for path in files):
        raise NotFoundError(
            f"the weights that were evaluated are gone from `{folder}`",
            "train or export again, then evaluate",
        )
    speeds = evaluations.speeds(context, evaluation.name).arms
    if notify and sum(path.stat().st_size for path in files) > SLOW_BYTES:
        notify(f"Hashing the weights in {folder}")
    return ModelFacts(
        base_model=trained.base_model,
        base_fingerprint=trained.base_fingerprint,
        kind="gguf" if exported is not None else "adapter" if trained.adapter else "model",
        weights_sha256={path.name: sha256_file(path) for path in files},
        answerers={arm: speed.answerer for arm, speed in speeds.items()},
    )


def _answering(evaluation: Path) -> Answering:
    """Who answered in place of the run's own models; the default for older evaluations."""
    path = evaluation / ANSWERERS
    return Answering.model_validate_json(path.read_bytes()) if path.is_file() else Answering()


def _overlap(items: Path, dataset: Path, policy: GatePolicy, notify: Notify | None) -> Overlap:
    training = split_file(dataset, "train")
    if not training.is_file():
        raise NotFoundError(
            f"the training split is gone: there is no `{training}`",
            "without it, nobody can say that the test questions are not in it",
        )
    asked, trained = read_items(items), read_examples(training)
    if notify and len(asked) * len(trained) > 5_000_000:
        notify(f"Comparing {len(asked):,} test questions with {len(trained):,} training examples")
    return find_overlap(
        asked,
        trained,
        _examples(split_file(dataset, "validation")),
        share=policy.near_duplicate_share,
        training_sha256=sha256_file(training),
    )


def _examples(path: Path) -> list[Example]:
    return read_examples(path) if path.is_file() else []


def _forgetting(context: Context, run_id: str) -> ForgettingFacts | None:
    """The newest look for forgetting that ended well."""
    with context.store.read() as session:
        rows = queue.list_jobs(session, statuses=("success",), kind="evaluate", limit=None)
        found = [
            row.id
            for row in rows
            if row.spec.get("config", {}).get("task") == "forgetting"
            and row.spec.get("inputs", {}).get("run_id") == run_id
        ]
    if not found:
        return None
    result = ForgettingResult.model_validate(jobs.ensure_success(context, found[0]).result)
    return ForgettingFacts(
        job_id=found[0],
        suite_hash=result.suite_hash,
        families=result.families,
        texts=result.texts,
        divergence=result.divergence,
        prompts=result.prompts,
    )


def _parity(context: Context, run_id: str) -> ParityFacts | None:
    """The check of the newest export that came as far as writing a GGUF file."""
    for job in exports.list_exports(context, run_id=run_id, limit=1000):
        if job.status == "failed":
            ended = jobs.job_result(context, job.id)
            if ended.error_code == "parity_failed":
                return ParityFacts(export_id=job.id, passed=False, reason=ended.error)
        elif job.status == "success" and (written := exports.result(context, job.id).gguf) is not None:
            return ParityFacts(
                export_id=job.id,
                passed=written.parity.passed,
                gguf_sha256=written.sha256,
                quantization=written.quantization,
                reason=" ".join(written.parity.failures),
            )
    return None
