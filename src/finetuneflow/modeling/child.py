"""A model in a process of its own, spoken to in JSON lines; nothing heavy is loaded here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from finetuneflow.errors import DependencyError, FineTuneFlowError, ModelError


class Child:
    """A process that answers line by line."""

    def __init__(self, process: subprocess.Popen[str], log: IO[str], what: str) -> None:
        self._process = process
        self._log = log
        self._what = what

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One line to the process, one line back; its error is raised here, ModelError when it has ended."""
        if self._process.stdin is None or self._process.stdout is None:
            raise ModelError(f"the {self._what}'s process has no pipes")
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            last = (self._log.read().strip().splitlines() or ["it said nothing"])[-1]
            raise ModelError(f"the {self._what}'s process ended: {last}", "see `finetuneflow doctor`")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            error = reply["error"]
            raise FineTuneFlowError(error["message"], error["hint"], code=error["code"])
        return reply


@contextmanager
def open_child(module: str, *, what: str, extra: str, reason: str) -> Iterator[Child]:
    """A process that runs one of our modules, and ends with the `with` block.

    Args:
        module: Run with `python -m`; it needs torch.
        what: It is, in messages: `model`.
        extra: Of the package, that brings torch.
        reason: Why torch is needed, in words.

    Raises:
        DependencyError: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise DependencyError("torch", extra, reason)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
        )
        try:
            yield Child(process, log, what)
        finally:
            process.terminate()
            process.communicate()
