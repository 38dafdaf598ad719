"""Jobs: started once, followed live, cancelled as a whole tree, settled after a crash."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from finetuneflow.artifacts import EVENTS
from finetuneflow.errors import FineTuneFlowError, JobCancelled, NotFoundError, UsageError
from finetuneflow.jobs.local import read_result as read_result  # the other services read results too
from finetuneflow.schemas.event import NumberedEvent
from finetuneflow.schemas.job import Job, JobKind, JobResult, JobSpec, JobStatus
from finetuneflow.services.context import Context
from finetuneflow.store import queue
from finetuneflow.store.database import ConstraintViolation, Session
from finetuneflow.store.tables import JobRow

ENDED: tuple[JobStatus, ...] = ("success", "failed", "cancelled")
OPEN: tuple[JobStatus, ...] = ("queued", "running", "retrying")
MAX_STARTS = 5
"""Times that a job which never got a supervisor is started before it counts as failed."""
LEASE_REFRESH_SECONDS = queue.LEASE_SECONDS / 3
READ_BYTES = 1 << 20


def new_id(prefix: str) -> str:
    """A short id that sorts by time, such as `run-20261120-143015-a1b2c3`."""
    return f"{prefix}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def submit(
    context: Context,
    spec: JobSpec,
    *,
    idempotency_key: str | None = None,
    project_id: str | None = None,
    record: Callable[[Session], None] | None = None,
) -> Job:
    """Queues a job and starts it; gives the row. The same key gives the same job, however often it is called.

    `record` writes further rows in the transaction that queues the job, only when the job is new. Files that
    the stage needs may lie in the job's folder already.
    Raises UsageError (code `idempotency_conflict`) when the key was used for something else, StorageError
    when the job folder cannot be written.
    """
    request = hashlib.sha256(_request(spec).encode()).hexdigest()
    job_id = spec.id
    try:
        with context.store.write() as session:
            known = queue.find_key(session, idempotency_key) if idempotency_key else None
            if known is not None:
                job_id = _same_request(known, request)
            else:
                queue.add_job(
                    session,
                    spec,
                    request_hash=request,
                    idempotency_key=idempotency_key,
                    project_id=project_id,
                )
                if record is not None:
                    record(session)
    except ConstraintViolation:
        # PostgreSQL lets two writers look for the key before one of them has written it.
        with context.store.read() as session:
            known = queue.find_key(session, idempotency_key) if idempotency_key else None
        if known is None:
            raise
        job_id = _same_request(known, request)
    if job_id == spec.id:
        _dispatch(context, job_id)
    else:
        # What the caller laid ready for the new job is not needed.
        shutil.rmtree(_folder(context, spec.kind, spec.id), ignore_errors=True)
    return get_job(context, job_id)


def resubmit(context: Context, spec: JobSpec) -> Job:
    """Starts a failed or cancelled job again in its folder; events go on with the next number.

    Raises UsageError when it is in another state.
    """
    job = get_job(context, spec.id)
    if job.status in ("failed", "cancelled"):
        context.executor.prepare_resume(Path(job.folder))
        with context.store.write() as session:
            queued = queue.requeue(session, spec.id, spec)
    else:
        queued = False
    if not queued:
        status = get_job(context, spec.id).status
        raise UsageError(f"job {spec.id} is {status}, it cannot be started again", "start a new one")
    _dispatch(context, spec.id)
    return get_job(context, spec.id)


def _request(spec: JobSpec) -> str:
    # Paths inside the job's own folder hold its id, which is new with every call.
    values = json.dumps([spec.kind, spec.config, spec.inputs], sort_keys=True, ensure_ascii=False)
    return values.replace(spec.id, "")


def _same_request(row: JobRow, request: str) -> str:
    if row.request_hash != request:
        raise UsageError(
            f"the idempotency key of job {row.id} was used for another request",
            "use a new key, or repeat the same request",
            code="idempotency_conflict",
        )
    return row.id


def _dispatch(context: Context, job_id: str) -> None:
    """Takes a queued job and starts it; does nothing when another process was faster."""
    with context.store.write() as session:
        claimed = queue.claim(session, f"{platform.node()}/{os.getpid()}", job_id=job_id)
    if claimed is None:
        return
    spec, attempt = claimed
    try:
        context.executor.submit(_folder(context, spec.kind, spec.id), spec, attempt)
    except (OSError, FineTuneFlowError) as error:
        failed = JobResult(status="failed", error_code="start_failed", error=str(error))
        if isinstance(error, FineTuneFlowError):
            failed.error_code, failed.hint = error.code, error.hint
        with context.store.write() as session:
            queue.finish(session, job_id, attempt, failed)
        raise


def follow(
    context: Context, job_id: str, *, after: int = 0, poll_seconds: float = 0.1
) -> Iterator[NumberedEvent]:
    """Events numbered above `after`, those already written and those to come, until the job has ended.

    Raises NotFoundError at once.
    """
    return _follow(context, get_job(context, job_id), after, poll_seconds)


def _follow(context: Context, job: Job, after: int, poll_seconds: float) -> Iterator[NumberedEvent]:
    path = Path(job.folder) / EVENTS
    position = 0
    watch = _watch(context, job.id)
    while True:
        # The state first, then the file: what was written before the end is then surely read.
        job = next(watch)
        while (read := _read_whole_lines(path, position)) is not None:
            position, lines = read
            for line in lines:
                event = NumberedEvent.model_validate_json(line)
                if event.id > after:
                    after = event.id
                    yield event
        if job.status in ENDED:
            return
        time.sleep(poll_seconds)


def _read_whole_lines(path: Path, position: int) -> tuple[int, list[bytes]] | None:
    """The next whole lines from `position`, and the position after them; None when there is none yet."""
    try:
        with path.open("rb") as file:
            file.seek(position)
            data = file.read(READ_BYTES)
            while data and b"\n" not in data and (more := file.read(READ_BYTES)):
                data += more
    except FileNotFoundError:
        return None
    whole = data.rfind(b"\n") + 1
    return (position + whole, data[:whole].split(b"\n")[:-1]) if whole else None


def _watch(context: Context, job_id: str) -> Iterator[Job]:
    """The job as it is now, and again: asks the folder, and the database for a change or a lease."""
    job = get_job(context, job_id)
    asked = time.monotonic()
    while True:
        yield job
        if job.status in ENDED:
            continue
        at_work = context.executor.status(Path(job.folder), job.attempts) == "running"
        if not at_work or time.monotonic() - asked > LEASE_REFRESH_SECONDS:
            job = get_job(context, job_id)
            asked = time.monotonic()


def wait(
    context: Context, job_id: str, *, poll_seconds: float = 0.1, timeout_seconds: float | None = None
) -> Job:
    """The job once it has ended (success, failed or cancelled), or as it is after `timeout_seconds`."""
    begun = time.monotonic()
    for job in _watch(context, job_id):
        late = timeout_seconds is not None and time.monotonic() - begun >= timeout_seconds
        if job.status in ENDED or late:
            return job
        time.sleep(poll_seconds)
    raise AssertionError("a watch has no end")


def cancel(context: Context, job_id: str) -> Job:
    """Asks a job to stop and gives its row at once; `wait` gives the outcome.

    A job that ended is left as it is.
    """
    job = get_job(context, job_id)
    if job.status == "queued":
        cancelled = JobResult(status="cancelled", error_code="cancelled", error="cancelled before it started")
        with context.store.write() as session:
            queue.finish_queued(session, job_id, cancelled)
        job = get_job(context, job_id)
    if job.status in OPEN:
        context.executor.cancel(Path(job.folder))
    return job


def get_job(context: Context, job_id: str) -> Job:
    """The job as it is now. Raises NotFoundError."""
    job = _get(context, job_id)
    return job if job.status in ENDED else _settle(context, job)


def _get(context: Context, job_id: str) -> Job:
    with context.store.read() as session:
        row = queue.get_job(session, job_id)
    if row is None:
        raise NotFoundError(f"there is no job `{job_id}`", "`finetuneflow runs list` shows the runs")
    return as_job(context, row)


def list_jobs(
    context: Context, *, status: JobStatus | None = None, kind: JobKind | None = None, limit: int = 100
) -> list[Job]:
    """Jobs, newest first."""
    settle(context)
    with context.store.read() as session:
        rows = queue.list_jobs(session, statuses=(status,) if status else (), kind=kind, limit=limit)
    return [as_job(context, row) for row in rows]


def job_result(context: Context, job_id: str) -> JobResult:
    """How a job ended: `result.json`, or what the database knows.

    Raises NotFoundError, UsageError while it runs.
    """
    job = get_job(context, job_id)
    if job.status not in ENDED:
        raise UsageError(f"job {job_id} is still {job.status}", "wait until it has ended", code="job_running")
    result = read_result(Path(job.folder)) if job.attempts else None
    if result is None or result.status != job.status:
        return JobResult(status=job.status, error_code="start_failed", error=job.error, hint=job.hint)
    return result


def ensure_success(context: Context, job_id: str) -> JobResult:
    """The result of a job that ended well; otherwise raises the job's own failure (code, message, hint).

    Raises JobCancelled when it was cancelled.
    """
    result = job_result(context, job_id)
    if result.status == "cancelled":
        raise JobCancelled(result.error or "the job was cancelled", result.hint)
    if result.status != "success":
        raise FineTuneFlowError(result.error, result.hint, code=result.error_code or None)
    return result


def settle(context: Context) -> list[Job]:
    """Adopts jobs that still run and settles those that died; gives the jobs whose status changed."""
    with context.store.read() as session:
        rows = queue.list_jobs(session, statuses=OPEN, limit=None)
    changed = []
    for row in rows:
        before = as_job(context, row)
        after = _settle(context, before)
        if after.status != before.status:
            changed.append(after)
    return changed


def _settle(context: Context, job: Job) -> Job:
    """Brings one open job's row up to its folder: adopted, ended, or started when nobody ever did."""
    folder = Path(job.folder)
    if job.status == "queued":
        return _start_forgotten(context, job)
    status = context.executor.status(folder, job.attempts)
    if status == "running":
        with context.store.read() as session:
            row = queue.get_job(session, job.id)
        lease = 0.0 if row is None else row.lease_expires_at or 0.0
        if lease - time.time() < queue.LEASE_SECONDS - LEASE_REFRESH_SECONDS:
            with context.store.write() as session:
                queue.heartbeat(session, job.id, job.attempts)
        return job
    if status == "ended":
        outcome = context.executor.outcome(folder)
        with context.store.write() as session:
            queue.finish(session, job.id, job.attempts, outcome)
        return _get(context, job.id)
    return _start_abandoned(context, job)


def _start_forgotten(context: Context, job: Job) -> Job:
    try:
        _dispatch(context, job.id)
    except (OSError, FineTuneFlowError):
        pass  # the row now says why
    return _get(context, job.id)


def _start_abandoned(context: Context, job: Job) -> Job:
    """A job that was claimed by a process which died before it could start a supervisor."""
    if job.attempts >= MAX_STARTS:
        failed = JobResult(
            status="failed",
            error_code="start_failed",
            error=f"the job was started {job.attempts} times and never came up",
            hint=f"the log is in {job.folder}",
        )
        with context.store.write() as session:
            queue.finish(session, job.id, job.attempts, failed)
        return _get(context, job.id)
    with context.store.write() as session:
        given_back = queue.give_back(session, job.id, job.attempts)
    return _start_forgotten(context, job) if given_back else _get(context, job.id)


def as_job(context: Context, row: JobRow) -> Job:
    """A row as its schema, with the absolute path of its folder."""
    return queue.as_job(row, str(_folder(context, cast(JobKind, row.kind), row.id)))


def _folder(context: Context, kind: str, job_id: str) -> Path:
    return context.workspace.job(kind, job_id)
