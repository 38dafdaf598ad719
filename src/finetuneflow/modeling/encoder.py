"""Texts as vectors from an encoder, which runs in a process of its own; nothing heavy loads here."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from finetuneflow.modeling.child import Child, open_child
from finetuneflow.modeling.locate import locate

MODULE = "finetuneflow.modeling.encoder_process"


class Encoder:
    """An encoder that waits for texts."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.identity = ""
        """Hash of weights, pooling and number format: the same identity gives the same vectors."""
        self.query_prefix: str | None = None
        """What the model's own files say stands before a question; null when they say nothing."""
        self.passage_prefix: str | None = None

    def load(self, reference: str) -> None:
        """Loads the model; to be called once, first."""
        ready = self._child.ask({"reference": reference})
        self.identity = ready["identity"]
        self.query_prefix, self.passage_prefix = ready["query_prefix"], ready["passage_prefix"]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row of length 1 for each text (texts, dimensions); long texts are cut. Raises ModelError."""
        reply = self._child.ask({"texts": list(texts)})
        rows = np.frombuffer(base64.b64decode(reply["vectors"]), dtype="<f4")
        return rows.reshape(len(texts), -1).astype(np.float32)


@contextmanager
def open_encoder(reference: str) -> Iterator[Encoder]:
    """An encoder loaded in a process of its own; it ends with the `with` block.

    `reference` is `embedded:minilm`, a folder, or a hub id.
    Raises NotFoundError, DependencyError, ModelError.
    """
    locate(reference)
    with open_child(MODULE, what="encoder", extra="embedded", reason="to search by meaning") as child:
        encoder = Encoder(child)
        encoder.load(reference)
        yield encoder
