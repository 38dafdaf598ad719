"""Projects: what a user works on."""

from __future__ import annotations

from typing import Literal

from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.recipe import Task

ProjectStatus = Literal[
    "draft", "data_ready", "dataset_ready", "training", "trained", "evaluated", "exported", "failed"
]


class Project(Schema):
    """The row."""

    id: str
    name: str
    task: Task = "causal_lm"
    base_model: str = "embedded:tiny"
    status: ProjectStatus = "draft"
    created_at: str
    updated_at: str
