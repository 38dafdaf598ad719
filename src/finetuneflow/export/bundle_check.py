"""Is a bundle whole? Every file by size and sum, none that the manifest does not know; streamed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pydantic import Field, ValidationError

from finetuneflow.artifacts import (
    CANCEL,
    EVENTS,
    GGUF_FOLDER,
    GGUF_MODEL,
    JOB,
    MANIFEST,
    PARITY,
    RESULT,
    SUPERVISOR_PID,
    WORKER_LOG,
)
from finetuneflow.errors import NotFoundError
from finetuneflow.export.bundle import BLOCK, FORMAT, SEAL, SEAL_BYTES, manifest_text, sum_of
from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.export import ExportedFile

LARGEST_JSON = 64 << 20
"""Manifest and parity are read whole, up to this many bytes."""
BESIDE = {MANIFEST, JOB, EVENTS, RESULT, CANCEL, WORKER_LOG, SUPERVISOR_PID, ".gitattributes"}
"""Files that may lie in the folder of an export, or of one fetched from a hub, without being part of it."""
HUB_CACHE = ".cache/huggingface/"
END_RECORD = struct.Struct("<4s4H2LH")
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    OverflowError,
)
"""What zipfile raises over damaged bytes."""

Opener = Callable[[], IO[bytes]]
OnProgress = Callable[[int, int], None]


class BadFile(Schema):
    """One thing that is not as the manifest says."""

    path: str
    problem: str


class BundleParity(Schema):
    """What the check of the GGUF file in the bundle found."""

    path: str
    passed: bool
    quantization: str
    prompts: int
    top1_agreement: float
    median_max_logprob_difference: float
    first_difference: str | None = None
    gguf: str | None = None
    """The GGUF file beside it."""
    same_file: bool | None = None
    """True when that file is the one that was checked; null when the check does not name its sum."""


class VerifiedBundle(Schema):
    """What a look at every byte of a bundle found."""

    path: str
    kind: str
    """`zip` or `folder`."""
    whole: bool
    name: str = ""
    run_id: str = ""
    files: int = 0
    """Files that the manifest names."""
    size_bytes: int = 0
    bad: list[BadFile] = Field(default_factory=list)
    parity: BundleParity | None = None


class _Manifest(Schema):
    format: str
    name: str
    run_id: str
    files: list[ExportedFile]
    sha256: str = ""


class _Check:
    """One look at one bundle: what was found bad, and how far it is."""

    def __init__(self, on_progress: OnProgress | None, total: int) -> None:
        self.bad: list[BadFile] = []
        self._on_progress = on_progress
        self._done, self._total = 0, total

    def say(self, path: str, problem: str) -> None:
        self.bad.append(BadFile(path=path, problem=problem))

    def moved(self, count: int) -> None:
        self._done += count
        if self._on_progress:
            self._on_progress(min(self._done, self._total), self._total)


def verify_bundle(path: Path, *, on_progress: OnProgress | None = None) -> VerifiedBundle:
    """Reads a bundle, zip or folder, to its last byte and says what is not as its manifest says.

    `on_progress` hears of bytes done and bytes in all. Raises NotFoundError when there is nothing at `path`.
    """
    if path.is_dir():
        return _verify_folder(path, on_progress)
    if not path.is_file():
        raise NotFoundError(f"there is no bundle `{path}`", "give a zip, or the folder of an export")
    check = _Check(on_progress, 2 * path.stat().st_size)
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            _check_seal(raw, archive.comment, check)
            found = _verify_files(_entries(archive, check), check)
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        check.say(path.name, f"not a whole zip file: cut off or damaged ({reason})")
        found = {}
    return VerifiedBundle(path=str(path), kind="zip", whole=not check.bad, bad=check.bad, **found)


def _verify_folder(folder: Path, on_progress: OnProgress | None) -> VerifiedBundle:
    total = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
    check = _Check(on_progress, total)
    files, packed = _folder_files(folder, check)
    found = _verify_files(files, check)
    for name in packed:
        inner = verify_bundle(folder / name)
        check.bad += [BadFile(path=f"{name}: {bad.path}", problem=bad.problem) for bad in inner.bad]
    return VerifiedBundle(path=str(folder), kind="folder", whole=not check.bad, bad=check.bad, **found)


def _folder_files(folder: Path, check: _Check) -> tuple[dict[str, Opener], list[str]]:
    """Openers by path, and the bundles that lie beside the files; links and the like are bad."""
    files: dict[str, Opener] = {}
    packed = []
    for place, folders, names in os.walk(folder):
        for name in sorted([*names, *(link for link in folders if Path(place, link).is_symlink())]):
            path = Path(place, name)
            relative = path.relative_to(folder).as_posix()
            if not stat.S_ISREG(path.lstat().st_mode):
                check.say(relative, "is a link or a device, not a file")
            elif "/" not in relative and path.suffix == ".zip":
                packed.append(relative)
            elif relative == MANIFEST or (relative not in BESIDE and not relative.startswith(HUB_CACHE)):
                files[relative] = _opener(path)
    return files, packed


def _opener(path: Path) -> Opener:
    return lambda: path.open("rb")


def _entries(archive: zipfile.ZipFile, check: _Check) -> dict[str, Opener]:
    """Openers by path; entries that would not be plain files under the folder are bad."""
    files: dict[str, Opener] = {}
    for info in archive.infolist():
        name = info.orig_filename
        problem = _fault_of_path(name.removesuffix("/"))
        if not problem and stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            problem = "is a link or a device, not a file"
        if not problem and name in files:
            problem = "is there twice"
        if not problem and info.flag_bits & 1:
            problem = "is encrypted"
        if not problem and info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            problem = f"is packed by method {info.compress_type}, which no bundle uses"
        if problem:
            check.say(name, problem)
        elif not info.is_dir():
            files[name] = _entry_opener(archive, info)
    return files


def _entry_opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Opener:
    return lambda: archive.open(info)


def _fault_of_path(name: str) -> str:
    """Why a path could end outside the folder it is unpacked into; empty for a harmless one."""
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or ":" in parts[0] or PurePosixPath(name).is_absolute():
        return "has an absolute or strange path"
    return "has a path that leads out of the folder" if {"", ".", ".."} & set(parts) else ""


def _check_seal(raw: IO[bytes], comment: bytes, check: _Check) -> None:
    """The sum of the whole zip, in its comment; a zip that another program packed has none."""
    size = raw.seek(0, os.SEEK_END)
    end = size - END_RECORD.size - len(comment)
    raw.seek(max(end, 0))
    if raw.read(4) != b"PK\5\6":
        check.say(Path(raw.name).name, "something stands after its end")
        return
    if not comment:
        return
    if not comment.startswith(SEAL) or len(comment) != SEAL_BYTES:
        check.say(Path(raw.name).name, "its own records are cut off or damaged")
    elif sum_of(raw, size - SEAL_BYTES, check.moved) != comment[len(SEAL) :].decode("ascii", "replace"):
        check.say(Path(raw.name).name, "the sum of the zip is not the one in its comment: it was damaged")


def _verify_files(files: Mapping[str, Opener], check: _Check) -> dict[str, Any]:
    """Every file against the manifest; gives what there is to tell of the bundle."""
    manifest = _manifest(files, check)
    if manifest is None:
        return {}
    listed = {file.path: file for file in manifest.files}
    for name, file in listed.items():
        problem = _fault_of_path(name) or (
            _fault_of_file(files[name], file, check) if name in files else "is missing"
        )
        if problem:
            check.say(name, problem)
    for name in files:
        if name not in listed and name != MANIFEST:
            check.say(name, "is not in the manifest")
    return {
        "name": manifest.name,
        "run_id": manifest.run_id,
        "files": len(listed),
        "size_bytes": sum(file.size_bytes for file in listed.values()),
        "parity": _parity(files, listed, check),
    }


def _manifest(files: Mapping[str, Opener], check: _Check) -> _Manifest | None:
    if MANIFEST not in files:
        check.say(MANIFEST, "is missing")
        return None
    try:
        text = _read(files[MANIFEST]).decode("utf-8")
        value = json.loads(text)
        named = value.get("format") if isinstance(value, dict) else None
        if named != FORMAT:
            check.say(MANIFEST, f"has the format {str(named)[:80]!r}, known is {FORMAT!r}")
            return None
        manifest = _Manifest.model_validate(value)
    except ValidationError:
        check.say(MANIFEST, "is not a list of files with sizes and sums")
    except DAMAGE:
        check.say(MANIFEST, "cannot be read: it was damaged")
    else:
        if len({file.path for file in manifest.files}) != len(manifest.files):
            check.say(MANIFEST, "names a file twice")
        if manifest.sha256 and text != manifest_text(manifest.name, manifest.run_id, manifest.files):
            check.say(MANIFEST, "was changed: its own sum does not hold")
        return manifest
    return None


def _fault_of_file(opener: Opener, file: ExportedFile, check: _Check) -> str:
    digest, size = hashlib.sha256(), 0
    try:
        with opener() as reader:
            # one block too many is enough to know: a zip may claim to unpack to anything
            while size <= file.size_bytes and (block := reader.read(BLOCK)):
                digest.update(block)
                size += len(block)
                check.moved(len(block))
    except DAMAGE:
        return "is damaged: it cannot be unpacked"
    if size != file.size_bytes:
        more = "more than" if size > file.size_bytes else f"{size:,} bytes instead of"
        return f"has {more} {file.size_bytes:,} bytes"
    return "" if digest.hexdigest() == file.sha256 else "has another SHA-256 than the manifest says"


def _parity(
    files: Mapping[str, Opener], listed: Mapping[str, ExportedFile], check: _Check
) -> BundleParity | None:
    """What the check of the GGUF file said, and whether it was this file; None when there was none."""
    path = next((name for name in (f"{GGUF_FOLDER}/{PARITY}", PARITY) if name in files), None)
    if path is None:
        return None
    gguf = listed.get(str(PurePosixPath(path).with_name(GGUF_MODEL)))
    try:
        value = json.loads(_read(files[path]))
        checked = value.get("gguf_sha256") if gguf else None
        figures = {key: value[key] for key in BundleParity.model_fields if key in value}
        same = checked == gguf.sha256 if gguf and checked else None
        found = BundleParity.model_validate(
            figures | {"path": path, "gguf": gguf.path if gguf else None, "same_file": same}
        )
    except (*DAMAGE, AttributeError, TypeError):
        if not any(bad.path == path for bad in check.bad):
            check.say(path, "is not the result of a check")
        return None
    if found.same_file is False:
        check.say(
            path, f"speaks of another file than {found.gguf}: its SHA-256 is not the one that was checked"
        )
    return found


def _read(opener: Opener) -> bytes:
    """A small file, whole."""
    with opener() as reader:
        data = reader.read(LARGEST_JSON + 1)
    if len(data) > LARGEST_JSON:
        raise ValueError("too large")
    return data
