"""Exports: adapter, merged model, report and zip of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from finetuneflow.schemas.export import ExportConfig, ExportInputs, ExportKind, ExportResult
from finetuneflow.schemas.job import Job, JobSpec
from finetuneflow.services import datasets, evaluations, jobs, runs
from finetuneflow.services.context import Context
from finetuneflow.store import runs as store
from finetuneflow.store.database import Session


def start(
    context: Context,
    run_id: str,
    *,
    kinds: Sequence[ExportKind] = ("adapter", "merged", "zip"),
    language: Literal["en", "fr"] = "en",
    idempotency_key: str | None = None,
) -> Job:
    """Starts an export of a finished run; the job's id is the export's id, its folder holds the files.

    The report speaks of the newest evaluation, when there is one.
    Raises NotFoundError, UsageError when the run has not ended well.
    """
    run, trained = runs.finished(context, run_id)
    evaluation = evaluations.latest(context, run_id)
    export_id = jobs.new_id("export")
    inputs = ExportInputs(
        run_folder=run.folder,
        run_id=run.id,
        name=run.name,
        recipe=run.recipe.model_dump(mode="json"),
        train_result=trained.model_dump(mode="json"),
        evaluation=None if evaluation is None else evaluation.model_dump(mode="json"),
        dataset=datasets.get_dataset(context, run.dataset_id).model_dump(mode="json"),
    )
    spec = JobSpec(
        id=export_id,
        kind="export",
        config=ExportConfig(kinds=list(kinds), language=language).model_dump(mode="json"),
        inputs=inputs.model_dump(mode="json"),
    )

    def record(session: Session) -> None:
        store.add_export(session, export_id, run_id=run.id)

    return jobs.submit(
        context, spec, idempotency_key=idempotency_key, project_id=run.project_id, record=record
    )


def result(context: Context, export_id: str) -> ExportResult:
    """Result of an export that ended well; raises the job's own failure otherwise."""
    return ExportResult.model_validate(jobs.ensure_success(context, export_id).result)


def list_exports(context: Context, *, run_id: str | None = None, limit: int = 100) -> list[Job]:
    """Export jobs, newest first."""
    jobs.settle(context)
    with context.store.read() as session:
        rows = store.list_export_jobs(session, run_id=run_id, limit=limit)
    return [jobs.as_job(context, row) for row in rows]
