"""Who answers the frozen questions of an evaluation, what one answer is, and how fast they came."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetuneflow.schemas.base import Schema

AnswererKind = Literal["local", "gguf", "ollama", "endpoint"]


class AnswererSpec(Schema):
    """All that is needed to open one answerer; no secrets."""

    kind: AnswererKind
    model: str
    """A model's reference or folder, the path of a GGUF file, or the name that a server knows it by."""
    adapter: str | None = None
    """Folder of an adapter on a local model, absolute."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format that a local model computes in."""
    url: str | None = None
    """Address of the server, for Ollama and endpoints."""
    parallel: int = Field(1, gt=0)
    """Requests at the same time, for all but local models."""
    retrieval: bool = False
    """Give it the passages that were retrieved for each question."""


class Answering(Schema):
    """Beside the items of an evaluation: who answers which arm, and where answers are kept."""

    arms: dict[str, AnswererSpec] = Field(default_factory=dict)
    """Arms other than those of the run's own base and model, or in place of them."""
    cache: str | None = None
    """Folder of answers given before, shared by evaluations; null: the evaluation's own."""


class Answered(Schema):
    """One answer."""

    text: str
    seconds: float
    """From question to answer; of a batch, its time divided by its size."""
    busy_seconds: float
    """Its share of the time in which the answerer was at work: with several requests at once less than
    `seconds`. The shares of all answers add up to that time."""
    new_tokens: int | None = None
    """Null where the server does not count them."""
    stopped: bool = True
    """False when the answer was cut."""
    refused: str = ""
    """Why there is no answer: the prompt does not fit, in the answerer's own words."""


class ArmSpeed(Schema):
    """How one arm's answers came."""

    answerer: str
    """What exactly answered: kind, name, content hash."""
    answers: int
    asked: int
    """Of them, those asked for since the evaluation was last started; the others were known."""
    cut: int
    """Answers cut at `max_new_tokens` or at the end of the context."""
    latency_p50_seconds: float | None = None
    """Null without answers; of batches, a batch's time divided by its size."""
    latency_p95_seconds: float | None = None
    new_tokens: int | None = None
    """Null when the server does not count them."""
    busy_seconds: float = 0.0
    """Time in which the answerer was at work, now or when it first gave these answers."""
    tokens_per_second: float | None = None
    """New tokens by busy seconds; null without a count of tokens."""


class ArmSpeeds(Schema):
    """Speed of every arm that generated text."""

    arms: dict[str, ArmSpeed] = Field(default_factory=dict)
