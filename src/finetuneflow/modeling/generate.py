"""Answers: greedy generation in batches, and class probabilities."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from finetuneflow.errors import InputError
from finetuneflow.modeling.load import LoadedModel
from finetuneflow.modeling.tokenize import encode_prompt, end_token_ids

GREEDY: dict[str, Any] = {
    "do_sample": False,
    "temperature": None,
    "top_p": None,
    "top_k": None,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
"""The most likely token each time, whatever a `generation_config.json` asks for: servers do not read it."""


@dataclass(frozen=True)
class Generated:
    """One answer."""

    text: str
    seconds: float
    """Wall time of the batch divided by its size."""
    new_tokens: int
    stopped: bool
    """True when the model ended its turn, False when it was cut at `max_new_tokens`."""


def generate(
    loaded: LoadedModel,
    conversations: list[list[dict[str, str]]],
    *,
    max_new_tokens: int,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> list[Generated]:
    """Greedy answers, in the order of the conversations.

    Args:
        loaded: A causal language model.
        conversations: Role and content of each turn, the last one from the user.
        max_new_tokens: Longest answer.
        batch_size: Conversations answered together, grouped by length.
        on_batch: Called with the number of answers done so far.

    Raises:
        InputError: a prompt that leaves no room for an answer in the model's context.
    """
    prompts = [encode_prompt(loaded.tokenizer, messages) for messages in conversations]
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    for prompt in prompts:
        if limit and len(prompt) >= limit:
            raise InputError(
                f"a prompt of {len(prompt)} tokens does not fit the model's context of {limit}",
                "shorten the question, or retrieve fewer passages",
            )
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    answers: dict[int, Generated] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        longest = max(len(prompts[index]) for index in batch)
        room = min(max_new_tokens, limit - longest) if limit else max_new_tokens
        for index, answer in zip(
            batch, _answer(loaded, [prompts[i] for i in batch], max(room, 1)), strict=True
        ):
            answers[index] = answer
        if on_batch:
            on_batch(len(answers))
    return [answers[index] for index in range(len(prompts))]


@torch.inference_mode()
def _answer(loaded: LoadedModel, prompts: list[list[int]], max_new_tokens: int) -> list[Generated]:
    started = time.perf_counter()
    tokenizer = loaded.tokenizer
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    input_ids = torch.tensor(
        [[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=loaded.device
    )
    mask = torch.tensor(
        [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=loaded.device
    )
    ends = end_token_ids(tokenizer)
    rows = loaded.model.generate(
        input_ids=input_ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        **GREEDY,
        eos_token_id=ends,
        pad_token_id=pad,
    )[:, longest:].tolist()
    seconds = (time.perf_counter() - started) / len(prompts)
    answers = []
    for row in rows:
        end = next((position for position, token in enumerate(row) if token in ends), len(row))
        text = tokenizer.decode(row[:end], skip_special_tokens=True).strip()
        answers.append(Generated(text, seconds, min(end + 1, len(row)), end < len(row)))
    return answers


@torch.inference_mode()
def classify(
    loaded: LoadedModel, texts: list[str], *, batch_size: int = 64
) -> tuple[list[int], list[list[float]]]:
    """Label index and probabilities (one per label) of each text, in order; long texts are cut."""
    limit = min(getattr(loaded.model.config, "max_position_embeddings", 512), 512)
    encoded = loaded.tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
    order = sorted(range(len(texts)), key=lambda index: (len(encoded[index]), index))
    probabilities: dict[int, list[float]] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        padded = loaded.tokenizer.pad({"input_ids": [encoded[index] for index in batch]}, return_tensors="pt")
        logits = loaded.model(**padded.to(loaded.device)).logits.float()
        for index, row in zip(batch, logits.softmax(-1).tolist(), strict=True):
            probabilities[index] = row
    ordered = [probabilities[index] for index in range(len(texts))]
    return [max(range(len(row)), key=row.__getitem__) for row in ordered], ordered
