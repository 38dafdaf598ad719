"""Who else answers an evaluation's questions: an exported file, another run, an Ollama model, an endpoint."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from finetuneflow.errors import UsageError
from finetuneflow.evaluation.answerers import API_KEY_VARIABLE
from finetuneflow.providers.ollama import check_place, server_url
from finetuneflow.schemas.answerer import AnswererSpec
from finetuneflow.schemas.deployment import DEFAULT_OLLAMA_URL
from finetuneflow.services import exports, runs
from finetuneflow.services.context import Context

OLLAMA = "ollama:"
ENDPOINT = "endpoint:"
WITH_RETRIEVAL = "+rag"
"""After a name: the same answerer, given the passages."""
REQUESTS = {"gguf": 4, "ollama": 1, "endpoint": 4}
"""Requests at the same time: an Ollama server would queue them, which is no time of an answer."""
METADATA = ("metadata.google.internal", "metadata")


def named(
    context: Context,
    run_id: str,
    *,
    export: str | None = None,
    against: Sequence[str] = (),
    parallel: int | None = None,
    ollama_url: str = DEFAULT_OLLAMA_URL,
) -> dict[str, AnswererSpec]:
    """Arms by name: the exported file in place of the tuned model, and the others that it is put against.

    Args:
        context: Workspace.
        run_id: The run that is evaluated.
        export: Id of an export of it, or the path of a GGUF file; it answers as `tuned` and `tuned_rag`.
        against: `ollama:NAME`, `endpoint:URL#MODEL`, the id of a run or an export, or the path of a GGUF
            file; with `+rag` at the end, given the retrieved passages.
        parallel: Requests at the same time; null: what suits the kind of answerer.
        ollama_url: The Ollama server, on this machine.

    Raises:
        NotFoundError: no such run, export or file.
        UsageError: a name that means none of them, an address that is not asked, or an export of another run.
    """
    arms: dict[str, AnswererSpec] = {}
    if export is not None:
        served = _file(context, export, parallel)
        if served is None:
            raise UsageError(f"`{export}` is neither an export nor a GGUF file", "give the id of an export")
        if export.startswith(exports.PREFIX) and exports.result(context, export).run_id != run_id:
            raise UsageError(
                f"export {export} was made from another run",
                f"`--against {export}` puts it beside the tuned model of {run_id}",
            )
        arms = {"tuned": served, "tuned_rag": served.model_copy(update={"retrieval": True})}
    for reference in against:
        name = reference.removesuffix(WITH_RETRIEVAL)
        spec = _other(context, run_id, name, parallel, ollama_url)
        arms[reference] = spec.model_copy(update={"retrieval": name != reference})
    servers = {urlsplit(spec.url or "").netloc for spec in arms.values() if spec.kind == "endpoint"}
    if len(servers) > 1 and os.environ.get(API_KEY_VARIABLE):
        raise UsageError(
            f"the key in {API_KEY_VARIABLE} would go to {len(servers)} servers",
            "evaluate against one of them after the other, each with its own key",
        )
    return arms


def _other(context: Context, run_id: str, name: str, parallel: int | None, ollama_url: str) -> AnswererSpec:
    if name.startswith(OLLAMA):
        url = server_url(ollama_url)
        check_place(url, allow_remote=False)
        at_once = parallel or REQUESTS["ollama"]
        return AnswererSpec(kind="ollama", model=name.removeprefix(OLLAMA), url=url, parallel=at_once)
    if name.startswith(ENDPOINT):
        url, mark, model = name.removeprefix(ENDPOINT).partition("#")
        if not mark or not model:
            raise UsageError(
                f"`{name}` names no model",
                "write endpoint:URL#MODEL, such as endpoint:http://127.0.0.1:8000/v1#small",
            )
        _check_address(url)
        return AnswererSpec(kind="endpoint", model=model, url=url, parallel=parallel or REQUESTS["endpoint"])
    return _file(context, name, parallel) or _run(context, run_id, name)


def _check_address(url: str) -> None:
    """Refuses what no model server has: another scheme, a password in it, a link-local address."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(
            f"`{url}` is not the address of a model server", "give one such as http://127.0.0.1:8000/v1"
        )
    if "@" in parts.netloc or parts.query:
        raise UsageError(
            "the address of the endpoint holds a password or a query",
            f"give it without, and the key in {API_KEY_VARIABLE}: an address stays in the files of the job",
        )
    try:
        forbidden = ipaddress.ip_address(host).is_link_local
    except ValueError:
        forbidden = host in METADATA
    if forbidden:
        raise UsageError(f"`{host}` is a link-local address, no model server", "give that of a model server")


def _file(context: Context, reference: str, parallel: int | None) -> AnswererSpec | None:
    path = exports.gguf_file(context, reference)
    if path is None:
        return None
    return AnswererSpec(kind="gguf", model=str(Path(path).resolve()), parallel=parallel or REQUESTS["gguf"])


def _run(context: Context, run_id: str, other: str) -> AnswererSpec:
    """The model of another run, which must answer the same kind of question. Raises UsageError."""
    judged, judged_model = runs.finished(context, run_id)
    run, trained = runs.finished(context, other)
    if (run.recipe.task, trained.labels) != (judged.recipe.task, judged_model.labels):
        raise UsageError(
            f"run {other} answers with other labels, or in another way, than run {run_id}",
            "put runs of one task and one set of labels beside each other",
        )
    folder = Path(run.folder)
    return AnswererSpec(
        kind="local",
        model=str(folder / trained.model) if trained.model else run.recipe.base_model,
        adapter=str(folder / trained.adapter) if trained.adapter else None,
        precision=run.recipe.precision,
    )
