"""Jobs with real processes: started, followed, killed, cancelled, resumed, settled."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetuneflow.artifacts import CANCEL, EVENTS, RESULT, Workspace, read_events
from finetuneflow.errors import FineTuneFlowError, JobCancelled, NotFoundError, UsageError
from finetuneflow.jobs.local import LocalExecutor, read_result
from finetuneflow.jobs.processes import is_alive
from finetuneflow.jobs.supervisor import SupervisorState, read_state
from finetuneflow.schemas.event import CompleteEvent, ErrorEvent, LogEvent, ProgressEvent
from finetuneflow.schemas.job import Job, JobSpec
from finetuneflow.services import jobs
from finetuneflow.services.context import Context
from finetuneflow.settings import Settings
from finetuneflow.store import queue
from finetuneflow.store.database import open_store

pytestmark = pytest.mark.integration

WORKER = (sys.executable, str(Path(__file__).with_name("stand_in_worker.py")))


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    settings = Settings(home=tmp_path, database_url=f"sqlite:///{tmp_path / 'test.db'}")
    store = open_store(settings.database_url)
    executor = LocalExecutor(worker=WORKER, grace_seconds=0.5)
    yield Context(settings, Workspace(tmp_path), store, executor)
    for folder in (tmp_path / "runs").glob("*"):
        _kill_everything(folder)
    store.close()


def _kill_everything(folder: Path) -> None:
    state = read_state(folder)
    for process in (state.supervisor, state.worker) if state else ():
        if process is not None and process.pid != os.getpid() and is_alive(process):
            os.kill(process.pid, signal.SIGKILL)


def spec(task: str, **config: Any) -> JobSpec:
    return JobSpec(id=jobs.new_id("run"), kind="train", config={"task": task, **config}, inputs={})


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def state_of(job: Job) -> SupervisorState:
    state = read_state(Path(job.folder))
    assert state is not None
    return state


def worker_pid(job: Job) -> int:
    until(lambda: state_of(job).worker)
    worker = state_of(job).worker
    assert worker is not None
    return worker.pid


def at_work(job: Job, steps: int = 1) -> None:
    until(lambda: len(read_events(Path(job.folder))) >= steps)


def test_a_job_that_ends_well_is_followed_from_its_first_event_to_its_last(context: Context) -> None:
    job = jobs.submit(context, spec("count", steps=20, step_seconds=0.01))
    assert job.status == "running"
    events = list(jobs.follow(context, job.id, poll_seconds=0.02))
    assert [event.id for event in events] == list(range(1, 22))
    assert [event.event.step for event in events if isinstance(event.event, ProgressEvent)] == list(
        range(1, 21)
    )
    assert isinstance(events[-1].event, CompleteEvent)
    ended = jobs.get_job(context, job.id)
    assert (ended.status, ended.attempts) == ("success", 1)
    assert ended.finished_at is not None
    assert jobs.ensure_success(context, job.id).result == {"steps": 20, "resumed": False}


def test_following_after_the_end_gives_what_is_above_the_number(context: Context) -> None:
    job = jobs.submit(context, spec("count", steps=5))
    assert jobs.wait(context, job.id, poll_seconds=0.02).status == "success"
    assert [event.id for event in jobs.follow(context, job.id, after=4)] == [5, 6]


def test_a_torn_last_line_is_not_read_and_costs_no_event(context: Context) -> None:
    job = jobs.submit(context, spec("count", steps=3))
    jobs.wait(context, job.id)
    with (Path(job.folder) / EVENTS).open("ab") as file:
        file.write(b'{"id": 5, "at": "20')
    assert [event.id for event in jobs.follow(context, job.id)] == [1, 2, 3, 4]


def test_an_unknown_job_is_not_found_before_the_first_event() -> None:
    with pytest.raises(NotFoundError):
        raise_for_unknown()


def raise_for_unknown() -> None:
    with _small_context() as context:
        jobs.follow(context, "run-none")


@contextmanager
def _small_context() -> Iterator[Context]:
    store = open_store("sqlite://")
    try:
        home = Path("nowhere")
        yield Context(Settings(home=home, database_url="sqlite://"), Workspace(home), store)
    finally:
        store.close()


@pytest.mark.parametrize(
    ("task", "code", "message"),
    [
        ("refuse", "training_failed", "the loss is not a number"),
        ("blunder", "internal", "unexpected KeyError"),
        ("run_out_of_memory", "out_of_memory", "memory"),
        ("unheard_of", "usage", "unheard_of"),
    ],
)
def test_a_failure_ends_as_a_sentence_and_a_hint(
    context: Context, task: str, code: str, message: str
) -> None:
    job = jobs.wait(context, jobs.submit(context, spec(task)).id, poll_seconds=0.02)
    assert job.status == "failed"
    assert message in job.error
    assert "Traceback" not in job.error
    assert job.hint
    with pytest.raises(FineTuneFlowError, match=message.replace("(", ".")) as caught:
        jobs.ensure_success(context, job.id)
    assert caught.value.code == code
    last = read_events(Path(job.folder))[-1].event
    assert isinstance(last, ErrorEvent)
    assert last.code == code


def test_a_killed_worker_is_told_with_the_command_that_goes_on(context: Context) -> None:
    job = jobs.submit(context, spec("count", steps=1000, step_seconds=0.05))
    at_work(job)
    os.kill(worker_pid(job), signal.SIGKILL)
    ended = jobs.wait(context, job.id, poll_seconds=0.02)
    assert ended.status == "failed"
    assert "signal 9" in ended.error
    assert f"finetuneflow runs resume {job.id}" in ended.hint
    events = read_events(Path(job.folder))
    assert [event.id for event in events] == list(range(1, len(events) + 1))


def test_a_killed_supervisor_takes_its_worker_along_and_is_settled(context: Context) -> None:
    job = jobs.submit(context, spec("count", steps=1000, step_seconds=0.05))
    at_work(job)
    pid = worker_pid(job)
    os.kill(state_of(job).supervisor.pid, signal.SIGKILL)
    until(lambda: not _runs(pid))
    assert [changed.id for changed in jobs.settle(context)] == [job.id]
    ended = jobs.get_job(context, job.id)
    assert ended.status == "failed"
    assert "runs resume" in ended.hint
    assert jobs.settle(context) == []


def test_a_result_that_the_database_never_heard_of_is_taken_from_the_folder(context: Context) -> None:
    job = jobs.submit(context, spec("count", steps=1))
    until(lambda: not is_alive(state_of(job).supervisor))
    with context.store.read() as session:
        row = queue.get_job(session, job.id)
        assert row is not None
        assert row.status == "running"
    assert [changed.status for changed in jobs.settle(context)] == ["success"]


def test_a_running_job_is_adopted_and_its_lease_renewed(context: Context) -> None:
    job = jobs.submit(context, spec("count", steps=1000, step_seconds=0.05))
    with context.store.write() as session:
        row = queue.get_job(session, job.id)
        assert row is not None
        row.lease_expires_at = 1.0
    assert jobs.settle(context) == []
    with context.store.read() as session:
        row = queue.get_job(session, job.id)
        assert row is not None
        assert (row.lease_expires_at or 0) > time.time()
    jobs.cancel(context, job.id)
    assert jobs.wait(context, job.id).attempts == 1


def test_a_cancel_lets_the_worker_stop_by_itself(context: Context) -> None:
    job = jobs.submit(context, spec("count", steps=1000, step_seconds=0.02))
    at_work(job, 3)
    jobs.cancel(context, job.id)
    ended = jobs.wait(context, job.id, poll_seconds=0.02)
    assert ended.status == "cancelled"
    assert "cancelled at step" in ended.error
    with pytest.raises(JobCancelled):
        jobs.ensure_success(context, job.id)
    assert jobs.cancel(context, job.id).status == "cancelled"


def test_a_cancel_ends_a_tree_that_does_not_want_to(context: Context) -> None:
    job = jobs.submit(context, spec("ignore_cancel"))
    at_work(job)
    told = read_events(Path(job.folder))[0].event
    assert isinstance(told, LogEvent)
    pids = [int(word) for word in told.message.split()[1:]]
    assert all(map(_runs, pids))
    begun = time.monotonic()
    jobs.cancel(context, job.id)
    assert jobs.wait(context, job.id, poll_seconds=0.02).status == "cancelled"
    assert time.monotonic() - begun < 10
    assert not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_cancelled_job_is_resumed_in_its_folder_with_the_next_event(context: Context) -> None:
    asked = spec("count", steps=30, step_seconds=0.02)
    job = jobs.submit(context, asked)
    at_work(job)
    jobs.cancel(context, job.id)
    jobs.wait(context, job.id, poll_seconds=0.02)
    before = len(read_events(Path(job.folder)))
    again = jobs.resubmit(context, asked.model_copy(update={"resume": True}))
    assert again.folder == job.folder
    assert not (Path(job.folder) / CANCEL).exists()
    ended = jobs.wait(context, job.id, poll_seconds=0.02)
    assert (ended.status, ended.attempts) == ("success", 2)
    assert jobs.ensure_success(context, job.id).result["resumed"] is True
    events = read_events(Path(job.folder))
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert len(events) == before + 31
    with pytest.raises(UsageError):
        jobs.resubmit(context, asked)


def test_one_key_starts_one_job_however_many_ask_at_once(context: Context) -> None:
    ids: list[str] = []
    errors: list[Exception] = []

    def ask() -> None:
        try:
            ids.append(jobs.submit(context, spec("count", steps=2), idempotency_key="k").id)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert jobs.wait(context, ids[0]).attempts == 1
    assert [path.name for path in (context.workspace.home / "runs").iterdir()] == [ids[0]]
    with pytest.raises(UsageError) as caught:
        jobs.submit(context, spec("count", steps=3), idempotency_key="k")
    assert caught.value.code == "idempotency_conflict"


def test_a_job_that_was_queued_and_never_started_is_started_by_whoever_settles(context: Context) -> None:
    forgotten = spec("count", steps=1)
    with context.store.write() as session:
        queue.add_job(session, forgotten, request_hash="")
    jobs.settle(context)
    assert jobs.wait(context, forgotten.id).status == "success"


def test_a_start_that_overslept_its_lease_does_not_start_a_second_worker(context: Context) -> None:
    slow = spec("count", steps=40, step_seconds=0.02)
    with context.store.write() as session:
        queue.add_job(session, slow, request_hash="")
        first = queue.claim(session, "sleeper", job_id=slow.id, lease_seconds=-1)
    assert first is not None
    jobs.settle(context)
    job = jobs.get_job(context, slow.id)
    assert (job.status, job.attempts) == ("running", 2)
    context.executor.submit(Path(job.folder), slow, first.attempt)
    assert state_of(job).attempt == 2
    jobs.wait(context, job.id, poll_seconds=0.02)
    context.executor.submit(Path(job.folder), slow, first.attempt)
    assert state_of(job).attempt == 2, "also when the newer attempt has ended"
    events = read_events(Path(job.folder))
    assert len(events) == 41
    assert jobs.get_job(context, job.id).status == "success"


def test_a_number_that_went_to_a_stranger_is_not_taken_for_the_supervisor(context: Context) -> None:
    job = jobs.submit(context, spec("count", steps=1))
    until(lambda: not is_alive(state_of(job).supervisor))
    (Path(job.folder) / RESULT).unlink()
    state = state_of(job)
    state.supervisor.pid = os.getpid()
    (Path(job.folder) / "supervisor.json").write_text(state.model_dump_json(), encoding="utf-8")
    assert jobs.get_job(context, job.id).status == "failed"


def test_a_worker_that_cannot_be_started_fails_the_job(context: Context) -> None:
    broken = Context(
        context.settings, context.workspace, context.store, LocalExecutor(worker=("/nonexistent/python",))
    )
    asked = spec("count")
    with pytest.raises(FineTuneFlowError, match="did not start"):
        jobs.submit(broken, asked)
    assert jobs.get_job(context, asked.id).status == "failed"


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[None]:
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("a small disk needs root and mount")
    folder.mkdir(parents=True)
    made = subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=False)
    if made.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield
    finally:
        until(
            lambda: subprocess.run(["umount", str(folder)], check=False, capture_output=True).returncode == 0
        )


def test_a_full_disk_fails_the_job_with_that_reason(context: Context) -> None:
    with _small_disk(context.workspace.home / "runs", "512k"):
        job = jobs.submit(context, spec("fill_disk", bytes=4 << 20))
        ended = jobs.wait(context, job.id, poll_seconds=0.02)
        assert ended.status == "failed"
        assert "disk is full" in ended.error
        assert "free some space" in ended.hint
        until(lambda: not is_alive(state_of(job).supervisor))
        assert not list(Path(job.folder).glob(".*"))


def test_a_result_file_cut_short_fails_the_job_and_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / RESULT).write_text('{"status": "succ', encoding="utf-8")
    result = read_result(tmp_path)
    assert result is not None
    assert result.status == "failed"
