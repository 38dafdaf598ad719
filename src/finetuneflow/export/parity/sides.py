"""The trained model and the served one, side by side, and how a difference between them is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetuneflow.export.parity.cause import likely_cause
from finetuneflow.export.parity.findings import Findings, shown
from finetuneflow.modeling.llama_cpp import Llama
from finetuneflow.modeling.load import LoadedModel
from finetuneflow.schemas.export import ParityPrompt, ParityThresholds, Quantization

LARGEST_TIE = 0.5
"""Coarse number formats may differ by more, but tokens further apart than this are no tie."""
FINE = ("f32", "f16", "bf16")
"""Number formats that change no answer by themselves."""


@dataclass
class Sides:
    """Both models under one check."""

    loaded: LoadedModel
    """The trained one, in fp32."""
    llama: Llama
    """The served one."""
    quantization: Quantization
    thresholds: ParityThresholds
    findings: Findings
    asked: list[ParityPrompt]
    """Every prompt, in the order in which they are numbered."""

    @property
    def tokenizer(self) -> Any:
        """Of the trained model."""
        return self.loaded.tokenizer

    @property
    def tolerance(self) -> float:
        """Difference of a log-probability that the number format may make."""
        return self.thresholds.median_max_logprob_difference

    def same_choice(self, trained: np.ndarray, chosen: int) -> bool:
        """Whether a token is the trained model's choice, or a tie with it.

        Args:
            trained: Log-probabilities of the trained model.
            chosen: The token that the served model takes.
        """
        tie = min(self.tolerance, LARGEST_TIE)
        return chosen < len(trained) and bool(trained.max() - trained[chosen] <= tie)

    def cause(self, ids: Sequence[int]) -> str:
        """Key of the likely cause of other log-probabilities after the same ids."""
        cause = likely_cause(self.loaded, self.llama.log_probabilities, ids, self.tolerance)
        return "precision" if cause == "weights" and self.quantization not in FINE else cause

    def told(self, prompt: ParityPrompt) -> dict[str, Any]:
        """A prompt as the sentences name it."""
        position = next(index for index, other in enumerate(self.asked) if other is prompt)
        return {"number": position + 1, "question": shown(prompt.messages[-1]["content"])}

    def token(self, token: int) -> str:
        """A token with its id."""
        known = 0 <= token < len(self.tokenizer)
        text = self.tokenizer.decode([token]) if known else ""
        return f"{text!r} ({token})"

    def token_at(self, ids: Sequence[int], position: int) -> str:
        """The token at a position, a dash past the end."""
        return self.token(ids[position]) if position < len(ids) else "-"
