"""The process that watches one worker: `python -m finetuneflow.jobs.supervisor FOLDER -- COMMAND…`.

It leaves its starter's session and outlives it, takes in the worker's orphans, ends the whole process tree on
a cancel, and writes the outcome when the worker could not. It knows the folder, never the database. The
folder is locked while it lives, so that two supervisors never run one job.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from finetuneflow.artifacts import (
    CANCEL,
    JOB,
    RESULT,
    SUPERVISOR_PID,
    WORKER_LOG,
    JobFolder,
    disk_errors,
    write_text,
)
from finetuneflow.errors import FineTuneFlowError, StorageError
from finetuneflow.jobs.processes import (
    ProcessIdentity,
    adopt_orphans,
    end_descendants,
    end_with_parent,
    identify,
    reap,
)
from finetuneflow.jobs.worker import EXIT_DISK_FULL, EXIT_OK, disk_full, last_event
from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.job import JobResult, JobSpec

EXIT_LOCKED = 3
"""Another supervisor is at work, or a newer attempt was."""
STARTED = {b"1": EXIT_OK, b"l": EXIT_LOCKED, b"f": EXIT_DISK_FULL}
"""What the detached process tells its starter, as exit status."""
POLL_SECONDS = 0.05
PATIENT_THREADS = {"GOMP_SPINCOUNT": "10000"}
"""Waiting threads spin a little, then give the core away: for ever spinning ones stall on a busy machine."""
HEARTBEAT_SECONDS = 2.0
TERM_SECONDS = 2.0
"""Between SIGTERM and SIGKILL for a tree that did not stop by itself."""
WRITE_RETRY_SECONDS = 30.0
RESERVE = ".reserve"
RESERVE_BYTES = 64 * 1024
"""Room kept on disk from the start, so that a job on a full one can still say so."""


class SupervisorState(Schema):
    """`supervisor.json`; its modification time is the heartbeat."""

    attempt: int
    supervisor: ProcessIdentity
    worker: ProcessIdentity | None = None


def read_state(folder: Path) -> SupervisorState | None:
    """`supervisor.json` of a folder, or None."""
    try:
        return SupervisorState.model_validate_json((folder / SUPERVISOR_PID).read_bytes())
    except (OSError, ValidationError):
        return None


def main(arguments: Sequence[str]) -> int:
    """Detaches, then watches; the starter gets status 0 once the worker is started."""
    options = _parse(arguments)
    folder: Path = options.folder
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return EXIT_LOCKED
    ready, tell = os.pipe()
    if os.fork():
        os.close(tell)
        return STARTED.get(os.read(ready, 1), 1)
    os.close(ready)
    os.setsid()
    try:
        status = _supervise(folder, options.attempt, options.grace_seconds, options.command, tell)
    except StorageError:
        traceback.print_exc()
        os.write(tell, b"f")
        status = EXIT_DISK_FULL
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="finetuneflow.jobs.supervisor")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--grace-seconds", type=float, default=5.0)
    split = list(arguments).index("--")
    options = parser.parse_args(arguments[:split])
    options.command = [*arguments[split + 1 :], str(options.folder)]
    return options


def _supervise(folder: Path, attempt: int, grace_seconds: float, command: list[str], tell: int) -> int:
    begun = time.monotonic()
    asked_to_end = _listen()
    adopt_orphans()
    state = SupervisorState(attempt=attempt, supervisor=identify(os.getpid()))
    previous = read_state(folder)
    if previous is not None and previous.attempt >= attempt:
        os.write(tell, b"l")  # a starter that slept while its lease ran out, and another took over
        return EXIT_LOCKED
    with disk_errors(folder):
        (folder / RESULT).unlink(missing_ok=True)
    # Before the worker starts: whoever finds no such file may start the job.
    write_text(folder / SUPERVISOR_PID, state.model_dump_json(indent=1) + "\n")
    _reserve(folder / RESERVE)
    with (folder / WORKER_LOG).open("ab") as log:
        worker = subprocess.Popen(  # noqa: S603 - our own command, no shell
            command,
            env=PATIENT_THREADS | os.environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=end_with_parent(),
        )
    try:
        state.worker = identify(worker.pid)
        write_text(folder / SUPERVISOR_PID, state.model_dump_json(indent=1) + "\n")
    except ProcessLookupError:
        pass  # it has ended already
    os.write(tell, b"1")
    os.close(tell)
    _watch(folder, worker, grace_seconds, asked_to_end)
    end_descendants(grace_seconds=TERM_SECONDS)
    worker.wait()
    if not (folder / RESULT).exists():
        outcome = _outcome(folder, worker.returncode, ended=bool(asked_to_end))
        outcome.seconds = round(time.monotonic() - begun, 3)
        write_outcome(folder, outcome, retry_seconds=WRITE_RETRY_SECONDS)
    (folder / RESERVE).unlink(missing_ok=True)
    return 0


def _reserve(path: Path) -> None:
    with disk_errors(path), path.open("wb") as file:
        file.write(bytes(RESERVE_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _listen() -> list[int]:
    asked_to_end: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        asked_to_end.append(number)

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return asked_to_end


def _watch(
    folder: Path, worker: subprocess.Popen[bytes], grace_seconds: float, asked_to_end: list[int]
) -> None:
    """Returns when the worker has ended, or when it should and did not within the grace period."""
    cancelled_at: float | None = None
    beat = reaped = time.monotonic()
    while worker.poll() is None and not asked_to_end:
        now = time.monotonic()
        if now - beat >= HEARTBEAT_SECONDS:
            beat = now
            _touch(folder / SUPERVISOR_PID)
        if now - reaped >= 1.0:
            reaped = now
            reap(keep=worker.pid)
        if cancelled_at is None and (folder / CANCEL).exists():
            cancelled_at = now
        if cancelled_at is not None and now - cancelled_at >= grace_seconds:
            return
        time.sleep(POLL_SECONDS)


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:
        return  # a heartbeat that cannot be written is no reason to end a run


def _outcome(folder: Path, returncode: int, *, ended: bool) -> JobResult:
    if (folder / CANCEL).exists():
        return JobResult(status="cancelled", error_code="cancelled", error="the job was cancelled")
    if ended:
        return lost(folder, "the job was ended from outside (SIGTERM to its supervisor)")
    if returncode == -signal.SIGKILL:
        return lost(folder, "the worker was killed (signal 9), by hand or because memory ran out")
    if returncode < 0:
        return lost(folder, f"the worker was killed (signal {-returncode})")
    if returncode == EXIT_DISK_FULL or shutil.disk_usage(folder).free < RESERVE_BYTES:
        return disk_full(folder)
    return lost(folder, f"the worker ended with status {returncode} and left no result")


def lost(folder: Path, message: str) -> JobResult:
    """A failed outcome for a worker that could not speak for itself, with the way to go on."""
    try:
        spec = JobSpec.model_validate_json((folder / JOB).read_bytes())
        again = f"finetuneflow runs resume {spec.id}" if spec.kind == "train" else "start it again"
    except (OSError, ValueError):
        again = "start it again"
    return JobResult(
        status="failed",
        error_code="worker_lost",
        error=message,
        hint=f"{again} (the log is {folder / WORKER_LOG})",
    )


def write_outcome(folder: Path, outcome: JobResult, *, retry_seconds: float = 0.0) -> bool:
    """Writes the last event and `result.json`, again and again for a while when the disk is full."""
    begun = time.monotonic()
    (folder / RESERVE).unlink(missing_ok=True)
    while True:
        try:
            JobFolder(folder).emit(last_event(outcome))
            write_text(folder / RESULT, outcome.model_dump_json(indent=1) + "\n")
            return True
        except (OSError, FineTuneFlowError):
            if time.monotonic() - begun >= retry_seconds:
                return False
            time.sleep(1.0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
