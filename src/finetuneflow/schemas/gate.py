"""The gate: may this model be deployed? A policy, what was found, and all that is needed to decide again."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.evaluation import Arm, Comparison, Outcome
from finetuneflow.schemas.forgetting import FamilyResult, TextChange
from finetuneflow.schemas.interval import Interval

CheckName = Literal[
    "improvement", "score", "significance", "overlap", "near_duplicates", "forgetting", "parity", "latency"
]
CheckState = Literal["met", "missed", "open", "noted"]


class GatePolicy(Schema):
    """What a model must meet to be deployed. Shares are 0 to 1: 0.05 is 5 points.

    The defaults are in `assets/gate.yaml`. Leaked test rows fail under every policy.
    """

    candidate: Literal["tuned", "tuned_rag"]
    """The arm that is to be deployed: the tuned model, alone or with retrieval."""
    min_improvement: float = Field(ge=0, le=1)
    """At least this much better than what it came from, with or without retrieval: the better one counts."""
    min_score: float = Field(ge=0, le=1)
    """A score above this."""
    prove_score: bool
    """And the lower end of the score's one-sided 95 % interval above it, too."""
    alpha: float = Field(gt=0, le=1)
    """A paired p below this (McNemar's mid-p for right and wrong, sign flips for graded scores)."""
    max_false_pass: float = Field(gt=0, le=1)
    """And an equal model would win as clearly on less than this share of test sets (exact)."""
    near_duplicates: Literal["report", "fail"]
    """Test questions that are nearly a training question: report them, or fail on any."""
    near_duplicate_share: float = Field(gt=0, le=1)
    """What is nearly the same: this share of a question's word sequences is in one training question."""
    require_forgetting: bool
    """Whether there must be a result of `finetuneflow forgetting`; one that is there always counts."""
    max_family_drop: float = Field(ge=0, le=1)
    """Forgetting: no family of requests drops by more than this with a paired p below 0.05."""
    max_bits_per_byte_rise: float = Field(ge=0)
    """Forgetting: relative rise of the bits per byte on ordinary prose, in the worse language."""
    max_divergence: float = Field(ge=0)
    """Forgetting: mean KL(base || tuned) on neutral prompts, nats per token."""
    require_parity: bool
    """Whether there must be a GGUF export; the check of one that is there always counts."""
    max_latency_p95_seconds: float | None = Field(gt=0)
    """95 % of the answers came within this time; null does not ask."""


class NearDuplicate(Schema):
    """A test question and the training question that it is nearly the same as."""

    item_id: str
    question: str
    training_question: str
    similarity: float
    """Share of the word sequences that both have: of a short question, of the longer one of the two."""


class Overlap(Schema):
    """Test questions that training saw."""

    items: int
    training_examples: int
    training_sha256: str
    """Of the training split's file."""
    leaked: list[str] = Field(default_factory=list)
    """Ids of the test items whose question stands in the training split, after normalisation."""
    in_validation: int = 0
    """Test items whose question stands in the validation split."""
    near_duplicates: int = 0
    nearest: list[NearDuplicate] = Field(default_factory=list)
    """The ten most alike."""
    note: str = ""
    """Why near-duplicates were not looked for."""


class ForgettingFacts(Schema):
    """What a look for forgetting measured."""

    job_id: str
    suite_hash: str
    families: list[FamilyResult] = Field(default_factory=list)
    texts: dict[str, TextChange] = Field(default_factory=dict)
    divergence: Interval
    prompts: int


class ParityFacts(Schema):
    """Whether the newest GGUF export answers like the trained model."""

    export_id: str
    passed: bool
    gguf_sha256: str | None = None
    quantization: str | None = None
    reason: str = ""
    """Of a failure."""


class ModelFacts(Schema):
    """Which weights answered."""

    base_model: str
    base_fingerprint: str
    """Hash of the base's configuration and weights."""
    kind: Literal["adapter", "model", "gguf"]
    weights_sha256: dict[str, str]
    """File to SHA-256, of the adapter, the whole tuned model or the exported file that answered."""
    answerers: dict[str, str] = Field(default_factory=dict)
    """Arm to what exactly answered, with its content hash, as the evaluation recorded it."""


class GateEvidence(Schema):
    """All that the decision rests on; the answers themselves are in `predictions.jsonl`."""

    evaluation_id: str
    run_id: str
    dataset_id: str
    dataset_hash: str
    test_set_hash: str
    predictions_sha256: str
    metrics_version: str
    metric: Literal["exact_match", "token_f1", "accuracy"]
    seed: int
    bootstrap_samples: int
    model: ModelFacts
    overlap: Overlap
    forgetting: ForgettingFacts | None = None
    parity: ParityFacts | None = None


class GateCheck(Schema):
    """One thing that the policy asks for."""

    name: CheckName
    state: CheckState
    """`open`: it cannot be told yet; `noted`: told, and not counted."""
    reason: str


class GateResult(Schema):
    """PASS, FAIL or NOT ENOUGH DATA, and how to come to it again."""

    outcome: Outcome
    checks: list[GateCheck]
    more_items_needed: int = 0
    """About how many more test items would settle it; 0 when more items are not what is missing."""
    baseline: Arm
    """The better one of base and rag."""
    score: float
    baseline_score: float
    improvement: Interval
    p_value: float
    p_exact: float
    items: int
    comparisons: list[Comparison] = Field(default_factory=list)
    """Against every baseline, on every metric."""
    language: Literal["en", "fr"] = "en"
    policy: GatePolicy
    evidence: GateEvidence
    digest: str = ""
    """SHA-256 of all the rest."""


class Recomputed(Schema):
    """A recorded decision, made again from the answers."""

    same: bool
    differences: list[str] = Field(default_factory=list)
    result: GateResult
