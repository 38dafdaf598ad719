"""A job's events on the screen."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, cast

import pytest
import typer
from rich.console import Console

from finetuneflow.cli import progress
from finetuneflow.cli.progress import Bar, Lines, figures, follow_to_end, show_events
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
from finetuneflow.schemas.job import Job, JobStatus
from finetuneflow.services.context import Context

STEP = ProgressEvent(
    stage="train", step=5, total_steps=10, loss=1.25, tokens_per_second=3400, remaining_seconds=75
)
NO_CONTEXT = cast(Context, None)


def numbered(*events: JobEvent) -> Iterator[NumberedEvent]:
    """Events as `follow` gives them."""
    for number, event in enumerate(events, start=1):
        yield NumberedEvent(id=number, at="2026-01-01T00:00:00+00:00", event=event)


def job(status: JobStatus, error: str = "", hint: str = "") -> Job:
    """A job that ended."""
    return Job(
        id="run-1", kind="train", status=status, folder="runs/run-1", created_at="", error=error, hint=hint
    )


@pytest.fixture
def fake_jobs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what `follow` and `wait` give."""

    def set_up(ended: Job, *events: JobEvent, interrupted: bool = False) -> None:
        def follow(*_: object) -> Iterator[NumberedEvent]:
            yield from numbered(*events)
            if interrupted:
                raise KeyboardInterrupt

        monkeypatch.setattr(progress.jobs, "follow", follow)
        monkeypatch.setattr(progress.jobs, "wait", lambda *_: ended)

    return set_up


def test_the_figures_are_loss_speed_and_time_left() -> None:
    assert figures(STEP) == "loss 1.250  3,400 tokens/s  1 min 15 s left"


def test_a_finished_stage_has_no_time_left() -> None:
    assert "left" not in figures(STEP.model_copy(update={"step": 10, "remaining_seconds": 0.0}))


def test_lines_are_sparse_but_the_last_step_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(seconds_between=1000)
    for step in range(1, 11):
        lines.show(STEP.model_copy(update={"step": step}))
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in said] == ["1/10", "10/10"]


def test_measurements_and_warnings_are_always_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    events = (
        EvalEvent(step=4, eval_loss=0.5, metrics={"accuracy": 0.75}, best=True),
        LogEvent(level="warning", message="two rows were left out"),
    )
    assert show_events(numbered(*events, CompleteEvent(seconds=1))) is None
    out, err = capsys.readouterr()
    assert out == ""
    assert "validation loss 0.500  accuracy 0.75  (best)" in err
    assert "warning: two rows were left out" in err


def test_the_bar_shows_the_figures_in_a_terminal() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, highlight=False)
    with Bar(console) as bar:
        for event in (STEP, LogEvent(message="checkpoint kept"), CompleteEvent(seconds=1), STEP):
            bar.show(event)
    text = screen.getvalue()
    assert "5/10" in text
    assert "3,400 tokens/s" in text
    assert "checkpoint kept" in text


def test_interrupting_leaves_the_job_at_work_and_says_how_to_go_on(
    fake_jobs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_jobs(job("running"), STEP, interrupted=True)
    with pytest.raises(typer.Exit) as ended:
        follow_to_end(NO_CONTEXT, "run-1")
    assert ended.value.exit_code == 130
    said = capsys.readouterr().err
    assert "finetuneflow jobs follow run-1" in said
    assert "finetuneflow jobs cancel run-1" in said


def test_a_failed_job_raises_its_own_error_and_hint(fake_jobs: Any) -> None:
    failure = ErrorEvent(code="dataset_invalid", message="no row is usable", hint="mend line 3")
    fake_jobs(job("failed", "no row is usable", "mend line 3"), STEP, failure)
    with pytest.raises(FineTuneFlowError) as raised:
        follow_to_end(NO_CONTEXT, "run-1")
    assert (raised.value.code, raised.value.message, raised.value.hint) == (
        "dataset_invalid",
        "no row is usable",
        "mend line 3",
    )


def test_a_cancelled_job_says_how_to_resume(fake_jobs: Any) -> None:
    fake_jobs(job("cancelled"), STEP)
    with pytest.raises(JobCancelled) as raised:
        follow_to_end(NO_CONTEXT, "run-1")
    assert "runs resume run-1" in raised.value.hint
