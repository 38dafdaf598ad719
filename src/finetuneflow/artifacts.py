"""The only place that knows the names of files in a workspace or job folder, and how to write them whole."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from finetuneflow.errors import StorageError
from finetuneflow.schemas.event import JobEvent, NumberedEvent
from finetuneflow.schemas.example import Example

JOB = "job.json"
EVENTS = "events.jsonl"
RESULT = "result.json"
CANCEL = "cancel"
"""Empty file: the worker stops at the next step when it appears."""
WORKER_LOG = "worker.log"
SUPERVISOR_PID = "supervisor.json"
RECIPE = "recipe.yaml"
BASE_MODELS = "models.yaml"
"""Beside a recipe or in the workspace: base models by the names that recipes use."""
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
MODEL = "model"
PREDICTIONS = "predictions.jsonl"
ITEMS = "items.jsonl"
REPORT = "report.md"
LOSS_CURVE = "loss_curve.png"
MERGED = "merged"
METRICS = "metrics.json"
CARD = "README.md"
"""Model card."""
MANIFEST = "manifest.json"
GGUF_FOLDER = "gguf"
"""In an export: the files that a llama.cpp server needs."""
GGUF_MODEL = "model.gguf"
GGUF_ADAPTER = "adapter.gguf"
MODELFILE = "Modelfile"
PARITY = "parity.json"
"""Beside a GGUF: what the check against the trained model found."""
PARITY_TABLE = "parity.md"
REJECTED = "rejected"
"""In an export that failed its check: the files, kept apart."""
LICENSE = "LICENSE"
ANSWERERS = "answerers.json"
"""In an evaluation's folder: who else answers, by arm."""
SPEEDS = "speeds.json"
"""In an evaluation's folder: latencies and tokens per second of each arm."""
GATE = "gate.json"
"""In an evaluation's folder: what the gate decided, and on what."""
INDEXES = "indexes"
"""In the workspace: search indexes by the content they were made from."""
REGISTRY = "models.yaml"
"""Which model serves which role; the same file may hold base models."""
REGISTRY_HISTORY = "models.history.jsonl"
JOB_FOLDERS = {
    "train": "runs",
    "evaluate": "evaluations",
    "export": "exports",
    "deploy": "deployments",
}
LEDGER = "ledger.jsonl"
BASE_FINGERPRINT = "base_fingerprint.txt"
"""Beside an adapter: which base it belongs to."""


class Workspace:
    """Folders of everything that a user makes."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def datasets(self) -> Path:
        """Dataset versions, one folder each."""
        return self.home / "datasets"

    def dataset(self, dataset_id: str) -> Path:
        """Folder of one dataset version."""
        return self.datasets() / dataset_id

    def job(self, kind: str, job_id: str) -> Path:
        """Folder of one job; `kind` is train, evaluate, export or deploy."""
        return self.home / JOB_FOLDERS[kind] / job_id

    def sources(self) -> Path:
        """Uploaded files."""
        return self.home / "sources"


def split_file(folder: Path, split: str) -> Path:
    """File of one split of a dataset version, JSONL of `Example`."""
    return folder / f"{split}.jsonl"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hex; streams, so any size will do."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full or unwritable disk into one clear error."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message, hint = f"the disk is full, `{path}` was not written", "free some space and run it again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            message, hint = f"`{path}` is not writable", "choose another place or fix its permissions"
        else:
            raise
        raise StorageError(message, hint) from error


@contextmanager
def atomic_write(path: Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """A file that appears whole or not at all: temporary file, fsync, rename, fsync of the folder."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb" if binary else "w", encoding=None if binary else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with atomic_write(path) as file:
        file.write(text)


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Writes lines (newline added) whole or not at all; gives their number."""
    count = 0
    with atomic_write(path) as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
    return count


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """A folder that appears whole or not at all: `fill` writes into a temporary one, then it is renamed."""
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            fill(temporary)
            temporary.chmod(0o755)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(folder.parent)


def utc_now() -> str:
    """The present instant, UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Writes examples in the internal form, one JSON object a line; gives their number."""
    return write_lines(path, (example.model_dump_json(exclude_defaults=True) for example in examples))


def read_examples(path: Path) -> list[Example]:
    """Examples written by `write_examples`."""
    with path.open(encoding="utf-8") as file:
        return [Example.model_validate_json(line) for line in file]


def read_events(folder: Path, after: int = 0) -> list[NumberedEvent]:
    """Events of a job with a number above `after`; a last line still being written is left for later."""
    path = folder / EVENTS
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [NumberedEvent.model_validate_json(line) for line in lines[after:] if line]


class JobFolder:
    """A stage's view of its job: where to write, how to tell, when to stop."""

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        self.resume = resume
        self._events = path / EVENTS
        self._next = 1
        if self._events.exists():
            self._drop_torn_line()

    def _drop_torn_line(self) -> None:
        data = self._events.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            os.truncate(self._events, len(whole))
        self._next = whole.count(b"\n") + 1

    def emit(self, event: JobEvent) -> None:
        """Appends a numbered event to `events.jsonl`."""
        numbered = NumberedEvent(id=self._next, at=utc_now(), event=event)
        with disk_errors(self._events), self._events.open("a", encoding="utf-8") as file:
            file.write(numbered.model_dump_json() + "\n")
        self._next += 1

    def cancelled(self) -> bool:
        """True once somebody asked the job to stop."""
        return (self.path / CANCEL).exists()
