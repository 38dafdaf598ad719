"""Answers of a run's model or of an exported file, from a process of its own; nothing heavy loads here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from finetuneflow.errors import UsageError
from finetuneflow.modeling.child import Child, open_child
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

    def __init__(self, child: Child) -> None:
        self._child = child

    def answer(self, messages: list[dict[str, str]]) -> Answer:
        return Answer.model_validate(self._child.ask({"messages": messages}))


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
    with open_child(MODULE, what="model", extra="train", reason="to load a model") as child:
        child.ask(request)
        yield _Trained(child)


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
