"""How well a model reads a text (perplexity, bits per byte), and how far it has moved from another (KL)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from finetuneflow.errors import DatasetError
from finetuneflow.modeling.load import LoadedModel
from finetuneflow.schemas.forgetting import TextLikelihood

DEFAULT_WINDOW = 1024
"""Tokens that are read at once, or fewer where the model's context is shorter."""
KL_BATCH = 4
"""Sequences compared at once: few, for a row of log-probabilities of a large vocabulary takes megabytes."""


class WithoutAdapter:
    """A PeftModel as if its adapter were not there: the base, without loading it again."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.config = model.config

    def __call__(self, **arguments: Any) -> Any:
        """As the base computes."""
        with self._model.disable_adapter():
            return self._model(**arguments)

    def generate(self, **arguments: Any) -> Any:
        """As the base generates."""
        with self._model.disable_adapter():
            return self._model.generate(**arguments)


def without_adapter(loaded: LoadedModel) -> LoadedModel:
    """The base of a model with an adapter; weights are shared."""
    return replace(loaded, model=WithoutAdapter(loaded.model))


@torch.inference_mode()
def read_text(
    loaded: LoadedModel, text: str, *, window: int | None = None, stride: int | None = None
) -> TextLikelihood:
    """Likelihood of a text under a causal model, each token predicted once.

    The text starts after the tokenizer's beginning-of-sequence token (or else its end-of-sequence token), so
    that its first token counts, too. A text longer than the window is read in windows that overlap: a token
    is predicted from `window - stride` tokens before it at least.

    Args:
        loaded: A causal language model.
        text: Plain text, no chat template.
        window: Tokens read at once (default: the model's context, up to 1,024).
        stride: Tokens that a window is moved by (default: half of it).

    Raises:
        DatasetError: there is no token to predict.
        ValueError: a stride that is not between 1 and the window.
    """
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    start = loaded.tokenizer.bos_token_id
    start = loaded.tokenizer.eos_token_id if start is None else start
    sequence = [*([] if start is None else [start]), *ids]
    if len(sequence) < 2:
        raise DatasetError("there is no token to predict", "give a text that is not empty")
    context = getattr(loaded.model.config, "max_position_embeddings", None) or DEFAULT_WINDOW
    window = min(window or DEFAULT_WINDOW, context)
    stride = stride or max(1, window // 2)
    if not 1 <= stride <= window - 1:
        raise ValueError(f"a stride of {stride} does not fit a window of {window}")
    nats, predicted = 0.0, 1
    while predicted < len(sequence):
        # the first window predicts all it holds, each later one its last `stride` tokens
        end = min(len(sequence), window if predicted == 1 else predicted + stride)
        begin = max(0, end - window)
        part = torch.tensor([sequence[begin:end]], device=loaded.device)
        logits = loaded.model(input_ids=part, use_cache=False).logits[0, predicted - begin - 1 : -1]
        nats += float(cross_entropy(logits.float(), part[0, predicted - begin :], reduction="sum"))
        predicted = end
    size = len(text.encode())
    tokens = len(sequence) - 1
    return TextLikelihood(
        tokens=tokens,
        bytes=size,
        nats=nats,
        perplexity=math.exp(min(nats / tokens, 700.0)),
        bits_per_byte=nats / math.log(2) / size,
    )


@torch.inference_mode()
def divergences(
    base: LoadedModel,
    tuned: LoadedModel,
    sequences: Sequence[tuple[list[int], int]],
    *,
    on_batch: Callable[[int], None] | None = None,
) -> list[float]:
    """KL(base || tuned) of each sequence, nats per token, averaged over the positions that are compared.

    Args:
        base: The model that is moved away from.
        tuned: The other one, with the same vocabulary.
        sequences: Token ids, and the position from which on the next token's distributions are compared.
        on_batch: Called with the number of sequences done so far.
    """
    order = sorted(range(len(sequences)), key=lambda index: (len(sequences[index][0]), index))
    found: dict[int, float] = {}
    for begin in range(0, len(order), KL_BATCH):
        batch = order[begin : begin + KL_BATCH]
        ours = _log_probabilities(base, [sequences[index][0] for index in batch])
        theirs = _log_probabilities(tuned, [sequences[index][0] for index in batch])
        for row, index in enumerate(batch):
            ids, first = sequences[index]
            p, q = ours[row, first : len(ids)], theirs[row, first : len(ids)]
            found[index] = max(0.0, float((p.exp() * (p - q)).sum(-1).mean()))
        if on_batch:
            on_batch(len(found))
    return [found[index] for index in range(len(sequences))]


def _log_probabilities(loaded: LoadedModel, sequences: list[list[int]]) -> torch.Tensor:
    """Log-probabilities (rows, longest, vocabulary) of the next token; padding on the right."""
    longest, pad = max(map(len, sequences)), loaded.tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in sequences], device=loaded.device)
    mask = torch.tensor(
        [[1] * len(row) + [0] * (longest - len(row)) for row in sequences], device=loaded.device
    )
    logits: torch.Tensor = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits.float().log_softmax(-1)
