"""Evaluations: arms on one frozen test set, compared pairwise, with a verdict."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.classification import ClassificationScores
from finetuneflow.schemas.interval import Interval

Arm = Annotated[str, "base", "rag", "tuned", "tuned_rag"]
"""These four, of which `rag` and `tuned_rag` answer with retrieval, or the name of another answerer."""
Outcome = Literal["PASS", "FAIL", "NOT ENOUGH DATA"]


class TestItem(Schema):
    """One frozen question of the test set, with the passages that retrieval found for it."""

    __test__ = False  # not a pytest class

    id: str
    messages: list[dict[str, str]]
    """The conversation up to and including the question (role, content)."""
    expected: str
    question_type: str = "other"
    wording_held_out: bool = False
    passages: list[str] = Field(default_factory=list)
    rag_messages: list[dict[str, str]] = Field(default_factory=list)
    """The same question as the retrieval arm asks it."""


class EvaluationConfig(Schema):
    """How to answer and judge."""

    arms: list[Arm] = Field(default=["base", "rag", "tuned"])
    max_new_tokens: int = Field(96, gt=0)
    batch_size: int = Field(16, gt=0)
    seed: int = 0
    bootstrap_samples: int = Field(10_000, gt=0)
    min_improvement: float = 0.05
    """The gate: at least this much better than the best baseline (0.05 = 5 points)."""
    min_score: float = 0.85
    """The gate: and above this score."""
    language: Literal["en", "fr"] = "en"
    """Language of the verdict's reasons."""
    alpha: float = 0.05
    """The gate: and a paired p below this."""
    max_false_pass: float = 0.015
    """The gate: and an equal model would do as well on less than this share of test sets."""
    prove_score: bool = False
    """The gate: and the lower end of the score's one-sided 95 % interval above `min_score`, too."""
    metric: Literal["exact_match", "token_f1", "accuracy"] = "exact_match"


class EvaluateInputs(Schema):
    """What the evaluation stage reads."""

    items: str
    """JSONL of `TestItem`."""
    base_model: str
    adapter: str | None = None
    """Folder of the adapter, absolute."""
    model: str | None = None
    """Folder of a fully tuned model, absolute."""
    run_id: str = ""
    dataset_id: str = ""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    task: Literal["causal_lm", "sequence_classification"] = "causal_lm"
    labels: list[str] = Field(default_factory=list)


class Prediction(Schema):
    """One answer of one arm."""

    item_id: str
    question: str
    expected: str
    predicted: str
    exact_match: float
    token_f1: float
    rouge_l: float
    latency_seconds: float
    question_type: str = "other"
    wording_held_out: bool = False


class Scores(Schema):
    """Figures of one arm on one slice."""

    items: int
    exact_match: Interval
    token_f1: Interval
    rouge_l: Interval
    latency_mean_seconds: float
    latency_p95_seconds: float = 0.0


class ArmResult(Schema):
    """One arm: overall (wordings that training saw), held-out wordings, by question type."""

    arm: Arm
    overall: Scores | None
    """Null when every test question has a held-out wording."""
    held_out_wordings: Scores | None = None
    by_question_type: dict[str, Scores] = Field(default_factory=dict)


class Comparison(Schema):
    """Tuned against one baseline on the same items."""

    arm: Arm = "tuned"
    baseline: Arm
    metric: str
    difference: Interval
    """tuned - baseline, paired bootstrap."""
    wins: int
    losses: int
    ties: int
    p_value: float
    """Two-sided: McNemar's mid-p for right and wrong, sign flips for graded scores."""
    p_exact: float | None = None
    """Exact McNemar; of a graded score, the sign test."""
    p_holm: float | None = None
    """`p_value`, made honest for having looked at several metrics (Holm)."""


class SliceComparison(Schema):
    """One part of the test set, tuned against one baseline."""

    dimension: str
    """question_type, label, length, language or source."""
    name: str
    items: int
    metric: str
    baseline: Arm
    baseline_score: float
    score: float
    difference: Interval
    """Tuned - baseline, widened so that it stays honest on few items."""
    wins: int
    losses: int
    p_value: float
    p_holm: float
    """`p_value`, made honest for having looked at all slices of its dimension (Holm)."""


class Recommendation(Schema):
    """What to do with what was measured."""

    choice: Literal["keep_base", "retrieval", "fine_tune", "both", "none", "undecided"]
    """`none`: no arm is good enough; `undecided`: the test set is too small to tell."""
    headline: str
    reasons: list[str]


class Verdict(Schema):
    """The answer to "is it better?"."""

    outcome: Outcome
    reasons: list[str]
    metric: str
    score: float
    baseline: Arm
    baseline_score: float
    improvement: float
    p_value: float
    p_exact: float | None = None
    """Exact McNemar beside it; of a graded score, the sign test."""
    items: int
    more_items_needed: int = 0
    """About how many more test items would settle it, for NOT ENOUGH DATA."""


class EvaluationResult(Schema):
    """What an evaluation gives."""

    run_id: str = ""
    dataset_id: str = ""
    items: int
    test_set_hash: str
    arms: dict[str, ArmResult] = Field(default_factory=dict)
    classification: dict[str, ClassificationScores] = Field(default_factory=dict)
    """Per arm, when the task is sequence classification."""
    comparisons: list[Comparison] = Field(default_factory=list)
    verdict: Verdict | None = None
    slices: list[SliceComparison] = Field(default_factory=list)
    recommendation: Recommendation | None = None
    predictions_path: str = "predictions.jsonl"
    """JSONL of `Prediction` with an `arm` key; relative to the job folder in `result.json`."""
    errors: list[Prediction] = Field(default_factory=list)
    """The tuned arm's wrong answers, the first fifty."""
    seconds: float
    config: EvaluationConfig
