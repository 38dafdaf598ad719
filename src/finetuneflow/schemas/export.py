"""Exports: what leaves the workspace, and the proof of what it is."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from finetuneflow.schemas.base import Schema

ExportKind = Literal["adapter", "merged", "gguf", "gguf-adapter", "zip"]
Quantization = Literal[
    "f32", "f16", "bf16", "q8_0", "q4_0", "mxfp4", "q3_k_m", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k"
]
"""Number formats of a GGUF file; those with a `k` need the program `llama-quantize`."""


class ExportConfig(Schema):
    """What to write."""

    kinds: list[ExportKind] = Field(default=["adapter", "merged", "zip"])
    quantization: Quantization = "f16"
    """Number format of the weights in the GGUF file."""
    parity_prompts: int = Field(32, ge=20)
    """Prompts of the check, at least; half of them from the test set, as far as it goes."""
    parity_answers: int = Field(48, ge=0)
    """Test questions whose whole answers are compared and scored."""
    max_new_tokens: int = Field(96, gt=0)
    """Longest answer in the check."""
    seed: int = 0
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
    system_prompt: str | None = None
    """The one that every training example had, if there was one."""
    test: str | None = None
    """JSONL of `Example`: the test split, for the check of a GGUF file."""


class ExportedFile(Schema):
    """One file of an export."""

    path: str
    """Relative to the export folder."""
    size_bytes: int
    sha256: str


class ParityThresholds(Schema):
    """What a served model may differ by; the number format decides."""

    median_max_logprob_difference: float
    top1_agreement: float
    score_difference: float = 0.01
    """Points of the task's metric, 0 to 1."""


class ParityPrompt(Schema):
    """One prompt of the check, and what both sides made of it."""

    messages: list[dict[str, str]]
    source: Literal["test", "generated"]
    rendered: str = ""
    """The prompt as the trained model's own chat template writes it."""
    ids: list[int] = Field(default_factory=list)
    """Its token ids on the trained side."""
    rendered_equal: bool = True
    ids_equal: bool = True
    max_logprob_difference: float | None = None
    """Largest absolute difference of a token's log-probability, over the whole vocabulary."""
    top1_equal: bool | None = None
    trained_text: str = ""
    """Greedy continuation of the trained model."""
    served_text: str = ""
    continuation_equal: bool | None = None
    expected: str | None = None
    """The answer of the dataset, for prompts from the test set."""


class ParityResult(Schema):
    """Does the served model answer like the trained one?"""

    passed: bool
    gguf_sha256: str | None = None
    """Of the file that was asked."""
    quantization: Quantization
    prompts: int
    """Prompts whose next-token log-probabilities were compared."""
    top1_agreement: float
    """Share of prompts with the same most likely next token, 0 to 1."""
    median_max_logprob_difference: float
    """Median over the prompts of the largest difference over the vocabulary, in nats."""
    max_logprob_difference: float
    vocabulary: int
    """Tokens compared per prompt."""
    rendered_equal: int
    """Prompts that both chat templates wrote alike."""
    ids_equal: int
    """Prompts with the same token ids on both sides."""
    tokenizer_texts: int = 0
    """Further texts that both tokenizers read; all must agree."""
    continuations: int
    continuations_equal: int
    """Greedy continuations that are the same text, to the last character."""
    metric: str = "exact_match"
    answers: int = 0
    """Test questions answered by both."""
    trained_score: float | None = None
    """Mean metric of the trained model's answers; null without test questions."""
    served_score: float | None = None
    thresholds: ParityThresholds
    failures: list[str] = Field(default_factory=list)
    """What was over a threshold, in words; empty when passed."""
    first_difference: str | None = None
    """Where the two part first: prompt, position, both values."""
    runtime: str
    """The llama.cpp that answered, with version."""
    seconds: float
    examples: list[ParityPrompt] = Field(default_factory=list)


class GgufResult(Schema):
    """A GGUF file and its check."""

    path: str
    """Relative to the export folder."""
    sha256: str
    size_bytes: int
    quantization: Quantization
    architecture: str
    """llama.cpp's name of the architecture."""
    modelfile: str
    parity: ParityResult


class ExportResult(Schema):
    """What an export gives. Paths relative to the export folder."""

    run_id: str
    adapter: str | None = None
    merged: str | None = None
    gguf: GgufResult | None = None
    gguf_adapter: str | None = None
    """The LoRA adapter as GGUF, for servers that load adapters."""
    report: str = "report.md"
    loss_curve: str | None = None
    zip: str | None = None
    files: list[ExportedFile] = Field(default_factory=list)
    merge_max_difference: float | None = None
    """Largest absolute logit difference, adapter on base against merged weights."""
    seconds: float = 0.0


class PreflightCheck(Schema):
    """One thing that an export needs."""

    name: str
    ok: bool
    message: str
    hint: str = ""


class Preflight(Schema):
    """Will the exports that were chosen work? Said before training, from files alone."""

    ok: bool
    checks: list[PreflightCheck] = Field(default_factory=list)
