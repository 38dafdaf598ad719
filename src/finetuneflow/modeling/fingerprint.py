"""Which base an adapter belongs to: a mark of configuration, tensor shapes and sampled weights. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from finetuneflow.artifacts import BASE_FINGERPRINT
from finetuneflow.errors import ModelError
from finetuneflow.modeling.locate import weight_files

SAMPLED_BYTES = 1 << 20


def fingerprint(folder: Path) -> str:
    """Hash of config.json and of the weights: whole up to 64 MiB, else header, size and sampled blocks."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            step = SAMPLED_BYTES if size <= 64 * SAMPLED_BYTES else size // 64
            for offset in range(0, size, step):
                file.seek(offset)
                digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()[:16]


def check_adapter(adapter: Path, base_fingerprint: str) -> None:
    """Refuses an adapter that was trained on another base.

    Raises:
        ModelError: the fingerprint stored with the adapter is another one.
    """
    stored = adapter / BASE_FINGERPRINT
    if stored.is_file() and stored.read_text(encoding="utf-8").strip() != base_fingerprint:
        raise ModelError(
            f"the adapter in `{adapter}` was trained on another base model",
            "load it on the very base it was trained on: other weights give other answers",
        )
