"""A model's weights as float32 rows, with an adapter melted in on the way. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetuneflow.errors import ModelError
from finetuneflow.export.gguf.peft_adapter import LowRank, PeftAdapter, read_adapter
from finetuneflow.export.gguf.safetensors_file import StoredTensor, open_tensors, to_half
from finetuneflow.modeling.fingerprint import check_adapter, fingerprint
from finetuneflow.modeling.locate import read_config, weight_files

EMBEDDING = "embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Weights:
    """What `open_weights` found. Rows are read when they are asked for, from any thread."""

    config: dict[str, Any]
    stored: dict[str, StoredTensor]
    """By name; a tensor that the adapter replaces lies in the adapter's file."""
    updates: dict[str, LowRank] = field(default_factory=dict)
    replaced: frozenset[str] = frozenset()
    """Tensors that the adapter brings along whole."""

    def names(self) -> list[str]:
        """Tensors in the order in which they are stored."""
        return list(self.stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, output rows first."""
        return self.stored[name].shape

    def stored_bytes(self, name: str) -> int:
        """Size of a tensor in its file.

        Raises:
            ModelError: it is not stored as floating point.
        """
        self.stored[name].check()
        return self.stored[name].size_bytes

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows [start, stop) as the tuned model has them; a new, writable array.

        Raises:
            ModelError: the file is cut short, or holds another number format.
        """
        rows = self.stored[name].read(start, stop)
        update = self.updates.get(name)
        return rows if update is None else update.apply(rows, start)

    def read_half(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float16]:
        """What `read` gives, as float16.

        Raises:
            ModelError: as `read`, and for numbers beyond the range of float16.
        """
        if name in self.updates:
            return to_half(self.read(name, start, stop))
        return self.stored[name].read_half(start, stop)


def open_weights(folder: Path, adapter: Path | None = None) -> Weights:
    """The weights of a transformers folder, sharded or not, with a PEFT adapter on top when one is given.

    Raises:
        ModelError: files missing or broken, an adapter of another base or with unknown features, or one
            that changes one of two matrices which the model keeps equal.
    """
    config = read_config(folder)
    stored = _stored(folder)
    if adapter is None:
        return Weights(config, stored)
    check_adapter(adapter, fingerprint(folder))
    found = read_adapter(adapter)
    replacements = {
        name: tensor
        for name, tensor in found.replacements.items()
        if name not in stored or not _same(tensor, stored[name])
    }
    changed: dict[str, tuple[int, ...]] = {name: update.shape for name, update in found.updates.items()}
    changed |= {name: tensor.shape for name, tensor in replacements.items()}
    if config.get("tie_word_embeddings") or not _named(stored, HEAD):
        _refuse_tied(changed)
    _refuse_misfits(changed, stored, found)
    return Weights(config, stored | replacements, found.updates, frozenset(replacements))


def _stored(folder: Path) -> dict[str, StoredTensor]:
    files = weight_files(folder)
    if not files:
        raise ModelError(f"there are no safetensors weights in `{folder}`", "give the folder of a model")
    stored: dict[str, StoredTensor] = {}
    for file in files:
        stored |= open_tensors(file)
    return stored


def _same(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors hold the same numbers: PEFT saves embeddings along that nothing has changed."""
    if one.shape != other.shape:
        return False
    step = max(1, (1 << 20) // max(1, one.size_bytes // one.shape[0]))
    return all(
        np.array_equal(one.read(start, stop), other.read(start, stop))
        for start in range(0, one.shape[0], step)
        for stop in [min(start + step, one.shape[0])]
    )


def _named(names: dict[str, Any], ending: str) -> list[str]:
    return [name for name in names if name == ending or name.endswith("." + ending)]


def _refuse_tied(changed: dict[str, tuple[int, ...]]) -> None:
    tied = _named(changed, EMBEDDING) + _named(changed, HEAD)
    if tied:
        raise ModelError(
            f"the adapter changes `{tied[0]}`, and this model shares its embeddings with its output layer: "
            "merged, both uses would change",
            "train without `embed_tokens` and `lm_head` in `target_modules` and `modules_to_save`, or use "
            "the adapter as it is",
            code="tied_embeddings",
        )


def _refuse_misfits(
    changed: dict[str, tuple[int, ...]], stored: dict[str, StoredTensor], adapter: PeftAdapter
) -> None:
    for name, shape in changed.items():
        base = str(adapter.config.get("base_model_name_or_path") or "its own base")
        if name not in stored:
            raise ModelError(
                f"the adapter changes `{name}`, which the base model does not have",
                f"it was trained on `{base}`: give that",
            )
        if stored[name].shape != shape:
            raise ModelError(
                f"the adapter has `{name}` of shape {shape}, the base model {stored[name].shape}",
                f"it was trained on `{base}`, perhaps with another vocabulary: export the merged model",
            )
