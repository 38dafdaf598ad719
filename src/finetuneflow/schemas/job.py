"""Jobs: a row says what and when, a folder holds the rest."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from finetuneflow.schemas.base import Schema

JobKind = Literal["train", "evaluate", "export", "deploy"]
JobStatus = Literal["queued", "running", "success", "failed", "retrying", "cancelled"]


class JobSpec(Schema):
    """`job.json`: all that a worker needs, no database."""

    id: str
    kind: JobKind
    config: dict[str, Any]
    """The stage's configuration, such as a recipe."""
    inputs: dict[str, Any]
    """Paths and ids that the stage reads."""
    resume: bool = False
    """Go on from the newest valid checkpoint in the folder."""


class JobResult(Schema):
    """`result.json`: written whole, last."""

    status: JobStatus
    result: dict[str, Any] = Field(default_factory=dict)
    error_code: str = ""
    error: str = ""
    hint: str = ""
    seconds: float = 0.0


class Job(Schema):
    """The row."""

    id: str
    kind: JobKind
    status: JobStatus
    folder: str
    project_id: str | None = None
    idempotency_key: str | None = None
    attempts: int = 0
    error: str = ""
    hint: str = ""
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
