"""What a GGUF file says of itself, and what the trained model has in its place.

Read here, not through `gguf`: its reader makes an object of every token and merge, which takes half a minute
for a large vocabulary, and what is wanted stands in a dozen of fields.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from finetuneflow.errors import ModelError
from finetuneflow.modeling.tokenize import render, token_ids

DEFAULT_ROPE_BASE = 10000.0
"""What llama.cpp takes when a file says nothing."""
NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"
}  # fmt: skip
STRING, ARRAY = 8, 9
LONGEST_ARRAY = 64
"""Longer ones are read past: only their length is given."""


@dataclass(frozen=True)
class FileFacts:
    """Metadata of a file that decide how it is served."""

    tokens: int
    rope_base: float
    context_tokens: int | None
    """Longest conversation that the file allows."""
    end_tokens: list[int]
    """End of sequence and end of turn, where the file names them."""


def read_facts(path: Path) -> FileFacts:
    """The facts of a GGUF file, read without llama.cpp.

    Raises:
        ModelError: not a whole GGUF file.
    """
    try:
        fields = read_metadata(path)
    except (struct.error, KeyError, UnicodeDecodeError, MemoryError, OverflowError) as error:
        raise ModelError(f"`{path}` is not a whole GGUF file", "export it again") from error
    architecture = fields.get("general.architecture")
    rope_base = fields.get(f"{architecture}.rope.freq_base", DEFAULT_ROPE_BASE)
    ends = [fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    return FileFacts(
        tokens=_length(fields.get("tokenizer.ggml.tokens", 0)),
        rope_base=float(rope_base),
        context_tokens=fields.get(f"{architecture}.context_length"),
        end_tokens=[token for token in ends if token is not None],
    )


def read_metadata(path: Path) -> dict[str, Any]:
    """Key to value of a GGUF file; a long array is given by its length.

    Raises:
        struct.error, KeyError, UnicodeDecodeError: the file is damaged.
    """
    with path.open("rb") as file:
        _, _, _, count = struct.unpack("<IIQQ", file.read(24))
        return {_string(file): _value(file, *_numbers(file, "<I")) for _ in range(count)}


def _numbers(file: IO[bytes], form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _string(file: IO[bytes]) -> str:
    length = _numbers(file, "<Q")[0]
    return str(_numbers(file, f"<{length}s")[0], "utf-8")


def _value(file: IO[bytes], kind: int) -> Any:
    if kind == STRING:
        return _string(file)
    if kind != ARRAY:
        return _numbers(file, NUMBERS[kind])[0]
    item, length = _numbers(file, "<IQ")
    if length <= LONGEST_ARRAY:
        return [_value(file, item) for _ in range(length)]
    if item == STRING:
        for _ in range(length):
            file.seek(int(_numbers(file, "<Q")[0]), 1)
    else:
        file.seek(struct.calcsize(NUMBERS[item]) * length, 1)
    return length


def _length(array: list[Any] | int) -> int:
    return array if isinstance(array, int) else len(array)


def rope_base_of(config: Any) -> float | None:
    """The rotary base of a transformers configuration; None for models without one.

    Where a model has one base for full attention and one for sliding windows, the former.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    parameters = parameters.get("full_attention", parameters)
    base = parameters.get("rope_theta", getattr(config, "rope_theta", None))
    return None if base is None else float(base)


def turn_end(tokenizer: Any) -> list[int]:
    """The special token that the chat template writes after an answer; none when it writes no such token."""
    answer = "b"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
    rendered = render(tokenizer, turns, prompt=False)
    after = token_ids(tokenizer, rendered[rendered.rfind(answer) + len(answer) :].lstrip(" "))[:1]
    added = tokenizer.added_tokens_decoder
    return [token for token in after if token in added and added[token].special]


def configured_ends(model: Any) -> list[int]:
    """Ids that the model's own configuration names as ends."""
    named = [model.config.eos_token_id, getattr(model.generation_config, "eos_token_id", None)]
    ends: list[int] = []
    for value in named:
        ends += value if isinstance(value, list) else [] if value is None else [value]
    return ends
