"""A job's events as they come: a live bar in a terminal, a sparse line now and then elsewhere (stderr)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from finetuneflow.cli.output import has_colour, say, visible
from finetuneflow.cli.tables import duration
from finetuneflow.errors import FineTuneFlowError, JobCancelled
from finetuneflow.schemas.event import (
    CompleteEvent,
    ErrorEvent,
    EvalEvent,
    JobEvent,
    LogEvent,
    NumberedEvent,
    ProgressEvent,
)
from finetuneflow.schemas.job import Job
from finetuneflow.services import jobs
from finetuneflow.services.context import Context

SECONDS_BETWEEN_LINES = 5.0
PREFIX = {"info": "", "warning": "warning: ", "error": "error: "}


class Lines:
    """Progress as lines, for logs and pipes: one every few seconds, and every measurement."""

    def __init__(self, seconds_between: float = SECONDS_BETWEEN_LINES) -> None:
        self._seconds_between = seconds_between
        self._last = 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, event: JobEvent) -> None:
        """Writes what is worth a line."""
        if isinstance(event, ProgressEvent):
            done = event.step >= event.total_steps
            if done or time.monotonic() - self._last >= self._seconds_between:
                self._last = time.monotonic()
                say(f"  {event.stage} {event.step}/{event.total_steps}  {figures(event)}".rstrip())
        else:
            text = sentence(event)
            if text:
                say(f"  {text}")


class Bar:
    """Progress as a live bar with loss, tokens per second and the time that remains; one after the other."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def show(self, event: JobEvent) -> None:
        """Moves the bar of the event's stage, or writes a line above it; stops it when its job ends."""
        if isinstance(event, ProgressEvent):
            self._move(event)
        elif isinstance(event, CompleteEvent | ErrorEvent):
            self._stop()
        else:
            self._console.print(f"  {sentence(event)}")

    def _move(self, event: ProgressEvent) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("  {task.description}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                console=self._console,
            )
            self._bar.start()
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self._bar.add_task(event.stage, total=event.total_steps, figures="")
        self._bar.update(
            self._tasks[event.stage],
            completed=event.step,
            total=event.total_steps,
            figures=figures(event),
        )

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None
        self._tasks = {}


def figures(event: ProgressEvent) -> str:
    """The numbers beside the bar: loss, speed, time left."""
    parts = []
    if event.loss is not None:
        parts.append(f"loss {event.loss:.3f}")
    if event.tokens_per_second:
        parts.append(f"{event.tokens_per_second:,.0f} tokens/s")
    if event.remaining_seconds is not None and event.step < event.total_steps:
        parts.append(f"{duration(event.remaining_seconds)} left")
    return "  ".join(parts)


def sentence(event: JobEvent) -> str:
    """An event as a line for people; empty for the end of a job, which the caller tells about."""
    if isinstance(event, LogEvent):
        return PREFIX[event.level] + visible(event.message)
    if isinstance(event, EvalEvent):
        metrics = "".join(f"  {name} {value:.4g}" for name, value in event.metrics.items())
        best = "  (best)" if event.best else ""
        return f"step {event.step}: validation loss {event.eval_loss:.3f}{metrics}{best}"
    return ""


def display() -> AbstractContextManager[Bar | Lines]:
    """The display that suits stderr."""
    return Bar() if has_colour(sys.stderr) else Lines()


def show_events(events: Iterable[NumberedEvent]) -> ErrorEvent | None:
    """Shows events until they end; gives the error that a failed job ended with."""
    failure: ErrorEvent | None = None
    with display() as screen:
        for numbered in events:
            failure = numbered.event if isinstance(numbered.event, ErrorEvent) else None
            screen.show(numbered.event)
    return failure


def follow_to_end(context: Context, job_id: str) -> Job:
    """Shows a job until it ends and gives it; a failed one raises. Ctrl-C leaves the job at work."""
    try:
        failure = show_events(jobs.follow(context, job_id))
        job = jobs.wait(context, job_id)
    except KeyboardInterrupt:
        say()
        say(f"Job {job_id} goes on without you.")
        say(f"  follow it:  finetuneflow jobs follow {job_id}")
        say(f"  stop it:    finetuneflow jobs cancel {job_id}")
        raise typer.Exit(130) from None
    if job.status == "cancelled":
        again = (
            f"`finetuneflow runs resume {job_id}`" if job.kind == "train" else "give the same command again"
        )
        raise JobCancelled(f"job {job_id} was cancelled", f"to go on: {again}")
    if job.status != "success":
        code = failure.code if failure else "job_failed"
        raise FineTuneFlowError(
            job.error or f"job {job_id} failed", job.hint or f"see `{job.folder}`", code=code
        )
    return job
