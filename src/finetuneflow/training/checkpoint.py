"""Checkpoints that are whole or not there: temporary folder, manifest with SHA-256 last, rename."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from finetuneflow.artifacts import CHECKPOINTS, MANIFEST, sha256_file, write_folder

KEPT = 2
"""Newest checkpoints kept, beside the best one."""
TENSORS = "state.safetensors"
STATE = "state.json"


def save_checkpoint(job: Path, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> Path:
    """Writes `checkpoints/step-N` and drops the oldest but the newest two."""
    folder = job / CHECKPOINTS / f"step-{step:07d}"
    if folder.exists():
        shutil.rmtree(folder)
    write_checkpoint(folder, tensors, state)
    for old in list_checkpoints(job)[:-KEPT]:
        shutil.rmtree(old)
    return folder


def write_checkpoint(folder: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Writes one checkpoint folder, whole or not at all."""

    def fill(temporary: Path) -> None:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            temporary / TENSORS,
        )
        (temporary / STATE).write_text(json.dumps(state), encoding="utf-8")
        files = {
            name: {"size_bytes": (temporary / name).stat().st_size, "sha256": sha256_file(temporary / name)}
            for name in (TENSORS, STATE)
        }
        (temporary / MANIFEST).write_text(json.dumps(files), encoding="utf-8")

    write_folder(folder, fill)


def list_checkpoints(job: Path) -> list[Path]:
    """Checkpoint folders, oldest first, valid or not."""
    return sorted((job / CHECKPOINTS).glob("step-*"))


def is_valid(folder: Path) -> bool:
    """Whether every file of a checkpoint is there with the size and hash that its manifest names."""
    try:
        files: dict[str, dict[str, Any]] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all(
            (folder / name).stat().st_size == entry["size_bytes"]
            and sha256_file(folder / name) == entry["sha256"]
            for name, entry in files.items()
        )
    except (OSError, ValueError, KeyError):
        return False


def load_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and state of a valid checkpoint."""
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return load_file(folder / TENSORS), state


def newest_valid(job: Path) -> Path | None:
    """The checkpoint to go on from, or None."""
    return next((folder for folder in reversed(list_checkpoints(job)) if is_valid(folder)), None)
