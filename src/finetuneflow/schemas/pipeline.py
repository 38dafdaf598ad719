"""The whole loop in one object: what went in, what came out of each stage."""

from __future__ import annotations

from pydantic import Field

from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.evaluation import ArmResult, EvaluationResult, Scores
from finetuneflow.schemas.export import ParityResult


class WordingScores(Schema):
    """Figures of one arm, shares from 0 to 1."""

    items: int
    exact_match: float
    token_f1: float
    rouge_l: float


class ArmSummary(WordingScores):
    """One arm on the test questions whose wording training saw with other records."""

    held_out_wordings: WordingScores | None = None
    """The same on wordings that training never saw."""


class PipelineResult(Schema):
    """What `finetuneflow demo --json` prints."""

    arms: dict[str, ArmSummary]
    """base, rag, tuned."""
    verdict: str
    """PASS, FAIL or NOT ENOUGH DATA."""
    reasons: list[str]
    seconds: float
    stage_seconds: dict[str, float]
    """Seconds per stage: dataset, train, evaluate, export."""
    examples: dict[str, int]
    """Examples per split."""
    dataset_id: str
    run_id: str
    evaluation_id: str
    export_id: str
    parity: ParityResult | None = None
    """Does the GGUF file answer like the tuned model? Null when none was written."""
    artifacts: dict[str, str]
    """What was made → where it is."""
    next_commands: list[str] = Field(default_factory=list)
    evaluation: EvaluationResult = Field(exclude=True)


def summarize(arm: ArmResult) -> ArmSummary | None:
    """The headline figures of an arm; None when it answered nothing."""
    overall = arm.overall or arm.held_out_wordings
    if overall is None:
        return None
    held_out = None if arm.held_out_wordings is None else WordingScores(**_figures(arm.held_out_wordings))
    return ArmSummary(**_figures(overall), held_out_wordings=held_out)


def _figures(scores: Scores) -> dict[str, float | int]:
    return {
        "items": scores.items,
        "exact_match": scores.exact_match.value,
        "token_f1": scores.token_f1.value,
        "rouge_l": scores.rouge_l.value,
    }
