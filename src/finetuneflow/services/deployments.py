"""Deployments: an exported model where applications reach it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from finetuneflow.artifacts import GGUF_ADAPTER, GGUF_MODEL, JOB, LICENSE, PARITY, JobFolder
from finetuneflow.errors import NotFoundError, UsageError
from finetuneflow.providers.modelfile import check_name, check_parameters, name_from, window
from finetuneflow.providers.ollama import OllamaClient
from finetuneflow.providers.ollama_server import check_place, check_version, server_url
from finetuneflow.schemas.deployment import DEFAULT_OLLAMA_URL, OllamaConfig, OllamaDeployment, OllamaInputs
from finetuneflow.schemas.event import LogEvent
from finetuneflow.schemas.export import ExportConfig, Quantization
from finetuneflow.schemas.job import Job, JobSpec
from finetuneflow.services import datasets, exports, jobs, runs
from finetuneflow.services.context import Context

PREFIX = "deploy-"


class Deployment(NamedTuple):
    """A deployment, whether it ended well or not."""

    job: Job
    name: str
    url: str
    result: OllamaDeployment | None


def ollama_config(
    context: Context,
    run_id: str,
    *,
    name: str | None = None,
    url: str = DEFAULT_OLLAMA_URL,
    system: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    template: str | None = None,
    use_adapter: bool = False,
    allow_remote: bool = False,
) -> OllamaConfig:
    """A deployment with its blanks filled in: name of the recipe or run, prompt of the training.

    `system` "" means none. Raises NotFoundError, UsageError for what cannot be deployed or is not accepted.
    """
    run, trained = runs.finished(context, run_id)
    if run.recipe.task != "causal_lm":
        raise UsageError(
            f"run {run_id} is a classifier: Ollama serves language models only",
            f"finetuneflow deploy serve {run_id}",
        )
    address = server_url(url)
    check_place(address, allow_remote=allow_remote)
    context_window = {"num_ctx": window(trained.hyperparameters.max_seq_length)}
    return OllamaConfig(
        name=check_name(name) if name else name_from(run.recipe.output_model_name or run.name),
        url=address,
        system=(datasets.system_prompt(context, run.dataset_id) if system is None else system) or None,
        parameters=context_window | check_parameters(parameters or {}),
        template=template,
        use_adapter=use_adapter,
        allow_remote=allow_remote,
    )


def reach(config: OllamaConfig) -> str:
    """Version of the server, which can do what the deployment asks.

    Raises OllamaError when it cannot, or does not answer.
    """
    with OllamaClient(config.url) as client:
        version = client.version()
    check_version(version, adapters=config.use_adapter, parameters=config.parameters)
    return version


def deploy_ollama(
    context: Context,
    run_id: str,
    *,
    name: str | None = None,
    quantization: Quantization | None = None,
    url: str = DEFAULT_OLLAMA_URL,
    system: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    template: str | None = None,
    use_adapter: bool = False,
    base_gguf: Path | None = None,
    allow_remote: bool = False,
    idempotency_key: str | None = None,
) -> Job:
    """Starts registering a run's newest checked GGUF file in Ollama; the job's id is the deployment's id.

    With `use_adapter`, `base_gguf` and the run's exported adapter are sent apart. Raises NotFoundError,
    UsageError (code `not_exported` when there is no checked file yet).
    """
    config = ollama_config(
        context,
        run_id,
        name=name,
        url=url,
        system=system,
        parameters=parameters,
        template=template,
        use_adapter=use_adapter,
        allow_remote=allow_remote,
    )
    found = exports.latest_gguf(context, run_id, quantization=quantization)
    if found is None:
        kind = f" as {quantization}" if quantization else ""
        raise UsageError(
            f"run {run_id} has no GGUF file{kind} that passed its check",
            f"finetuneflow export {run_id} --to gguf",
            code="not_exported",
        )
    export, gguf, path = found
    folder = Path(export.folder)
    license_file = folder / LICENSE
    inputs = OllamaInputs(
        run_id=run_id,
        export_id=export.id,
        gguf=str(path),
        sha256=gguf.sha256,
        parity=str(path.with_name(PARITY)),
        gguf_adapter=_adapter(context, run_id) if use_adapter else None,
        base_gguf=str(check_base(base_gguf)) if use_adapter else None,
        license=license_file.read_text(encoding="utf-8") if license_file.is_file() else None,
    )
    # The check compares whole answers: they may be as long as those that the export kept, and no longer.
    config.max_new_tokens = _longest_answer(folder)
    job_id = jobs.new_id(PREFIX.removesuffix("-"))
    spec = JobSpec(
        id=job_id,
        kind="deploy",
        config=config.model_dump(mode="json"),
        inputs=inputs.model_dump(mode="json"),
    )
    run = runs.get_run(context, run_id)
    job_folder = context.workspace.job("deploy", job_id)
    job_folder.mkdir(parents=True, exist_ok=True)
    _tell(JobFolder(job_folder), config, system, datasets.system_prompt(context, run.dataset_id))
    return jobs.submit(context, spec, idempotency_key=idempotency_key, project_id=run.project_id)


def result(context: Context, job_id: str) -> OllamaDeployment:
    """Result of a deployment that ended well; raises the job's own failure otherwise."""
    return OllamaDeployment.model_validate(jobs.ensure_success(context, job_id).result)


def modelfile(context: Context, job_id: str) -> str:
    """The Modelfile of a deployment that ended well, to be kept anywhere: it names its files absolutely."""
    text, folder = result(context, job_id).modelfile, Path(jobs.get_job(context, job_id).folder)
    for name in (GGUF_MODEL, GGUF_ADAPTER):
        if (folder / name).is_symlink():
            # The first one: the same words may stand in a prompt further down.
            text = text.replace(f" ./{name}\n", f" {(folder / name).resolve()}\n", 1)
    return text


def list_deployments(context: Context, *, limit: int = 100) -> list[Deployment]:
    """Deployments, newest first."""
    return [_deployment(context, job) for job in jobs.list_jobs(context, kind="deploy", limit=limit)]


def _adapter(context: Context, run_id: str) -> str:
    for job, export in exports.finished(context, run_id):
        if export.gguf_adapter and (path := Path(job.folder) / export.gguf_adapter).is_file():
            return str(path)
    raise NotFoundError(
        f"run {run_id} has no adapter exported as GGUF",
        f"finetuneflow export {run_id} --to gguf-adapter",
    )


def check_base(path: Path | None) -> Path:
    """The base model's GGUF file, which an adapter needs beside it. Raises UsageError, NotFoundError."""
    if path is None:
        raise UsageError(
            "an adapter needs its base beside it as a GGUF file",
            "give it with --base-gguf FILE, or leave out --adapter",
        )
    if not path.is_file():
        raise NotFoundError(f"there is no file `{path}`", "give the base model as a GGUF file")
    return path.resolve()


def _longest_answer(export_folder: Path) -> int:
    spec = JobSpec.model_validate_json((export_folder / JOB).read_text(encoding="utf-8"))
    return ExportConfig.model_validate(spec.config).max_new_tokens


def _tell(job: JobFolder, config: OllamaConfig, asked: str | None, trained: str | None) -> None:
    job.emit(
        LogEvent(message=f"context window {config.parameters['num_ctx']} tokens (the parameter `num_ctx`)")
    )
    if asked and asked != trained:
        known = "another one" if trained else "no common one"
        message = f"this system prompt is not what the model was trained with: its examples had {known}"
        job.emit(LogEvent(level="warning", message=message))


def _deployment(context: Context, job: Job) -> Deployment:
    name = url = ""
    done: OllamaDeployment | None = None
    try:
        spec = JobSpec.model_validate_json((Path(job.folder) / JOB).read_text(encoding="utf-8"))
        name, url = str(spec.config.get("name", "")), str(spec.config.get("url", ""))
        if job.status == "success":
            done = result(context, job.id)
    except (OSError, ValidationError):
        pass  # the folder was tampered with; the row still says what happened
    return Deployment(job, name, url, done)
