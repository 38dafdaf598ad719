"""The local executor: jobs as detached processes of this machine."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from finetuneflow.artifacts import CANCEL, JOB, RESULT, SUPERVISOR_PID, WORKER_LOG, disk_errors, write_text
from finetuneflow.errors import FineTuneFlowError, StorageError
from finetuneflow.jobs.processes import end_session, is_alive
from finetuneflow.jobs.supervisor import EXIT_LOCKED, lost, read_state, write_outcome
from finetuneflow.jobs.worker import EXIT_DISK_FULL
from finetuneflow.schemas.job import JobResult, JobSpec

AttemptStatus = Literal["absent", "running", "ended"]
"""absent: no supervisor has shown up for this attempt; ended: it is gone, whatever it left."""
STALE_SECONDS = 60.0
"""A supervisor on another host counts as gone when its heartbeat is older."""
START_TIMEOUT_SECONDS = 120.0
_PYTHON = (sys.executable, "-P", "-m")  # -P: files in the working folder must not shadow packages


@dataclass(frozen=True)
class LocalExecutor:
    """Starts, watches and cancels jobs; holds no state but its options."""

    worker: tuple[str, ...] = (*_PYTHON, "finetuneflow.jobs.worker")
    """The worker's command; the folder is added."""
    grace_seconds: float = 5.0
    """What a worker is given to stop by itself after a cancel."""

    def submit(self, folder: Path, spec: JobSpec, attempt: int) -> None:
        """Starts an attempt; returns when its supervisor has taken over. Does nothing when one is at work.

        Raises StorageError, FineTuneFlowError when the supervisor does not come up.
        """
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / JOB, spec.model_dump_json(indent=1) + "\n")
            command = [
                *(*_PYTHON, "finetuneflow.jobs.supervisor", str(folder)),
                *("--attempt", str(attempt), "--grace-seconds", str(self.grace_seconds)),
                *("--", *self.worker),
            ]
            with (folder / WORKER_LOG).open("ab") as log:
                status = subprocess.run(  # noqa: S603 - our own command, no shell
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=START_TIMEOUT_SECONDS,
                    check=False,
                ).returncode
        if status == EXIT_DISK_FULL:
            message = f"the disk is full, `{folder}` was not written"
            raise StorageError(message, "free some space and run it again")
        if status not in (0, EXIT_LOCKED):
            raise FineTuneFlowError(
                f"the job's supervisor did not start (status {status})",
                f"the details are in {folder / WORKER_LOG}",
                code="worker_lost",
            )

    def status(self, folder: Path, attempt: int) -> AttemptStatus:
        """Where an attempt stands, from its folder alone."""
        state = read_state(folder)
        if state is None or state.attempt != attempt:
            return "absent"
        if state.supervisor.host != platform.node():
            return "running" if _age(folder / SUPERVISOR_PID) < STALE_SECONDS else "ended"
        return "running" if is_alive(state.supervisor) else "ended"

    def cancel(self, folder: Path) -> None:
        """Asks the job to stop; the supervisor ends its tree after the grace period."""
        with disk_errors(folder):
            (folder / CANCEL).touch()

    def prepare_resume(self, folder: Path) -> None:
        """Takes back an earlier cancel, so that the next attempt does not stop at once."""
        with disk_errors(folder):
            (folder / CANCEL).unlink(missing_ok=True)

    def outcome(self, folder: Path) -> JobResult:
        """The result of an attempt that has ended; one is written when its supervisor could not.

        What is left of its processes is killed first.
        """
        result = read_result(folder)
        if result is not None:
            return result
        state = read_state(folder)
        if state is not None and state.worker is not None:
            end_session(state.worker)
        if (folder / CANCEL).exists():
            result = JobResult(status="cancelled", error_code="cancelled", error="the job was cancelled")
        else:
            result = lost(folder, "the job's processes are gone and left no result")
        write_outcome(folder, result)
        return result


def read_result(folder: Path) -> JobResult | None:
    """`result.json` of a folder, or None."""
    try:
        return JobResult.model_validate_json((folder / RESULT).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        return lost(folder, f"`{folder / RESULT}` cannot be read")


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")
