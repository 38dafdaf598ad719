"""Runs, evaluations and exports in the database; each shares its id with its job."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from finetuneflow.artifacts import utc_now
from finetuneflow.schemas.job import JobStatus
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.store.tables import EvaluationRow, ExportRow, JobRow, RunRow


def add_run(
    session: Session,
    run_id: str,
    *,
    name: str,
    dataset_id: str,
    recipe: Recipe,
    project_id: str | None = None,
) -> None:
    """Keeps a run; its job must be in the session already."""
    session.add(
        RunRow(
            id=run_id,
            project_id=project_id,
            dataset_id=dataset_id,
            name=name,
            recipe=recipe.model_dump(mode="json"),
            created_at=utc_now(),
        )
    )
    session.flush()


def get_run(session: Session, run_id: str) -> tuple[RunRow, JobRow] | None:
    """A run and its job."""
    query = select(RunRow, JobRow).join(JobRow, JobRow.id == RunRow.id).where(RunRow.id == run_id)
    row = session.execute(query).one_or_none()
    return None if row is None else (row[0], row[1])


def list_runs(
    session: Session,
    *,
    status: JobStatus | None = None,
    project_id: str | None = None,
    limit: int | None = 100,
) -> list[tuple[RunRow, JobRow]]:
    """Runs with their jobs, newest first."""
    query = select(RunRow, JobRow).join(JobRow, JobRow.id == RunRow.id)
    if status is not None:
        query = query.where(JobRow.status == status)
    if project_id is not None:
        query = query.where(RunRow.project_id == project_id)
    query = query.order_by(RunRow.created_at.desc(), RunRow.id.desc()).limit(limit)
    return [(run, job) for run, job in session.execute(query)]


def add_evaluation(session: Session, evaluation_id: str, *, run_id: str, dataset_id: str) -> None:
    """Keeps an evaluation; its job must be in the session already."""
    session.add(EvaluationRow(id=evaluation_id, run_id=run_id, dataset_id=dataset_id, created_at=utc_now()))
    session.flush()


def add_export(session: Session, export_id: str, *, run_id: str) -> None:
    """Keeps an export; its job must be in the session already."""
    session.add(ExportRow(id=export_id, run_id=run_id, created_at=utc_now()))
    session.flush()


def list_evaluation_jobs(
    session: Session, *, run_id: str | None = None, status: JobStatus | None = None, limit: int | None = 100
) -> list[JobRow]:
    """Jobs of evaluations, newest first."""
    return _jobs_of(session, EvaluationRow, run_id, status, limit)


def list_export_jobs(
    session: Session, *, run_id: str | None = None, status: JobStatus | None = None, limit: int | None = 100
) -> list[JobRow]:
    """Jobs of exports, newest first."""
    return _jobs_of(session, ExportRow, run_id, status, limit)


def _jobs_of(
    session: Session,
    table: type[EvaluationRow] | type[ExportRow],
    run_id: str | None,
    status: JobStatus | None,
    limit: int | None,
) -> list[JobRow]:
    query = select(JobRow).join(table, JobRow.id == table.id)
    if run_id is not None:
        query = query.where(table.run_id == run_id)
    if status is not None:
        query = query.where(JobRow.status == status)
    return list(session.scalars(query.order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(limit)))
