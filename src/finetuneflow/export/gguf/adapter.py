"""A LoRA adapter as GGUF, for servers that load adapters beside a base model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as TensorType
from numpy.typing import NDArray

from finetuneflow.errors import ModelError
from finetuneflow.export.gguf.architectures import Field, TensorRule, architecture_of
from finetuneflow.export.gguf.file import Tensor, WrittenGguf, rows_of, write_tensors
from finetuneflow.export.gguf.peft_adapter import LowRank
from finetuneflow.export.gguf.weights import Weights, open_weights

MERGE = "export the whole model: `--to gguf` melts the adapter into its base"


def write_gguf_adapter(path: Path, folder: Path, adapter: Path) -> WrittenGguf:
    """Writes an adapter as one GGUF file in fp32, which appears whole and read back, or not at all.

    llama.cpp scales by alpha / rank with one alpha for the file. What training scaled by, with rsLoRA or
    `alpha_pattern`, goes into that alpha, and where ranks or alphas differ into the matrices.

    Args:
        path: The file; one that is there is replaced.
        folder: The base model.
        adapter: A PEFT adapter.

    Raises:
        ModelError: another base, an architecture that cannot be exported, or a feature which this format
            does not have (DoRA, modules_to_save, tied embeddings), by name.
        StorageError: not enough space, or the disk gave back other bytes than were written.
    """
    weights = open_weights(folder, adapter)
    _refuse_unknown_to_format(weights)
    architecture = architecture_of(weights.config)
    tensors: list[Tensor] = []
    alpha = None
    for name, update in weights.updates.items():
        rule = architecture.tensor(name, weights.config)
        if rule is None:
            raise ModelError(f"the adapter changes `{name}`, which a GGUF file does not have", MERGE)
        rank = update.a.shape[0]
        alpha = alpha or update.scale * rank
        a, b = _matrices(name, update, rule)
        b = b * np.float32(update.scale * rank / alpha)
        tensors += [_tensor(f"{rule.name}.lora_a", a), _tensor(f"{rule.name}.lora_b", b)]
    if alpha is None:
        raise ModelError(f"the adapter in `{adapter}` changes nothing", "train one, or check its files")
    fields = [
        Field("general.type", "adapter", "STRING"),
        Field("adapter.type", "lora", "STRING"),
        Field("adapter.lora.alpha", alpha, "FLOAT32"),
    ]
    return write_tensors(path, architecture.name, fields, tensors)


def _refuse_unknown_to_format(weights: Weights) -> None:
    if weights.replaced:
        raise ModelError(
            f"the adapter replaces `{min(weights.replaced)}` as a whole (`modules_to_save` or biases), which "
            "an adapter in GGUF cannot",
            MERGE,
            code="adapter_unsupported",
        )
    if any(update.magnitude is not None for update in weights.updates.values()):
        raise ModelError(
            "the adapter uses DoRA (`use_dora`), which an adapter in GGUF cannot",
            MERGE,
            code="adapter_unsupported",
        )


def _matrices(
    name: str, update: LowRank, rule: TensorRule
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A and B as llama.cpp has them: rows of an embedding are looked up in A; moved rows are rows of B."""
    if update.embedding:
        return np.ascontiguousarray(update.a.T), update.b
    if rule.transform is None:
        return update.a, update.b
    rows = np.arange(len(update.b), dtype=np.float32)[:, None]
    order = rule.transform(rows).ravel().astype(np.int64)
    if not np.array_equal(np.sort(order), np.arange(len(update.b))):
        raise ModelError(f"`{name}` is stored in GGUF in a form that adapters cannot follow", MERGE)
    return update.a, update.b[order]


def _tensor(name: str, values: NDArray[np.float32]) -> Tensor:
    return Tensor(name, TensorType.F32, values.shape, partial(rows_of, values))
