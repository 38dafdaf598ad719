"""The child of `limited`: `child NAME SOURCE_ID` reads a file from stdin and answers JSON on stdout."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import PurePath

from finetuneflow.errors import InputError
from finetuneflow.schemas.source import Document

MAX_CHARACTERS = 20_000_000
READERS = {
    ".pdf": ("finetuneflow.ingest.readers.pdf", "read_pdf"),
    ".docx": ("finetuneflow.ingest.readers.docx", "read_docx"),
}
"""By name, so that a child loads one parser."""


def read(data: bytes, path: PurePath, source_id: str) -> Document:
    """The document in the bytes of a file, by the suffix of its name."""
    module, function = READERS[path.suffix.lower()]
    reader: Callable[[bytes, str, str], Document] = getattr(importlib.import_module(module), function)
    document = reader(data, path.name, source_id)
    if len(document.text) > MAX_CHARACTERS:
        raise InputError(
            f"it holds {len(document.text):,} characters of text, more than {MAX_CHARACTERS:,}",
            "split the document",
            code="file_too_large",
        )
    return document


def main() -> None:
    """Limits itself, reads, answers `{"document": …}` or `{"error": …}`."""
    memory = int(os.environ["FTF_CHILD_MEMORY_BYTES"])
    seconds = int(os.environ["FTF_CHILD_SECONDS"])
    limits = {
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_CORE: (0, 0),
    }
    for name, values in limits.items():
        with contextlib.suppress(ValueError, OSError):  # macOS knows no limit of address space
            resource.setrlimit(name, values)
    # Parsers print warnings: what they say on stdout must not end up in the answer.
    answer_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    path, source_id = PurePath(sys.argv[1]), sys.argv[2]
    try:
        answer = {"document": read(sys.stdin.buffer.read(), path, source_id).model_dump()}
    except InputError as error:
        answer = {
            "error": {"message": error.message, "hint": error.hint, "code": error.code, "line": error.line}
        }
    json.dump(answer, answer_to, ensure_ascii=False)
    answer_to.flush()


if __name__ == "__main__":
    main()
