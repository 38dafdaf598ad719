"""Why a served model answers otherwise: guesses that are tried out on both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from peft.tuners.lora import LoraLayer

from finetuneflow.modeling.load import LoadedModel

LOWEST = -50.0
"""Log-probabilities below are taken as equal: llama.cpp's are in single precision, and zero soon after."""
SCALES: dict[str, Callable[[float, float, int], float]] = {
    "adapter_left_out": lambda scale, alpha, rank: 0.0,
    "alpha_ignored": lambda scale, alpha, rank: 1.0,
    "rank_scaling": lambda scale, alpha, rank: (
        alpha / rank**0.5 if abs(scale - alpha / rank) < 1e-6 * scale else alpha / rank
    ),
    "twice": lambda scale, alpha, rank: 2.0 * scale,
}
"""Likely cause to the scale of a LoRA layer that it would leave: of its scale, alpha and rank."""

Served = Callable[[Sequence[int]], np.ndarray]


@torch.inference_mode()
def trained_log_probabilities(loaded: LoadedModel, ids: Sequence[int]) -> np.ndarray:
    """Natural logarithm of each token's probability to come next: float32 (vocabulary,)."""
    row = torch.tensor([list(ids)], device=loaded.device)
    logits = loaded.model(input_ids=row, logits_to_keep=1).logits[0, -1]
    return np.asarray(torch.log_softmax(logits.float(), -1).cpu().numpy())


def differences(trained: np.ndarray, served: np.ndarray) -> np.ndarray:
    """Absolute difference per token, over the ids that both have."""
    both = min(len(trained), len(served))
    gap: np.ndarray = np.abs(np.maximum(trained[:both], LOWEST) - np.maximum(served[:both], LOWEST))
    return gap


def likely_cause(loaded: LoadedModel, served: Served, ids: Sequence[int], tolerance: float) -> str:
    """Key of the cause that explains why the same token ids get other log-probabilities.

    Args:
        loaded: The trained model.
        served: Log-probabilities of the served model after some token ids.
        ids: A prompt on which they differ.
        tolerance: Difference that the number format may make.
    """
    answer = served(ids)
    layers = [module for module in loaded.model.modules() if isinstance(module, LoraLayer)]
    for cause, rule in SCALES.items() if layers else ():
        with _scaled(layers, rule):
            if differences(trained_log_probabilities(loaded, ids), answer).max() <= tolerance:
                return cause
    first = list(ids[:1])
    if differences(trained_log_probabilities(loaded, first), served(first)).max() <= tolerance:
        return "attention"
    return "weights"


@contextmanager
def _scaled(layers: list[Any], rule: Callable[[float, float, int], float]) -> Iterator[None]:
    before = [dict(layer.scaling) for layer in layers]
    for layer in layers:
        for name, scale in layer.scaling.items():
            layer.scaling[name] = rule(scale, layer.lora_alpha[name], layer.r[name])
    try:
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling.update(scaling)
