"""Answers of a run's model or of an exported file, from a process of its own; nothing heavy loads here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from finetuneflow.errors import DependencyError, FineTuneFlowError, ModelError, UsageError
from finetuneflow.modeling.llama_cpp import Llama, open_llama
from finetuneflow.schemas.base import Schema
from finetuneflow.services import exports, runs
from finetuneflow.services.context import Context

MODULE = "finetuneflow.modeling.answering"


class Answer(Schema):
    """One answer, or one label."""

    text: str
    seconds: float
    confidence: float | None = None
    """Probability of the label, for classifiers."""


class OpenModel(Protocol):
    """A model that waits for questions."""

    def answer(self, messages: list[dict[str, str]]) -> Answer:
        """The answer to a conversation (role and content of each turn, the last one from the user)."""


class _Served:
    """An exported file, answered for by llama.cpp."""

    def __init__(self, llama: Llama, max_new_tokens: int) -> None:
        self._llama = llama
        self._max_new_tokens = max_new_tokens

    def answer(self, messages: list[dict[str, str]]) -> Answer:
        made = self._llama.chat(messages, max_new_tokens=self._max_new_tokens)
        return Answer(text=made.text.strip(), seconds=made.seconds)


class _Trained:
    """Weights as they were trained, answered for by torch."""

    def __init__(self, process: subprocess.Popen[str], log: IO[str]) -> None:
        self._process = process
        self._log = log

    def answer(self, messages: list[dict[str, str]]) -> Answer:
        return Answer.model_validate(self.ask({"messages": messages}))

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One line to the process, one line back; its error is raised here."""
        if self._process.stdin is None or self._process.stdout is None:
            raise ModelError("the model's process has no pipes")
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            last = (self._log.read().strip().splitlines() or ["it said nothing"])[-1]
            raise ModelError(f"the model's process ended: {last}", "see `finetuneflow doctor`")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            error = reply["error"]
            raise FineTuneFlowError(error["message"], error["hint"], code=error["code"])
        return reply


@contextmanager
def open_model(
    context: Context, reference: str, *, base: bool = False, max_new_tokens: int = 96
) -> Iterator[OpenModel]:
    """A model loaded in a process of its own: of a run, or an exported GGUF file by llama.cpp.

    `reference` is the id of a run or of an export, or the path of a `.gguf` file; with `base`, the model that
    the run was made from.
    Raises NotFoundError, UsageError when the run or export has not ended well, DependencyError, ModelError.
    """
    gguf = exports.gguf_file(context, reference)
    if gguf is None:
        with _open_run(context, reference, base=base, max_new_tokens=max_new_tokens) as trained:
            yield trained
        return
    if base:
        raise UsageError("an exported file has no base model beside it", "give the id of the run with --base")
    with open_llama(gguf) as llama:
        yield _Served(llama, max_new_tokens)


@contextmanager
def _open_run(context: Context, run_id: str, *, base: bool, max_new_tokens: int) -> Iterator[_Trained]:
    request = _request(context, run_id, base=base, max_new_tokens=max_new_tokens)
    if importlib.util.find_spec("torch") is None:
        raise DependencyError("torch", "train", "to load a model")
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
            model = _Trained(process, log)
            model.ask(request)
            yield model
        finally:
            process.terminate()
            process.communicate()


def _request(context: Context, run_id: str, *, base: bool, max_new_tokens: int) -> dict[str, Any]:
    run = runs.get_run(context, run_id)
    if run.result is None:
        raise UsageError(
            f"run `{run_id}` has no model: it is {run.status}",
            f"wait for it with `finetuneflow runs follow {run_id}`, "
            f"or go on with it: `finetuneflow runs resume {run_id}`",
        )
    folder = Path(run.folder)
    adapter, model = run.result.adapter, run.result.model
    return {
        "task": run.recipe.task,
        "base_model": run.recipe.base_model,
        "adapter": str(folder / adapter) if adapter and not base else None,
        "model": str(folder / model) if model and not base else None,
        "labels": run.result.labels,
        "precision": run.result.precision,
        "max_new_tokens": max_new_tokens,
    }
