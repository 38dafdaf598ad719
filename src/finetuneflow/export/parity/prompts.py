"""What the check of a GGUF file asks: test questions, generated conversations, texts for the tokenizers."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import yaml
from jinja2 import TemplateError

from finetuneflow.modeling.tokenize import render, token_ids
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.export import ExportConfig, ParityPrompt, ParityThresholds, Quantization

HELD_OUT = 20
"""Test questions asked at least, where the test set has as many."""
ROOM = 0.8
"""Largest share of the context that a prompt may fill: the rest is for the answer."""
ENCODED_ANSWERS = 100
"""Test answers that both tokenizers read."""

Conversation = list[dict[str, str]]


@cache
def catalogue() -> dict[str, Any]:
    """Thresholds, conversations and texts."""
    text = (resources.files("finetuneflow.assets") / "parity.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def thresholds_of(quantization: Quantization) -> ParityThresholds:
    """What a file in this number format may differ by."""
    return ParityThresholds.model_validate(catalogue()["thresholds"][quantization])


def prompt_of(tokenizer: Any, messages: Conversation, **more: Any) -> ParityPrompt:
    """A prompt as the trained model reads it."""
    rendered = render(tokenizer, messages, prompt=True)
    ids = token_ids(tokenizer, rendered)
    return ParityPrompt.model_validate({"messages": messages, "rendered": rendered, "ids": ids} | more)


def held_out_prompts(
    tokenizer: Any, examples: Sequence[Example], config: ExportConfig, context: int
) -> tuple[list[ParityPrompt], int]:
    """Test questions in a seeded order, and how many of them are prompts of the whole check.

    The others are asked for their answers only.
    """
    chats = [example for example in examples if example.messages and example.answer]
    random.Random(config.seed).shuffle(chats)  # noqa: S311 - which questions, not a secret
    compared = max(HELD_OUT, config.parity_prompts // 2)
    prompts: list[ParityPrompt] = []
    for example in chats:
        if len(prompts) == max(compared, config.parity_answers):
            break
        turns = [{"role": turn.role, "content": turn.content} for turn in example.messages]
        while turns and turns[-1]["role"] == "assistant":
            turns.pop()
        prompt = prompt_of(tokenizer, turns, source="test", expected=example.answer)
        if len(prompt.ids) <= ROOM * context:
            prompts.append(prompt)
    return prompts, min(compared, len(prompts))


def generated_prompts(tokenizer: Any, config: ExportConfig, context: int, asked: int) -> list[ParityPrompt]:
    """Prompts from the catalogue: all conversations, then as many texts as bring the check to its size.

    Args:
        tokenizer: Of the trained model.
        config: How many prompts are wanted, and the seed.
        context: Tokens that the model reads at most.
        asked: Prompts that there are already.
    """
    found = catalogue()
    conversations = [conversation(entry) for entry in found["conversations"]]
    systems = found["systems"]
    with_system = [
        [{"role": "system", "content": systems[index % len(systems)]}, *turns]
        for index, turns in enumerate(conversations)
        if turns[0]["role"] != "system"
    ]
    # Every other one: a prompt costs two forward passes.
    candidates = [*conversations, *with_system[::2], long_conversation(tokenizer, context)]
    prompts = [prompt for turns in candidates if (prompt := _fitting(tokenizer, turns, context))]
    texts = list(found["texts"])
    random.Random(config.seed).shuffle(texts)  # noqa: S311
    for text in texts:
        if asked + len(prompts) >= config.parity_prompts:
            break
        prompt = _fitting(tokenizer, [{"role": "user", "content": text}], context)
        prompts += [prompt] if prompt else []
    return prompts


def conversation(entry: dict[str, Any]) -> Conversation:
    """Messages of an entry of the catalogue: turns alternate, the user begins."""
    turns = [
        {"role": "assistant" if index % 2 else "user", "content": text}
        for index, text in enumerate(entry["turns"])
    ]
    return [{"role": "system", "content": entry["system"]}, *turns] if "system" in entry else turns


def long_conversation(tokenizer: Any, context: int) -> Conversation:
    """One question after so much text that most of the context is full."""
    long = catalogue()["long"]
    wanted = min(long["share"] * context, long["most_tokens"]) - len(token_ids(tokenizer, long["question"]))
    length = max(len(token_ids(tokenizer, long["passage"] + " ")), 1)
    passages = " ".join([long["passage"]] * max(int(wanted / length), 1))
    return [{"role": "user", "content": f"{passages}\n\n{long['question']}"}]


def _fitting(tokenizer: Any, turns: Conversation, context: int) -> ParityPrompt | None:
    """The prompt, unless it is too long or the template refuses such a conversation."""
    try:
        prompt = prompt_of(tokenizer, turns, source="generated")
    except TemplateError:
        return None  # a template without system prompts says so by raising
    return prompt if len(prompt.ids) <= ROOM * context else None


def tokenizer_texts(examples: Sequence[Example]) -> list[str]:
    """Texts that both tokenizers read: the catalogue's, and answers of the test set.

    Accents are composed (NFC): llama.cpp never normalises, so it reads decomposed ones otherwise than the
    tokenizers that do, and no file can change that.
    """
    answers = dict.fromkeys(example.answer for example in examples if example.messages)
    texts = [*catalogue()["texts"], *[answer for answer in answers if answer][:ENCODED_ANSWERS]]
    return [unicodedata.normalize("NFC", text) for text in texts]
