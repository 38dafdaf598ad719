"""Exports: adapter, merged model, report and zip of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from finetuneflow.artifacts import split_file
from finetuneflow.errors import NotFoundError, UsageError
from finetuneflow.schemas.export import (
    ExportConfig,
    ExportInputs,
    ExportResult,
    GgufResult,
    Quantization,
)
from finetuneflow.schemas.job import Job, JobSpec
from finetuneflow.services import datasets, evaluations, export_plan, jobs, runs
from finetuneflow.services.context import Context
from finetuneflow.store import runs as store
from finetuneflow.store.database import Session

PREFIX = "export-"


def start(
    context: Context,
    run_id: str,
    *,
    config: ExportConfig | None = None,
    idempotency_key: str | None = None,
) -> Job:
    """Starts an export of a finished run; the job's id is the export's id, its folder holds the files.

    The report speaks of the newest evaluation, when there is one.
    Raises NotFoundError, UsageError when the run has not ended well.
    """
    run, trained = runs.finished(context, run_id)
    config = config or ExportConfig()
    evaluation = evaluations.latest(context, run_id)
    version = datasets.get_dataset(context, run.dataset_id)
    export_id = jobs.new_id(PREFIX.removesuffix("-"))
    inputs = ExportInputs(
        run_folder=run.folder,
        run_id=run.id,
        name=run.name,
        recipe=run.recipe.model_dump(mode="json"),
        train_result=trained.model_dump(mode="json"),
        evaluation=None if evaluation is None else evaluation.model_dump(mode="json"),
        dataset=version.model_dump(mode="json"),
        system_prompt=datasets.system_prompt(context, run.dataset_id),
        test=str(split_file(Path(version.path), "test")) if version.counts.test else None,
    )
    spec = JobSpec(
        id=export_id,
        kind="export",
        config=config.model_dump(mode="json"),
        inputs=inputs.model_dump(mode="json"),
    )

    def record(session: Session) -> None:
        store.add_export(session, export_id, run_id=run.id)

    return jobs.submit(
        context, spec, idempotency_key=idempotency_key, project_id=run.project_id, record=record
    )


def default_config(context: Context, run_id: str) -> ExportConfig:
    """What an export of this run writes when nobody says otherwise: the recipe's wish, else all that can be.

    Raises NotFoundError, UsageError when the run has not ended well.
    """
    run, trained = runs.finished(context, run_id)
    kinds = export_plan.kinds(context, run.recipe, Path(trained.base_folder) if trained.base_folder else None)
    return ExportConfig(kinds=kinds, quantization=run.recipe.quantization, seed=run.recipe.seed)


def result(context: Context, export_id: str) -> ExportResult:
    """Result of an export that ended well; raises the job's own failure otherwise.

    Raises NotFoundError when its folder was deleted.
    """
    known = jobs.ensure_success(context, export_id).result
    if not known:
        raise NotFoundError(f"the files of export {export_id} are gone", "export the run again")
    return ExportResult.model_validate(known)


def gguf_file(context: Context, reference: str) -> Path | None:
    """The GGUF file that a reference means: a path, or the id of an export; None when it is neither.

    Raises the export's own failure, UsageError when it wrote no GGUF file, NotFoundError for a missing file.
    """
    path = Path(reference).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise NotFoundError(
                f"there is no file `{path}`", "give the path of a GGUF file, or an export's id"
            )
        return path
    if not reference.startswith(PREFIX):
        return None
    found = result(context, reference).gguf
    if found is None:
        raise UsageError(
            f"export {reference} has no GGUF file", "export the run again with `--to gguf`, or give its id"
        )
    return Path(jobs.get_job(context, reference).folder) / found.path


def list_exports(context: Context, *, run_id: str | None = None, limit: int = 100) -> list[Job]:
    """Export jobs, newest first."""
    jobs.settle(context)
    with context.store.read() as session:
        rows = store.list_export_jobs(session, run_id=run_id, limit=limit)
    return [jobs.as_job(context, row) for row in rows]


def finished(context: Context, run_id: str) -> Iterator[tuple[Job, ExportResult]]:
    """Exports of a run that ended well and were not deleted since, newest first."""
    for job in list_exports(context, run_id=run_id):
        if job.status == "success":
            with suppress(NotFoundError):
                yield job, result(context, job.id)


def latest_gguf(
    context: Context, run_id: str, *, quantization: Quantization | None = None
) -> tuple[Job, GgufResult, Path] | None:
    """The newest GGUF export of a run whose check passed: job, result, absolute path; None without one.

    With `quantization`, only of that number format. Raises NotFoundError for an unknown run.
    """
    runs.get_run(context, run_id)
    for job, export in finished(context, run_id):
        gguf = export.gguf
        if gguf is None or not gguf.parity.passed or quantization not in (None, gguf.quantization):
            continue
        path = Path(job.folder) / gguf.path
        if path.is_file():
            return job, gguf, path
    return None
