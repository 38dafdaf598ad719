"""A worker whose stages are stand-ins: the same `main`, another table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from finetuneflow.artifacts import JobFolder
from finetuneflow.errors import JobCancelled, TrainingError
from finetuneflow.jobs.stages import Stage
from finetuneflow.jobs.worker import main
from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.event import LogEvent, ProgressEvent


class Config(Schema):
    """What the stand-in shall do."""

    task: str
    steps: int = 0
    step_seconds: float = 0.0
    bytes: int = 0


class Inputs(Schema):
    """Nothing."""


class Result(Schema):
    """What it gives."""

    steps: int
    resumed: bool = False


def count(config: Config, inputs: Inputs, job: JobFolder) -> Result:
    """Steps with an event each; stops when asked."""
    for step in range(1, config.steps + 1):
        if job.cancelled():
            raise JobCancelled(f"cancelled at step {step}")
        job.emit(ProgressEvent(stage="train", step=step, total_steps=config.steps))
        time.sleep(config.step_seconds)
    return Result(steps=config.steps, resumed=job.resume)


def refuse(config: Config, inputs: Inputs, job: JobFolder) -> Result:
    """Fails with a message for people."""
    raise TrainingError("the loss is not a number", "lower learning_rate")


def blunder(config: Config, inputs: Inputs, job: JobFolder) -> Result:
    """Fails with a programming error."""
    raise KeyError("no such thing")


def run_out_of_memory(config: Config, inputs: Inputs, job: JobFolder) -> Result:
    """Fails as an allocation does."""
    raise MemoryError


def fill_disk(config: Config, inputs: Inputs, job: JobFolder) -> Result:
    """Writes until there is no room."""
    with (job.path / "large").open("wb", buffering=0) as file:
        for _ in range(config.bytes // 65536):
            file.write(b"x" * 65536)
    return Result(steps=0)


def ignore_cancel(config: Config, inputs: Inputs, job: JobFolder) -> Result:
    """Ignores what one can ignore, beside an orphan in a session of its own that does the same."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    script = "trap '' TERM; setsid sleep 600 >/dev/null 2>&1 & echo $!"
    orphan = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True).stdout
    job.emit(LogEvent(message=f"pids {os.getpid()} {orphan}"))
    time.sleep(600)
    return Result(steps=0)


def _stage(name: str) -> Stage:
    return Stage(f"__main__:{name}", Config, Inputs, "train")


STAGES: dict[str, Any] = {
    f"train/{function.__name__}": _stage(function.__name__)
    for function in (count, refuse, blunder, run_out_of_memory, fill_disk, ignore_cancel)
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], STAGES))
