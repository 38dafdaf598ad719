"""Runs: one training, from recipe to adapter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.job import JobStatus
from finetuneflow.schemas.recipe import Hyperparameters, Recipe


class TrainInputs(Schema):
    """What the training stage reads: one JSONL file of `Example` per split."""

    train: str
    validation: str | None = None
    labels: list[str] = Field(default_factory=list)
    """Label names in index order, for classification."""
    dataset_id: str = ""
    hyperparameters_reason: str = ""
    """Why the hyperparameters are what they are, for the report."""


class LossPoint(Schema):
    """One point of the loss curve."""

    step: int
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None


class TrainResult(Schema):
    """What a training run gives."""

    adapter: str | None = None
    """Folder of the adapter (method lora), relative to the job folder."""
    model: str | None = None
    """Folder of the whole model (method full or head), relative to the job folder."""
    base_model: str
    base_folder: str = ""
    """Where the base's files were when it was trained."""
    base_fingerprint: str
    """Hash of the base's config and weights: an adapter fits no other base."""
    method: str
    steps: int
    epochs: float
    best_step: int
    train_loss: float
    eval_loss: float | None = None
    perplexity: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    trainable_parameters: int
    parameters: int
    tokens: int
    """Real tokens seen, padding not counted."""
    supervised_tokens: int
    dropped_examples: int = 0
    tokens_per_second: float
    seconds: float
    precision: Literal["bf16", "fp32"]
    device: str
    hyperparameters: Hyperparameters
    history: list[LossPoint] = Field(default_factory=list)
    stopped_early: bool = False
    resumed_from: int | None = None
    labels: list[str] = Field(default_factory=list)


class Run(Schema):
    """The row."""

    id: str
    """Also the id of its job and the name of its folder."""
    name: str
    project_id: str | None = None
    dataset_id: str
    recipe: Recipe
    status: JobStatus
    folder: str
    created_at: str
    result: TrainResult | None = None
