"""The files of a model folder that say how its texts become tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetuneflow.errors import ModelError
from finetuneflow.export.gguf.chat_template import TOKENIZER_CONFIG, read_chat_template, read_json, render

QUESTION, ANSWER = "Aq", "Zr"
TAKEN_AS_STORED = ("mistral", "phi3")
"""Models whose tokenizer class transformers does not believe: their tokenizer.json counts."""


@dataclass(frozen=True)
class Stored:
    """What a model folder says of its tokenizer."""

    tokenizer: dict[str, Any]
    config: dict[str, Any]
    generation: dict[str, Any]
    template: str

    @property
    def added(self) -> list[dict[str, Any]]:
        """Tokens that are found in a text before anything else."""
        found: list[dict[str, Any]] = self.tokenizer.get("added_tokens") or []
        return found

    @property
    def model(self) -> dict[str, Any]:
        """Vocabulary and merges."""
        found: dict[str, Any] = self.tokenizer["model"]
        return found

    def merges(self) -> list[tuple[str, ...]]:
        """Pairs of tokens, first to last."""
        pairs = self.model["merges"]
        return [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in pairs]

    def ids(self) -> dict[str, int]:
        """Token to id."""
        return {**self.model["vocab"], **{token["content"]: token["id"] for token in self.added}}

    def special(self, role: str) -> str | None:
        """Text of the `bos`, `eos`, `pad` or `unk` token."""
        value = self.config.get(f"{role}_token")
        if isinstance(value, dict):
            value = value.get("content")
        return value if isinstance(value, str) else None

    @property
    def begins_texts(self) -> bool:
        """Whether the `bos` token is put before a bare text."""
        processors = [self.tokenizer.get("post_processor") or {}]
        processors += processors[0].get("processors", [])
        templates = [part for part in processors if part.get("type") == "TemplateProcessing"]
        starts = [part["single"][0].get("SpecialToken", {}) for part in templates if part["single"]]
        return any(start.get("id") == self.special("bos") for start in starts if start)


def read_stored(folder: Path, tuned: Path | None = None) -> Stored:
    """The tokenizer's files, those saved with an adapter first.

    Raises:
        ModelError: no tokenizer.json, or one that cannot be read.
    """
    generation = read_json(folder / "generation_config.json")
    model_type = read_json(folder / "config.json").get("model_type")
    as_saved = tuned is not None and (tuned / "tokenizer.json").is_file()
    if tuned is not None and as_saved:
        folder = tuned
    tokenizer = read_json(folder / "tokenizer.json")
    if not isinstance(tokenizer.get("model"), dict):
        raise refusal(
            f"there is no usable tokenizer.json in `{folder}`",
            "load the model with transformers and save its tokenizer once: that writes tokenizer.json",
        )
    settings = read_json(folder / "special_tokens_map.json") | read_json(folder / TOKENIZER_CONFIG)
    if not as_saved and model_type not in TAKEN_AS_STORED:
        tokenizer = tokenizer | _rebuilt(tokenizer, settings)
    stored = Stored(tokenizer, settings, generation, "")
    return replace(stored, template=read_chat_template(folder, begins=stored.begins_texts))


def _rebuilt(tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers 5 puts in place of tokenizer.json's own steps, by the class of the tokenizer.

    It rebuilds these classes from vocabulary and merges alone, so that training saw this and not the file.
    """
    kind = str(settings.get("tokenizer_class")).removesuffix("Fast")
    if kind == "LlamaTokenizer" and tokenizer["model"].get("byte_fallback"):
        scheme = "always" if settings.get("legacy") else "first"
        if settings.get("add_prefix_space") is False:
            scheme = "never"
        step = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
        return {"normalizer": None, "pre_tokenizer": step}
    if kind == "GPT2Tokenizer":
        spaced = bool(settings.get("add_prefix_space"))
        step = {"type": "ByteLevel", "add_prefix_space": spaced, "use_regex": True}
        return {"normalizer": None, "pre_tokenizer": step}
    return {}


def refusal(message: str, hint: str = "export the adapter or the merged model instead") -> ModelError:
    """The error for what llama.cpp does not have."""
    return ModelError(message, hint, code="tokenizer_unsupported")


def conversation(stored: Stored) -> tuple[str, str]:
    """A short conversation through the chat template, and what follows the answer in it."""
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    named = {f"{role}_token": stored.special(role) for role in ("bos", "eos", "pad", "unk")}
    variables = {key: text for key, text in named.items() if text is not None}
    twice = [*messages, *messages]
    rendered = render(stored.template, twice, prompt=False, **variables)
    return rendered, rendered[rendered.rfind(ANSWER) + len(ANSWER) :]


def added_pattern(added: Iterable[Mapping[str, Any]]) -> re.Pattern[str]:
    """Finds added tokens in a text, the longest first, with the white space that they eat."""
    contents = sorted((token["content"] for token in added), key=len, reverse=True)
    stripping = {token["content"] for token in added if token.get("rstrip")}
    parts = [re.escape(content) + (r"\s*" if content in stripping else "") for content in contents]
    return re.compile("|".join(parts) or r"(?!)")
