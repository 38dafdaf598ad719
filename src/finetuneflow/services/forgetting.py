"""Forgetting: what a run's model no longer does that its base did; and the same requests for any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from finetuneflow.errors import UsageError
from finetuneflow.evaluation.forgetting_suite import Answer, suite, suite_hash
from finetuneflow.evaluation.forgetting_verdict import judge
from finetuneflow.providers.ollama import OllamaClient, check_place, server_url
from finetuneflow.schemas.deployment import DEFAULT_OLLAMA_URL
from finetuneflow.schemas.forgetting import ForgettingConfig, ForgettingInputs, ForgettingResult
from finetuneflow.schemas.job import Job, JobSpec
from finetuneflow.services import jobs, predictions, runs
from finetuneflow.services.context import Context

OLLAMA = "ollama:"
"""Before the name of a model that an Ollama server on this machine has."""
CONTEXT_TOKENS = 2048
"""More than any request of the suite and its answer need."""


def start(context: Context, run_id: str, *, config: ForgettingConfig | None = None) -> Job:
    """Starts the look at a finished run, or gives the one that was made with the same suite and settings.

    Raises NotFoundError, UsageError when the run has not ended well or is a classifier.
    """
    run, trained = runs.finished(context, run_id)
    if run.recipe.task != "causal_lm":
        raise UsageError(
            f"run {run_id} is a classifier: it answers with labels and has nothing general to forget",
            f"`finetuneflow evaluate {run_id}` says how good it is",
        )
    config = config or ForgettingConfig(seed=run.recipe.seed)
    # What is measured does not depend on the language of the reasons, which `result` chooses.
    config = config.model_copy(update={"language": "en"})
    folder = Path(run.folder)
    inputs = ForgettingInputs(
        base_model=run.recipe.base_model,
        adapter=str(folder / trained.adapter) if trained.adapter else None,
        model=str(folder / trained.model) if trained.model else None,
        run_id=run.id,
        precision=run.recipe.precision,
    )
    spec = JobSpec(
        id=jobs.new_id("forget"),
        kind="evaluate",
        config=config.model_dump(mode="json"),
        inputs=inputs.model_dump(mode="json"),
    )
    # The settings are in the key: others are another request, not a conflict with the first.
    key = f"forgetting:{run.id}:{suite_hash(suite())}:{config.model_dump_json()}"
    job = jobs.submit(context, spec, idempotency_key=key, project_id=run.project_id)
    if job.status in ("failed", "cancelled"):
        job = jobs.resubmit(context, spec.model_copy(update={"id": job.id, "resume": True}))
    return job


def result(context: Context, job_id: str, *, language: Literal["en", "fr"] = "en") -> ForgettingResult:
    """Result of a look that ended well, its predictions as an absolute path, its reasons in a language.

    Raises the job's own failure otherwise.
    """
    found = ForgettingResult.model_validate(jobs.ensure_success(context, job_id).result)
    config = found.config.model_copy(update={"language": language})
    outcome, reasons = judge(found.families, found.texts, found.divergence, found.prompts, config)
    predicted = context.workspace.job("evaluate", job_id) / found.predictions_path
    update = {"config": config, "outcome": outcome, "reasons": reasons, "predictions_path": str(predicted)}
    return found.model_copy(update=update)


@contextmanager
def open_answerer(
    context: Context,
    model: str,
    *,
    base: bool = False,
    max_new_tokens: int = 96,
    ollama_url: str = DEFAULT_OLLAMA_URL,
) -> Iterator[Answer]:
    """Whoever answers to a name: a run, an export, a `.gguf` file, or `ollama:` and a model of that server.

    With `base`, the model that a run was made from. Greedy, one conversation after the other.
    Raises NotFoundError, UsageError, DependencyError, ModelError, OllamaError.
    """
    if model.startswith(OLLAMA):
        name = model.removeprefix(OLLAMA)
        url = server_url(ollama_url)
        check_place(url, allow_remote=False)
        options = {"temperature": 0, "seed": 0, "num_predict": max_new_tokens, "num_ctx": CONTEXT_TOKENS}
        with OllamaClient(url) as client:
            yield lambda asked: [client.chat(name, turns, options=options).text.strip() for turns in asked]
        return
    with predictions.open_model(context, model, base=base, max_new_tokens=max_new_tokens) as opened:

        def answer(asked: Sequence[list[dict[str, str]]]) -> list[str]:
            return [opened.answer(turns).text for turns in asked]

        yield answer
