"""Reading files of hostile formats in a child process that can be killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from finetuneflow.errors import InputError
from finetuneflow.schemas.source import Document

TIMEOUT_SECONDS = 120.0
MEMORY_BYTES = 4 << 30
"""Address space of the child; the libraries alone map about one gigabyte."""


def read_limited(
    data: bytes,
    path: Path,
    *,
    source_id: str,
    timeout_seconds: float = TIMEOUT_SECONDS,
    memory_bytes: int = MEMORY_BYTES,
) -> Document:
    """The document in the bytes of a PDF or DOCX file, parsed in a child process within the limits.

    Errors: what the reader says of the file; InputError `parser_timeout`, `parser_failed`.
    """
    command = [sys.executable, "-m", "finetuneflow.ingest.child", str(path), source_id]
    source_root = str(Path(__file__).resolve().parents[2])
    python_path = os.pathsep.join(filter(None, [source_root, os.environ.get("PYTHONPATH", "")]))
    environment = {
        **os.environ,
        "PYTHONPATH": python_path,
        "PYTHONIOENCODING": "utf-8",
        "FTF_CHILD_MEMORY_BYTES": str(memory_bytes),
        "FTF_CHILD_SECONDS": str(max(1, int(timeout_seconds))),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",  # each thread would reserve address space
    }
    try:
        done = subprocess.run(  # noqa: S603
            command, input=data, capture_output=True, timeout=timeout_seconds, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"reading it took longer than {timeout_seconds:.0f} seconds and was stopped",
            "split the document, or export it again from the program that wrote it",
            path=path,
            code="parser_timeout",
        ) from error
    return _answer(done, path)


def _answer(done: subprocess.CompletedProcess[bytes], path: Path) -> Document:
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        last = done.stderr.decode("utf-8", errors="replace").strip().split("\n")[-1]
        kind = re.match(r"(?:\w+\.)*(\w*Error)\b", last)
        cause = kind[1] if kind else f"signal {-done.returncode}" if done.returncode < 0 else "no answer"
        raise InputError(
            f"the parser could not get through this file ({cause}): it is damaged, or built to use up memory",
            "export it again from the program that wrote it, or give its text as a .txt or .md file",
            path=path,
            code="parser_failed",
        ) from error
    if "error" in answer:
        found = answer["error"]
        raise InputError(found["message"], found["hint"], path=path, line=found["line"], code=found["code"])
    return Document.model_validate(answer["document"])
