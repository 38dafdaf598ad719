"""A PEFT adapter in numpy: what it adds to which weight, what it puts in place of which. No torch."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetuneflow.errors import ModelError
from finetuneflow.export.gguf.safetensors_file import StoredTensor, open_tensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
UNDERSTOOD = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
}
"""Keys that are taken into account or change no weight; any other that is set is refused."""
UNCHANGED_BASE = {"gaussian", "eva", "orthogonal"}
"""Ways to start an adapter that leave the base's weights alone; others take a part of them away."""
PARTS = re.compile(
    r"(?P<module>.+)\.(?:(?P<matrix>lora_[AB])\.weight"
    r"|(?P<embedding>lora_embedding_[AB])|(?P<magnitude>lora_magnitude_vector)(?:\.weight)?)"
)


@dataclass(frozen=True)
class LowRank:
    """A weight's update: `scale * b @ a`, and with DoRA each row then set to its own length."""

    a: NDArray[np.float32]
    """(rank, columns); of an embedding (rank, rows)."""
    b: NDArray[np.float32]
    """(rows, rank); of an embedding (columns, rank)."""
    scale: float
    magnitude: NDArray[np.float32] | None = None
    """(rows,): DoRA."""
    embedding: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight that it belongs to."""
        rows, columns = self.b.shape[0], self.a.shape[1]
        return (columns, rows) if self.embedding else (rows, columns)

    def apply(self, rows: NDArray[np.float32], start: int) -> NDArray[np.float32]:
        """The weight's rows from `start` on, with the update; changes `rows`."""
        stop = start + len(rows)
        delta = (self.b @ self.a[:, start:stop]).T if self.embedding else self.b[start:stop] @ self.a
        delta *= np.float32(self.scale)
        rows += delta
        if self.magnitude is not None:
            length = np.linalg.norm(rows, axis=1)
            rows *= (self.magnitude[start:stop] / length)[:, None]
        return rows


@dataclass(frozen=True)
class PeftAdapter:
    """What an adapter does to its base, by name of the base's tensors."""

    config: dict[str, Any]
    updates: dict[str, LowRank]
    replacements: dict[str, StoredTensor]
    """Whole tensors: `modules_to_save` and trained biases."""


def read_adapter(folder: Path) -> PeftAdapter:
    """The adapter in a folder, as PEFT saves one.

    Raises:
        ModelError: no LoRA, a feature that changes weights in a way not known here, or broken files.
    """
    config = _read_config(folder)
    _refuse_unknown(folder, config)
    if not (folder / WEIGHTS).is_file():
        raise ModelError(
            f"there is no `{WEIGHTS}` in `{folder}`",
            "pickled adapters (.bin) can run code and are refused: save it as safetensors",
        )
    parts: dict[str, dict[str, StoredTensor]] = {}
    replacements: dict[str, StoredTensor] = {}
    for key, tensor in open_tensors(folder / WEIGHTS).items():
        if not key.startswith(PREFIX):
            raise ModelError(
                f"`{key}` in `{folder / WEIGHTS}` is not named in PEFT's way", "save it with PEFT"
            )
        name = key.removeprefix(PREFIX)
        match = PARTS.fullmatch(name)
        if match:
            kind = match["matrix"] or match["embedding"] or match["magnitude"]
            parts.setdefault(match["module"], {})[kind] = tensor
        elif ".lora_" in name:
            raise _not_understood(f"holds `{key}`")
        else:
            replacements[re.sub(r"\.(?:base_layer|modules_to_save)(?=\.)", "", name)] = tensor
    updates = {f"{module}.weight": _low_rank(module, found, config) for module, found in parts.items()}
    return PeftAdapter(config, updates, replacements)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"`{folder}` is not an adapter: no readable `{CONFIG}`", "give its folder"
        ) from error
    return config


def _not_understood(what: str) -> ModelError:
    return ModelError(
        f"the adapter {what}: its weights cannot be melted into the base here",
        "export the merged model (`--to merged`), or train plain LoRA, rsLoRA or DoRA",
        code="adapter_unsupported",
    )


def _refuse_unknown(folder: Path, config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"the adapter in `{folder}` is of type {kind}", "LoRA is supported", code="adapter_unsupported"
        )
    for key, value in config.items():
        if value and key not in UNDERSTOOD:
            raise _not_understood(f"uses `{key}`")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start not in UNCHANGED_BASE:
        raise _not_understood(f"was started with `init_lora_weights: {start}`, which changes the base")


def _low_rank(module: str, parts: dict[str, StoredTensor], config: dict[str, Any]) -> LowRank:
    embedding = any(kind.startswith("lora_embedding") for kind in parts)
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    missing = [name for name in names if name not in parts]
    if missing:
        raise ModelError(f"the adapter has no `{missing[0]}` for `{module}`", "its file may be damaged")
    a, b = (parts[name].read() for name in names)
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise _not_understood(f"has matrices of shape {a.shape} and {b.shape} for `{module}`")
    magnitude = parts["lora_magnitude_vector"].read().ravel() if "lora_magnitude_vector" in parts else None
    if bool(config.get("use_dora")) != (magnitude is not None):
        raise ModelError(
            f"the adapter's DoRA magnitudes of `{module}` are missing", "its file may be damaged"
        )
    if embedding and magnitude is not None:
        raise _not_understood(f"uses DoRA on the embedding `{module}`")
    return LowRank(a, b, _scale(module, a.shape[0], config), magnitude, embedding)


def _scale(module: str, rank: int, config: dict[str, Any]) -> float:
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
