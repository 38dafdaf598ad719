"""Architectures as llama.cpp knows them: fields, tensor names, layouts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetuneflow.export.gguf.architectures_config import (
    Config,
    Family,
    Field,
    Rope,
    family_of,
    fields_of,
    head_counts,
    rope_of,
    tensor_name,
)

__all__ = ["Architecture", "Field", "TensorRule", "architecture_of"]

Array = NDArray[np.float32]


class TensorRule(NamedTuple):
    """How one tensor of transformers is stored in GGUF."""

    name: str
    transform: Callable[[Any], Any] | None
    by_rows: bool
    """Whether `transform` may be applied to a slice of rows."""
    row_multiple: int = 1
    """Such a slice begins and ends at a multiple of this many rows."""


@dataclass(frozen=True)
class Architecture:
    """One supported architecture."""

    family: Family

    @property
    def name(self) -> str:
        """llama.cpp's name."""
        return self.family.name

    def fields(self, config: Config) -> list[Field]:
        """The keys that describe the network, in the order they are written."""
        return fields_of(self.family, config)

    def tensor(self, hf_name: str, config: Config) -> TensorRule | None:
        """Name and layout of a tensor; None for what is left out (a tied head, stored rotary tables).

        Raises:
            ModelError: a tensor that this architecture does not have.
        """
        name = tensor_name(self.family, hf_name, config)
        if name is None:
            return None
        if (self.family.half_split and ".attn_q." in name) or (self.family.half_split and ".attn_k." in name):
            size = head_counts(self.family, config)[2]
            return TensorRule(name, partial(interleave_halves, head_size=size), True, size)
        if self.family.norm_offset and name.endswith("norm.weight"):
            return TensorRule(name, partial(np.add, np.float32(self.family.norm_offset)), True)
        return TensorRule(name, None, True)

    def extra_tensors(self, config: Config) -> dict[str, Array]:
        """Tensors that llama.cpp wants and transformers computes: rotary frequency factors."""
        rope = rope_of(self.family, config)
        if rope.kind == "llama3":
            return {"rope_freqs.weight": llama3_factors(rope)}
        if rope.kind == "longrope":
            return {
                f"rope_factors_{length}.weight": np.asarray(rope.values[f"{length}_factor"], dtype=np.float32)
                for length in ("long", "short")
            }
        return {}


def architecture_of(config: Config) -> Architecture:
    """The architecture of a config.json.

    Raises:
        ModelError: not supported, or with settings that llama.cpp would compute otherwise (code
            `architecture_unsupported`).
    """
    return Architecture(family_of(config))


def interleave_halves(rows: Array, *, head_size: int) -> Array:
    """Rows of whole heads, from half-split rotary order to llama.cpp's order of neighbouring pairs."""
    heads = rows.reshape(-1, 2, head_size // 2, *rows.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows.shape)


def llama3_factors(rope: Rope) -> Array:
    """What each rotary frequency is divided by (Llama 3.1's scaling), one per pair of dimensions."""
    values = rope.values
    factor, low, high = (float(values[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(values["original_max_position_embeddings"])
    exponents = np.arange(0, rope.dimensions, 2, dtype=np.float64) / rope.dimensions
    wavelengths = 2 * math.pi * rope.theta**exponents
    smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
