"""What makes two examples the same: exact bytes for hashing, normalised text for duplicates and leaks."""

from __future__ import annotations

import re
import unicodedata

import msgspec
import xxhash

from finetuneflow.schemas.example import Example

_SOFT_PUNCTUATION = re.compile("[.,;:!?…\"'`´“”„«»‘’‚‹›()\\[\\]{}¿¡]")
"""Marks that do not change what is asked. `#`, `+`, `-`, `%` and the like stay: C is neither C# nor C++."""


def canonical_bytes(example: Example) -> bytes:
    """The content of an example (not its provenance) as compact JSON, the same for every file format."""
    if example.messages:
        return msgspec.json.encode([[message.role, message.content] for message in example.messages])
    return msgspec.json.encode({"text": example.text, "label": example.label})


def example_hash(example: Example) -> str:
    """128-bit xxHash of the content, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(canonical_bytes(example))


def normalise(text: str) -> str:
    """Text without differences of case, spacing, composition or punctuation; never empty unless `text` is."""
    folded = unicodedata.normalize("NFC", text).casefold()
    return " ".join(_SOFT_PUNCTUATION.sub(" ", folded).split()) or " ".join(folded.split()) or text


def question_key(example: Example) -> str:
    """The normalised question with the turns before it, whatever the system prompt says."""
    if not example.messages:
        return normalise(example.text or "")
    turns = [message for message in example.messages if message.role != "system"]
    while turns and turns[-1].role == "assistant":
        turns.pop()
    return "\x1f".join(normalise(turn.content) for turn in turns)


def context_key(example: Example) -> str:
    """The question key and the system prompt: two examples that share it should have one answer."""
    system = " ".join(message.content for message in example.messages if message.role == "system")
    return f"{normalise(system)}\x1e{question_key(example)}" if system else question_key(example)


def answer_key(example: Example) -> str:
    """The normalised answer (the turns after the last user turn), or the label."""
    if not example.messages:
        return normalise(example.label or "")
    answer: list[str] = []
    for message in reversed(example.messages):
        if message.role == "user":
            break
        answer.append(normalise(message.content))
    return "\x1f".join(reversed(answer))
