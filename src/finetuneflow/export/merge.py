"""The adapter melted into its base: one model that needs no PEFT, checked against adapter on base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml

from finetuneflow.errors import ModelError
from finetuneflow.modeling.load import LoadedModel, load_causal_lm, load_classifier
from finetuneflow.modeling.locate import read_config
from finetuneflow.modeling.lora import refuse_tied
from finetuneflow.modeling.tokenize import chat_template, encode_prompt

EXACT = 1e-3
"""Largest share of the logits' scale by which fp32 arithmetic may differ in another order of operations."""
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
Load = Callable[[str, Path | None], LoadedModel]


@dataclass(frozen=True)
class Merged:
    """What the check of a merged model found."""

    max_difference: float
    """Largest absolute difference of a logit, adapter on base against the weights read back, both in fp32."""
    top1_agreement: float
    """Share of positions with the same most likely token (or label), 0 to 1."""
    dtype: str
    """Number format of the written weights: that of the base."""


def merge(base_model: str, adapter: Path, folder: Path, *, labels: list[str] | None = None) -> Merged:
    """Writes base and adapter as one model into an existing folder, with tokenizer and chat template.

    The sum is computed in fp32 and then rounded to the base's own format. The model is read back and asked
    the same prompts as adapter on base.

    Args:
        base_model: Reference of the base that the adapter was trained on.
        adapter: Folder of the adapter.
        folder: Where to write.
        labels: Of a classifier, in index order; None for a causal language model.

    Raises:
        NotFoundError, ModelError: base or adapter cannot be loaded, or the merge is not what the adapter was.
    """

    def load(reference: str, with_adapter: Path | None) -> LoadedModel:
        if labels:
            return load_classifier(reference, labels=labels, precision="fp32", adapter=with_adapter)
        return load_causal_lm(reference, precision="fp32", adapter=with_adapter)

    loaded = load(base_model, adapter)
    prompts = check_prompts(loaded, rendered=not labels)
    expected = logits(loaded.model, prompts)
    refuse_tied(loaded.model)
    loaded.model = loaded.model.merge_and_unload(safe_merge=True)
    drift, _ = compare(expected, logits(loaded.model, prompts))
    scale = max(1.0, max(float(row.abs().max()) for row in expected))
    if drift > EXACT * scale:
        raise ModelError(
            f"the merged model does not answer like the adapter on its base (logits differ by {drift:.3g})",
            "export the adapter instead, and report the base model and the recipe",
        )
    config = read_config(loaded.folder)
    dtype = HALF.get(str(config.get("dtype") or config.get("torch_dtype")), torch.float32)
    loaded.model.to(dtype).save_pretrained(folder)
    save_tokenizer(loaded.tokenizer, folder, chat=not labels)
    del loaded
    difference, agreement = compare(expected, logits(load(str(folder), None).model, prompts))
    return Merged(difference, agreement, str(dtype).removeprefix("torch."))


def save_tokenizer(tokenizer: Any, folder: Path, *, chat: bool) -> None:
    """Writes a tokenizer; one without a chat template gets the plain one that training used in its place."""
    if chat:
        tokenizer.chat_template = chat_template(tokenizer)
    tokenizer.save_pretrained(folder)


def check_prompts(loaded: LoadedModel, *, rendered: bool) -> list[torch.Tensor]:
    """Token ids (1, T) of what both models are asked; through the chat template when `rendered`."""
    text = (resources.files("finetuneflow.assets") / "prompts" / "merge_check.yaml").read_text(
        encoding="utf-8"
    )
    rows = []
    for question in yaml.safe_load(text):
        ids = (
            encode_prompt(loaded.tokenizer, [{"role": "user", "content": question}])
            if rendered
            else loaded.tokenizer(question)["input_ids"]
        )
        rows.append(torch.tensor([ids], device=loaded.device))
    return rows


@torch.inference_mode()
def logits(model: Any, prompts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Logits of each prompt: (T, vocabulary) of a language model, (1, labels) of a classifier."""
    rows = [model(input_ids=ids).logits.float() for ids in prompts]
    return [row[0] if row.ndim == 3 else row for row in rows]


def compare(first: list[torch.Tensor], second: list[torch.Tensor]) -> tuple[float, float]:
    """Largest absolute difference, and the share of rows with the same most likely entry."""
    largest = max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))
    same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(first, second, strict=True)])
    return largest, float(same.float().mean())
