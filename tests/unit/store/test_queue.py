"""The job queue: taken once, fenced, given back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from finetuneflow.schemas.job import JobResult, JobSpec
from finetuneflow.store import queue
from finetuneflow.store.database import ConstraintViolation, Store, open_store
from finetuneflow.store.tables import Base

POSTGRES_URL = os.environ.get("FTF_TEST_POSTGRES_URL")
"""An empty PostgreSQL database for these tests; without it they run on SQLite alone."""
SUCCESS = JobResult(status="success")
FAILED = JobResult(status="failed", error_code="x", error="it broke", hint="mend it")


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        opened = open_store(f"sqlite:///{tmp_path / 'a.db'}")
    elif POSTGRES_URL is None:
        pytest.skip("FTF_TEST_POSTGRES_URL names no database")
    else:
        opened = open_store(POSTGRES_URL)
    yield opened
    if request.param == "postgresql":
        with opened.engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(text(f"DELETE FROM {table.name}"))  # noqa: S608
    opened.close()


def add(store: Store, job_id: str, key: str | None = None) -> None:
    spec = JobSpec(id=job_id, kind="train", config={"é": 1}, inputs={})
    with store.write() as session:
        queue.add_job(session, spec, request_hash="h", idempotency_key=key)


def claim(store: Store, job_id: str | None = None, lease_seconds: float = 30.0) -> queue.Claimed | None:
    with store.write() as session:
        return queue.claim(session, "owner", job_id=job_id, lease_seconds=lease_seconds)


def finish(store: Store, job_id: str, attempt: int, result: JobResult) -> bool:
    with store.write() as session:
        return queue.finish(session, job_id, attempt, result)


def status(store: Store, job_id: str) -> tuple[str, int]:
    with store.read() as session:
        row = queue.get_job(session, job_id)
    assert row is not None
    return row.status, row.attempts


def test_the_oldest_job_is_taken_first_with_all_it_needs(store: Store) -> None:
    add(store, "run-1")
    add(store, "run-2")
    first = claim(store)
    assert first is not None
    assert (first.spec.id, first.attempt, first.spec.config) == ("run-1", 1, {"é": 1})
    assert status(store, "run-1") == ("running", 1)
    second = claim(store)
    assert second is not None
    assert second.spec.id == "run-2"
    assert claim(store) is None


def test_a_job_is_taken_once_by_many(store: Store) -> None:
    for number in range(4):
        add(store, f"run-{number}")
    taken: list[str] = []

    def take() -> None:
        while (claimed := claim(store)) is not None:
            taken.append(claimed.spec.id)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == ["run-0", "run-1", "run-2", "run-3"]


def test_a_key_is_kept_once(store: Store) -> None:
    add(store, "run-1", "k")
    with pytest.raises(ConstraintViolation):
        add(store, "run-2", "k")
    with store.read() as session:
        known = queue.find_key(session, "k")
    assert known is not None
    assert known.id == "run-1"


def test_an_outcome_of_an_older_attempt_changes_nothing(store: Store) -> None:
    add(store, "run-1")
    claim(store, lease_seconds=-1)
    with store.write() as session:
        assert queue.give_back(session, "run-1", 1)
    claim(store)
    assert not finish(store, "run-1", 1, FAILED)
    with store.write() as session:
        assert not queue.heartbeat(session, "run-1", 1)
        assert queue.heartbeat(session, "run-1", 2)
    assert finish(store, "run-1", 2, SUCCESS)
    assert status(store, "run-1") == ("success", 2)
    assert not finish(store, "run-1", 2, FAILED)


def test_a_lease_that_holds_is_not_given_back(store: Store) -> None:
    add(store, "run-1")
    claim(store)
    with store.write() as session:
        assert not queue.give_back(session, "run-1", 1)
    assert status(store, "run-1") == ("running", 1)


def test_only_what_failed_or_was_cancelled_is_queued_again(store: Store) -> None:
    add(store, "run-1")
    again = JobSpec(id="run-1", kind="train", config={}, inputs={}, resume=True)
    with store.write() as session:
        assert not queue.requeue(session, "run-1", again)
    claim(store)
    finish(store, "run-1", 1, FAILED)
    with store.read() as session:
        row = queue.get_job(session, "run-1")
    assert row is not None
    assert (row.error, row.hint) == ("it broke", "mend it")
    with store.write() as session:
        assert queue.requeue(session, "run-1", again)
    claimed = claim(store)
    assert claimed is not None
    assert (claimed.attempt, claimed.spec.resume) == (2, True)
    finish(store, "run-1", 2, SUCCESS)
    with store.write() as session:
        assert not queue.requeue(session, "run-1", again)


def test_a_waiting_job_can_be_cancelled_and_is_not_taken_then(store: Store) -> None:
    add(store, "run-1")
    with store.write() as session:
        assert queue.finish_queued(session, "run-1", JobResult(status="cancelled"))
    assert claim(store) is None
    assert status(store, "run-1") == ("cancelled", 0)


def test_jobs_are_listed_newest_first_by_status(store: Store) -> None:
    for number in range(3):
        add(store, f"run-{number}")
    claim(store, "run-1")
    with store.read() as session:
        assert [row.id for row in queue.list_jobs(session)] == ["run-2", "run-1", "run-0"]
        assert [row.id for row in queue.list_jobs(session, statuses=("queued",), limit=1)] == ["run-2"]
