"""Exports: what leaves the workspace, and the proof of what it is."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from finetuneflow.schemas.base import Schema

ExportKind = Literal["adapter", "merged", "zip"]


class ExportConfig(Schema):
    """What to write."""

    kinds: list[ExportKind] = Field(default=["adapter", "merged", "zip"])
    language: Literal["en", "fr"] = "en"


class ExportInputs(Schema):
    """What the export stage reads."""

    run_folder: str
    run_id: str
    name: str
    recipe: dict[str, Any]
    train_result: dict[str, Any]
    """A `TrainResult`."""
    evaluation: dict[str, Any] | None = None
    """An `EvaluationResult`, when the run was evaluated."""
    dataset: dict[str, Any] = Field(default_factory=dict)
    """A `DatasetVersion`."""


class ExportedFile(Schema):
    """One file of an export."""

    path: str
    """Relative to the export folder."""
    size_bytes: int
    sha256: str


class ExportResult(Schema):
    """What an export gives. Paths relative to the export folder."""

    run_id: str
    adapter: str | None = None
    merged: str | None = None
    report: str = "report.md"
    loss_curve: str | None = None
    zip: str | None = None
    files: list[ExportedFile] = Field(default_factory=list)
    merge_max_difference: float | None = None
    """Largest absolute logit difference, adapter on base against merged weights."""
    seconds: float = 0.0
