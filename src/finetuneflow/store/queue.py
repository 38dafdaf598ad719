"""The job queue: one row per job, taken by lease, guarded by a fencing number.

A job goes queued → running → success, failed or cancelled; a resume makes it queued again. `attempts` grows
with every start and is the fencing number: an outcome or heartbeat of an older attempt changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from sqlalchemy import CursorResult, Update, or_, select, update
from sqlalchemy.orm import Session

from finetuneflow.artifacts import utc_now
from finetuneflow.schemas.job import Job, JobKind, JobResult, JobSpec, JobStatus
from finetuneflow.store.tables import JobRow

LEASE_SECONDS = 30.0
"""A claimed job whose supervisor never showed up is up for grabs after this."""


class Claimed(NamedTuple):
    """A job taken from the queue."""

    spec: JobSpec
    attempt: int
    """The fencing number of this start."""


def add_job(
    session: Session,
    spec: JobSpec,
    *,
    request_hash: str,
    idempotency_key: str | None = None,
    project_id: str | None = None,
) -> None:
    """Queues a job. The database refuses a second row with the same idempotency key."""
    session.add(
        JobRow(
            id=spec.id,
            kind=spec.kind,
            status="queued",
            project_id=project_id,
            idempotency_key=idempotency_key,
            request_hash=request_hash,
            spec=spec.model_dump(mode="json"),
            attempts=0,
            error_code="",
            error="",
            hint="",
            created_at=utc_now(),
        )
    )
    session.flush()


def get_job(session: Session, job_id: str) -> JobRow | None:
    """A job's row by id."""
    return session.get(JobRow, job_id)


def find_key(session: Session, idempotency_key: str) -> JobRow | None:
    """The job that was submitted with a key."""
    return session.scalar(select(JobRow).where(JobRow.idempotency_key == idempotency_key))


def list_jobs(
    session: Session,
    *,
    statuses: Sequence[JobStatus] = (),
    kind: JobKind | None = None,
    project_id: str | None = None,
    limit: int | None = 100,
) -> list[JobRow]:
    """Jobs, newest first; all statuses when `statuses` is empty."""
    query = select(JobRow).order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(limit)
    if statuses:
        query = query.where(JobRow.status.in_(statuses))
    if kind is not None:
        query = query.where(JobRow.kind == kind)
    if project_id is not None:
        query = query.where(JobRow.project_id == project_id)
    return list(session.scalars(query))


def claim(
    session: Session, owner: str, *, job_id: str | None = None, lease_seconds: float = LEASE_SECONDS
) -> Claimed | None:
    """Takes a queued job (the oldest, or the one named) and counts the start; None when there is none.

    Two processes never take the same one: SQLite has one writer at a time, PostgreSQL skips locked rows.
    """
    query = select(JobRow).where(JobRow.status == "queued").order_by(JobRow.created_at, JobRow.id).limit(1)
    if job_id is not None:
        query = query.where(JobRow.id == job_id)
    row = session.scalar(query.with_for_update(skip_locked=True))
    if row is None:
        return None
    row.status = "running"
    row.attempts += 1
    row.lease_owner = owner
    row.lease_expires_at = time.time() + lease_seconds
    row.started_at = utc_now()
    row.finished_at = None
    row.error_code = row.error = row.hint = ""
    session.flush()
    return Claimed(JobSpec.model_validate(row.spec), row.attempts)


def heartbeat(session: Session, job_id: str, attempt: int, *, lease_seconds: float = LEASE_SECONDS) -> bool:
    """Renews the lease of a running attempt; False when it is no longer the one that counts."""
    return _change(session, _running(job_id, attempt).values(lease_expires_at=time.time() + lease_seconds))


def finish(session: Session, job_id: str, attempt: int, result: JobResult) -> bool:
    """Records the outcome of an attempt; False when it is no longer the one that counts."""
    return _change(
        session,
        _running(job_id, attempt).values(
            status=result.status,
            error_code=result.error_code,
            error=result.error,
            hint=result.hint,
            lease_owner=None,
            lease_expires_at=None,
            finished_at=utc_now(),
        ),
    )


def finish_queued(session: Session, job_id: str, result: JobResult) -> bool:
    """Records an outcome for a job that was never started; False when it no longer waits."""
    statement = update(JobRow).where(JobRow.id == job_id, JobRow.status == "queued")
    return _change(
        session,
        statement.values(
            status=result.status,
            error_code=result.error_code,
            error=result.error,
            hint=result.hint,
            finished_at=utc_now(),
        ),
    )


def give_back(session: Session, job_id: str, attempt: int) -> bool:
    """Queues an attempt again that was claimed and never started, once its lease has run out."""
    statement = _running(job_id, attempt).where(
        or_(JobRow.lease_expires_at.is_(None), JobRow.lease_expires_at < time.time())
    )
    return _change(session, statement.values(status="queued", lease_owner=None, lease_expires_at=None))


def requeue(session: Session, job_id: str, spec: JobSpec) -> bool:
    """Queues a failed or cancelled job again with a new spec; False when it is in another state."""
    statement = update(JobRow).where(JobRow.id == job_id, JobRow.status.in_(("failed", "cancelled")))
    return _change(
        session,
        statement.values(
            status="queued",
            spec=spec.model_dump(mode="json"),
            finished_at=None,
            error_code="",
            error="",
            hint="",
        ),
    )


def delete_jobs(session: Session, job_ids: Sequence[str]) -> None:
    """Deletes jobs, and the runs, evaluations and exports that are theirs."""
    for job_id in job_ids:
        row = session.get(JobRow, job_id)
        if row is not None:
            session.delete(row)
    session.flush()


def as_job(row: JobRow, folder: str) -> Job:
    """The row as its schema."""
    return Job(
        id=row.id,
        kind=cast(JobKind, row.kind),
        status=cast(JobStatus, row.status),
        folder=folder,
        project_id=row.project_id,
        idempotency_key=row.idempotency_key,
        attempts=row.attempts,
        error=row.error,
        hint=row.hint,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _running(job_id: str, attempt: int) -> Update:
    return update(JobRow).where(
        JobRow.id == job_id, JobRow.attempts == attempt, JobRow.status.in_(("running", "retrying"))
    )


def _change(session: Session, statement: Update) -> bool:
    # Rows in the session's memory are not kept in step: callers read again in a new session.
    outcome = session.execute(statement, execution_options={"synchronize_session": False})
    return cast("CursorResult[Any]", outcome).rowcount == 1
