"""Forgetting: what the tuned model no longer does that its base did."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.interval import Interval

Family = Literal["format", "arithmetic", "copying", "json", "echo", "constraints", "refusals"]
ForgettingOutcome = Literal["PASS", "WARN", "FAIL"]


class SuiteItem(Schema):
    """One request of the suite, and how its answer is checked."""

    id: str
    family: Family
    language: Literal["en", "fr"]
    """Of the request."""
    messages: list[dict[str, str]]
    check: str
    """Name of the check."""
    value: str
    """What the check compares with."""


class ForgettingConfig(Schema):
    """What is asked, and how much may be lost."""

    task: Literal["forgetting"] = "forgetting"
    families: list[Family] = Field(
        default=["format", "arithmetic", "copying", "json", "echo", "constraints", "refusals"]
    )
    """Of the suite; empty measures bits per byte and divergence alone."""
    max_new_tokens: int = Field(96, gt=0)
    batch_size: int = Field(16, gt=0)
    seed: int = 0
    language: Literal["en", "fr"] = "en"
    """Of the verdict's reasons."""
    max_family_drop: float = 0.05
    """A family that drops by more than this share of its items …"""
    alpha: float = 0.05
    """… with a paired p, adjusted for the number of families (Holm), below this is a failure."""
    warn_bits_per_byte: float = 0.05
    """Relative rise on the fixed text, in the language that rises most, that is worth a warning."""
    fail_bits_per_byte: float = 0.15
    # The thresholds of the divergence rest on adapters of embedded:tiny, whose bits per byte rose by 8, 17,
    # 35 and 20 % at 0.5, 0.9, 1.7 and 2.8 nats; adapters trained until nothing was left lay above 7.
    warn_divergence: float = 0.5
    """Mean KL(base || tuned) on the neutral prompts, nats per token, that is worth a warning: the base's own
    words are 1.6 times less likely."""
    fail_divergence: float = 2.0
    """7 times less likely."""


class ForgettingInputs(Schema):
    """What the stage reads."""

    base_model: str
    adapter: str | None = None
    """Folder of the adapter, absolute."""
    model: str | None = None
    """Folder of a fully tuned model, absolute."""
    run_id: str = ""
    precision: Literal["auto", "bf16", "fp32"] = "auto"


class FamilyResult(Schema):
    """One family of requests, answered by the base and by the tuned model."""

    family: Family
    items: int
    base: float
    """Share of the requests that were met."""
    tuned: float
    difference: Interval
    """tuned - base, paired bootstrap."""
    wins: int
    losses: int
    p_value: float
    """McNemar, mid-p: what the verdict rests on."""
    p_exact: float
    """McNemar, exact."""
    p_holm: float
    """The mid-p, made honest for having looked at all families (Holm)."""
    dropped: bool
    note: str = ""
    """Why the figures say little, such as a base that meets no request at all."""


class TextLikelihood(Schema):
    """How well a model reads a text."""

    tokens: int
    """Tokens that were predicted."""
    bytes: int
    nats: float
    """Negative log-likelihood in all."""
    perplexity: float
    """exp(nats / tokens): each token weighs the same."""
    bits_per_byte: float
    """nats / ln 2 / bytes: comparable between tokenizers."""


class TextChange(Schema):
    """The fixed text of one language, read by the base and by the tuned model."""

    base: TextLikelihood
    tuned: TextLikelihood
    rise: float
    """Relative rise of the bits per byte: 0.05 is 5 %."""


class LostAnswer(Schema):
    """A request that the base met and the tuned model does not."""

    item_id: str
    family: Family
    request: str
    base: str
    tuned: str


class ForgettingResult(Schema):
    """What the stage gives."""

    run_id: str = ""
    base_model: str
    suite_hash: str
    """SHA-256 of the requests and their checks; scores on another suite cannot be compared."""
    items: int
    families: list[FamilyResult] = Field(default_factory=list)
    texts: dict[str, TextChange] = Field(default_factory=dict)
    """Language to change."""
    divergence: Interval
    """Mean KL(base || tuned) over the neutral prompts, nats per token, with its bootstrap interval."""
    prompts: int
    outcome: ForgettingOutcome
    reasons: list[str]
    lost: list[LostAnswer] = Field(default_factory=list)
    """The first twenty."""
    predictions_path: str = "predictions.jsonl"
    """Every answer of both models; relative to the job folder in `result.json`."""
    seconds: float
    config: ForgettingConfig
