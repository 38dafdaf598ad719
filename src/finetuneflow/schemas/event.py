"""What a job tells while it works. Names as the web client expects them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from finetuneflow.schemas.base import Schema


class LogEvent(Schema):
    """A sentence for people."""

    type: Literal["log"] = "log"
    level: Literal["info", "warning", "error"] = "info"
    message: str


class ProgressEvent(Schema):
    """How far the job is."""

    type: Literal["progress"] = "progress"
    stage: str
    """train, evaluate, export …"""
    step: int
    total_steps: int
    epoch: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    """Real (not padding) tokens per second since the previous event."""
    remaining_seconds: float | None = None


class EvalEvent(Schema):
    """A measurement on the validation split during training."""

    type: Literal["eval"] = "eval"
    step: int
    eval_loss: float
    metrics: dict[str, float] = Field(default_factory=dict)
    best: bool = False


class CompleteEvent(Schema):
    """The job ended well; `result.json` has the details."""

    type: Literal["complete"] = "complete"
    seconds: float


class ErrorEvent(Schema):
    """The job failed or was cancelled."""

    type: Literal["error"] = "error"
    code: str
    message: str
    hint: str = ""


JobEvent = Annotated[
    LogEvent | ProgressEvent | EvalEvent | CompleteEvent | ErrorEvent, Field(discriminator="type")
]
JobEventAdapter: TypeAdapter[JobEvent] = TypeAdapter(JobEvent)


class NumberedEvent(Schema):
    """One line of `events.jsonl`."""

    id: int
    """1, 2, 3 … without gaps within a job folder, also across a resume."""
    at: str
    """UTC instant, ISO 8601."""
    event: JobEvent
