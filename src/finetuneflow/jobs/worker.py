"""The process that does the work of one job: `python -m finetuneflow.jobs.worker FOLDER`.

It reads `job.json`, runs the stage, and writes `result.json`, whole and last. It never opens the database.
Tracebacks go to stderr, which the supervisor keeps in `worker.log`; a result holds a sentence and a way out.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from finetuneflow.artifacts import JOB, RESULT, WORKER_LOG, JobFolder, write_text
from finetuneflow.errors import FineTuneFlowError, InputError, JobCancelled
from finetuneflow.jobs.stages import STAGES, Stages, load_stage, stage_of
from finetuneflow.schemas.event import CompleteEvent, ErrorEvent, JobEvent
from finetuneflow.schemas.job import JobResult, JobSpec

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_DISK_FULL = 28
"""The result itself could not be written; the number is ENOSPC."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(arguments: Sequence[str], stages: Stages = STAGES) -> int:
    """Runs the job in the folder named by the only argument; gives the exit status."""
    folder = Path(arguments[0])
    asked_to_end = _listen()
    begun = time.monotonic()
    try:
        outcome = JobResult(status="success", result=_perform(folder, stages))
    except BaseException as error:
        if asked_to_end:
            _end_by_signal()
        # Everything, also SystemExit and KeyboardInterrupt: a job always says how it ended.
        if not isinstance(error, JobCancelled):
            _log(error)
        outcome = failure(error, folder)
    outcome.seconds = round(time.monotonic() - begun, 3)
    try:
        _tell(folder, outcome)
        write_text(folder / RESULT, outcome.model_dump_json(indent=1) + "\n")
    except (OSError, FineTuneFlowError) as error:
        _log(error)
        return EXIT_DISK_FULL
    return EXIT_OK if outcome.status == "success" else EXIT_FAILED


def _listen() -> list[int]:
    """Makes SIGTERM an exception, so that a stage can put away what it has elsewhere; gives its record."""
    asked_to_end: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough, and must not disturb the putting away
        asked_to_end.append(number)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    return asked_to_end


def _end_by_signal() -> None:
    """Ends without a result: the supervisor, who sent the signal or sees it, says how the job ended."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def _log(error: BaseException) -> None:
    # Past Python's buffers: what a full disk leaves in them would spoil the exit status.
    with suppress(OSError):
        os.write(sys.stderr.fileno(), "".join(traceback.format_exception(error)).encode())


def _perform(folder: Path, stages: Stages) -> dict[str, object]:
    spec = read_job(folder)
    stage = stage_of(spec, stages)
    try:
        config = stage.config.model_validate(spec.config)
        inputs = stage.inputs.model_validate(spec.inputs)
    except ValidationError as error:
        raise InputError(_first(error), "start the job again", path=folder / JOB) from error
    run = load_stage(stage)
    result = run(config, inputs, JobFolder(folder, resume=spec.resume))
    return result.model_dump(mode="json")


def read_job(folder: Path) -> JobSpec:
    """`job.json` of a folder. Raises InputError when it is missing or damaged."""
    try:
        return JobSpec.model_validate_json((folder / JOB).read_bytes())
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise InputError(message, "start the job again", path=folder / JOB) from error
    except ValidationError as error:
        raise InputError(_first(error), "start the job again", path=folder / JOB) from error


def _first(error: ValidationError) -> str:
    detail = error.errors()[0]
    return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"


def failure(error: BaseException, folder: Path) -> JobResult:
    """What a user reads about an exception: status, code, message, hint."""
    log = folder / WORKER_LOG
    if isinstance(error, JobCancelled):
        return JobResult(status="cancelled", error_code=error.code, error=error.message, hint=error.hint)
    if isinstance(error, FineTuneFlowError):
        return JobResult(status="failed", error_code=error.code, error=error.message, hint=error.hint)
    # By name: torch, whose class it is, must not be imported here.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _says_no_memory(error):
        return JobResult(
            status="failed",
            error_code="out_of_memory",
            error="the memory of the machine did not suffice",
            hint="lower per_device_batch_size or max_seq_length, or choose a smaller base model",
        )
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return disk_full(folder)
    return JobResult(
        status="failed",
        error_code="internal",
        error=f"unexpected {type(error).__name__}: {_one_line(error)}",
        hint=f"the details are in {log}",
    )


def disk_full(folder: Path) -> JobResult:
    """The outcome of a job that had no room."""
    return JobResult(
        status="failed",
        error_code="storage_failed",
        error=f"the disk is full, the job in `{folder}` stopped",
        hint="free some space and run it again",
    )


def _says_no_memory(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no message"


def _tell(folder: Path, outcome: JobResult) -> None:
    JobFolder(folder).emit(last_event(outcome))


def last_event(outcome: JobResult) -> JobEvent:
    """The event that closes an attempt: `complete` or `error`."""
    if outcome.status == "success":
        return CompleteEvent(seconds=outcome.seconds)
    return ErrorEvent(code=outcome.error_code, message=outcome.error, hint=outcome.hint)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
