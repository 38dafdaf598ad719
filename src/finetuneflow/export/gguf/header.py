"""What stands before the tensors of a GGUF file: fields, and where each tensor is."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from gguf import GGUF_MAGIC, GGUF_VERSION, GGMLQuantizationType, GGUFValueType

from finetuneflow.export.gguf.architectures import Field

ALIGNMENT = 32
"""Header and tensors begin at multiples of this many bytes."""
NUMBERS = {
    "UINT8": "<u1",
    "INT8": "<i1",
    "UINT16": "<u2",
    "INT16": "<i2",
    "UINT32": "<u4",
    "INT32": "<i4",
    "UINT64": "<u8",
    "INT64": "<i8",
    "FLOAT32": "<f4",
    "FLOAT64": "<f8",
    "BOOL": "?",
}


class Place(NamedTuple):
    """One tensor of the file."""

    name: str
    shape: tuple[int, ...]
    """Output rows first, as in transformers; GGUF counts the other way."""
    kind: GGMLQuantizationType
    size_bytes: int


def header_bytes(architecture: str, fields: Iterable[Field], tensors: Iterable[Place]) -> bytes:
    """The head of a GGUF file, padded to where the first tensor begins.

    Args:
        architecture: llama.cpp's name; becomes the first field.
        fields: The others; of two with the same key the later one counts.
        tensors: In the order of their data.
    """
    unique = {field.key: field for field in [Field("general.architecture", architecture, "STRING"), *fields]}
    infos, offset = [], 0
    for tensor in tensors:
        shape = tensor.shape[::-1]
        infos.append(_string(tensor.name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        infos.append(struct.pack("<IQ", tensor.kind, offset))
        offset += padded(tensor.size_bytes)
    counts = struct.pack("<IIQQ", GGUF_MAGIC, GGUF_VERSION, len(infos) // 2, len(unique))
    header = b"".join([counts, *(_field(field) for field in unique.values()), *infos])
    return header + bytes(padded(len(header)) - len(header))


def padded(size: int) -> int:
    """The next multiple of the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _field(field: Field) -> bytes:
    kind, _, item = field.type.partition(":")
    head = _string(field.key) + struct.pack("<I", GGUFValueType[kind])
    if not item:
        return head + _values([field.value], kind)
    return head + struct.pack("<IQ", GGUFValueType[item], len(field.value)) + _values(field.value, item)


def _values(values: Any, kind: str) -> bytes:
    if kind == "STRING":
        return b"".join(_string(text) for text in values)
    return np.asarray(values, NUMBERS[kind]).tobytes()


def _string(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(8, "little") + data
