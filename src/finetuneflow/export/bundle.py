"""A zip with a manifest of SHA-256 sums: streamed, and the same bytes for the same files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from finetuneflow.artifacts import MANIFEST, atomic_write, sha256_file, write_text
from finetuneflow.schemas.export import ExportedFile

FORMAT = "finetuneflow-bundle/1"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest instant that a zip can hold: a bundle does not tell when it was packed."""
INCOMPRESSIBLE = {".safetensors", ".png", ".gguf"}
BLOCK = 1 << 20
SEAL = b"sha256:"
"""Begins the zip's comment: the sum of every byte before it, so that damage to its own records shows."""
SEAL_BYTES = len(SEAL) + 64


def list_files(root: Path, names: Iterable[str]) -> list[ExportedFile]:
    """Files under some files and folders of `root`, by path, with size and sum; links are left out."""
    found: set[Path] = set()
    for name in names:
        path = root / name
        found |= {file for file in path.rglob("*") if file.is_file()} if path.is_dir() else {path}
    return [
        ExportedFile(
            path=file.relative_to(root).as_posix(), size_bytes=file.stat().st_size, sha256=sha256_file(file)
        )
        for file in sorted(found)
        if file.is_file() and not file.is_symlink()
    ]


def manifest_text(name: str, run_id: str, files: Sequence[ExportedFile]) -> str:
    """What `manifest.json` says: each file with its size and SHA-256, last its own sum without that line."""
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "run_id": run_id,
        "files": [file.model_dump() for file in files],
    }
    own = hashlib.sha256(_json(manifest).encode()).hexdigest()
    return _json(manifest | {"sha256": own})


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_manifest(root: Path, name: str, run_id: str, files: Sequence[ExportedFile]) -> None:
    """Writes `manifest.json`: what the bundle holds."""
    write_text(root / MANIFEST, manifest_text(name, run_id, files))


def write_zip(path: Path, root: Path, files: Sequence[ExportedFile]) -> None:
    """Packs the manifest, then the files; appears whole or not at all, and holds no file in memory."""
    names = [MANIFEST, *sorted(file.path for file in files if file.path != MANIFEST)]
    with atomic_write(path, binary=True) as raw:
        with zipfile.ZipFile(raw, "w", allowZip64=True) as archive:
            for name in names:
                source = root / name
                info = zipfile.ZipInfo(name, EPOCH)
                info.create_system = 3  # Unix, wherever it is packed
                info.external_attr = 0o644 << 16
                stored = source.suffix in INCOMPRESSIBLE
                info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
                info.file_size = source.stat().st_size
                with source.open("rb") as reader, archive.open(info, "w") as writer:
                    shutil.copyfileobj(reader, writer, BLOCK)
            archive.comment = SEAL + b"0" * (SEAL_BYTES - len(SEAL))
        _seal(raw)


def _seal(file: IO[bytes]) -> None:
    """Puts the sum of all that stands before the comment into the comment."""
    file.flush()
    end = file.seek(0, os.SEEK_END) - SEAL_BYTES
    digest = sum_of(file, end)
    os.pwrite(file.fileno(), digest.encode(), end + len(SEAL))


def sum_of(file: IO[bytes], length: int, on_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 of the first `length` bytes of an open file, hex; `on_bytes` hears of every block."""
    digest, position = hashlib.sha256(), 0
    while position < length:
        block = os.pread(file.fileno(), min(BLOCK, length - position), position)
        if not block:
            break
        digest.update(block)
        position += len(block)
        if on_bytes:
            on_bytes(len(block))
    return digest.hexdigest()
