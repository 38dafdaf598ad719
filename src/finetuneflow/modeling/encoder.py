"""Texts as vectors from an encoder, which runs in a process of its own; nothing heavy loads here."""

from __future__ import annotations

import base64
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from finetuneflow.errors import DependencyError, FineTuneFlowError, ModelError
from finetuneflow.modeling.locate import locate

MODULE = "finetuneflow.modeling.encoder_process"


class Encoder:
    """An encoder that waits for texts."""

    def __init__(self, process: subprocess.Popen[str], log: IO[str]) -> None:
        self._process = process
        self._log = log
        self.identity = ""
        """Hash of weights, pooling and number format: the same identity gives the same vectors."""
        self.query_prefix: str | None = None
        """What the model's own files say stands before a question; null when they say nothing."""
        self.passage_prefix: str | None = None

    def load(self, reference: str) -> None:
        """Loads the model; to be called once, first."""
        ready = self._ask({"reference": reference})
        self.identity = ready["identity"]
        self.query_prefix, self.passage_prefix = ready["query_prefix"], ready["passage_prefix"]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row of length 1 for each text (texts, dimensions); long texts are cut. Raises ModelError."""
        reply = self._ask({"texts": list(texts)})
        rows = np.frombuffer(base64.b64decode(reply["vectors"]), dtype="<f4")
        return rows.reshape(len(texts), -1).astype(np.float32)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One line to the process, one line back; its error is raised here."""
        if self._process.stdin is None or self._process.stdout is None:
            raise ModelError("the encoder's process has no pipes")
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            last = (self._log.read().strip().splitlines() or ["it said nothing"])[-1]
            raise ModelError(f"the encoder's process ended: {last}", "see `finetuneflow doctor`")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            error = reply["error"]
            raise FineTuneFlowError(error["message"], error["hint"], code=error["code"])
        return reply


@contextmanager
def open_encoder(reference: str) -> Iterator[Encoder]:
    """An encoder loaded in a process of its own; it ends with the `with` block.

    `reference` is `embedded:minilm`, a folder, or a hub id.
    Raises NotFoundError, DependencyError, ModelError.
    """
    locate(reference)
    if importlib.util.find_spec("torch") is None:
        raise DependencyError("torch", "embedded", "to search by meaning")
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
        )
        try:
            encoder = Encoder(process, log)
            encoder.load(reference)
            yield encoder
        finally:
            process.terminate()
            process.communicate()
