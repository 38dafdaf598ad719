"""Runs: one training each, from recipe to adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import yaml
from pydantic import ValidationError

from finetuneflow.artifacts import BASE_MODELS, RECIPE, JobFolder, split_file, write_text
from finetuneflow.errors import DatasetError, InputError, NotFoundError, UsageError
from finetuneflow.modeling.locate import locate
from finetuneflow.schemas.dataset import DatasetVersion
from finetuneflow.schemas.event import LogEvent
from finetuneflow.schemas.export import Preflight
from finetuneflow.schemas.job import Job, JobSpec, JobStatus
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import Run, TrainInputs, TrainResult
from finetuneflow.services import datasets, export_plan, jobs, recipes
from finetuneflow.services.context import Context
from finetuneflow.store import datasets as dataset_store
from finetuneflow.store import queue
from finetuneflow.store import runs as store
from finetuneflow.store.database import Session
from finetuneflow.store.tables import JobRow, RunRow


def start(
    context: Context,
    recipe: Recipe,
    *,
    name: str | None = None,
    recipe_folder: Path | None = None,
    project_id: str | None = None,
    idempotency_key: str | None = None,
) -> Run:
    """Freezes the recipe's dataset, fills its blanks, and starts training in the background.

    `recipe.dataset` is a path (relative to the working folder, then to `recipe_folder`) or a dataset id.
    The run's id is also its job's id: follow it with `services.jobs.follow(context, run.id)`.
    Raises NotFoundError, InputError, DatasetError for the dataset, StorageError.
    """
    base_model = _base_model(context, recipe.base_model, recipe_folder)
    locate(base_model)
    exports = export_plan.plan(context, recipe.model_copy(update={"base_model": base_model}))
    version = _dataset(context, recipe, recipe_folder, project_id)
    hyperparameters = recipes.fill_hyperparameters(recipe, version.counts.train)
    filled = recipes.fill(recipe, hyperparameters).model_copy(
        update={"dataset": version.id, "base_model": base_model}
    )
    run_id = jobs.new_id("run")
    data = Path(version.path)
    inputs = TrainInputs(
        train=str(split_file(data, "train")),
        validation=str(split_file(data, "validation")) if version.counts.validation else None,
        labels=version.labels,
        dataset_id=version.id,
        hyperparameters_reason=hyperparameters.reason,
    )
    spec = JobSpec(
        id=run_id,
        kind="train",
        config=filled.model_dump(mode="json"),
        inputs=inputs.model_dump(mode="json"),
    )
    folder = context.workspace.job("train", run_id)
    write_text(folder / RECIPE, recipes.recipe_yaml(filled, comment=hyperparameters.reason))
    _tell(JobFolder(folder), version, hyperparameters.reason, exports)
    run_name = name or recipe.output_model_name or version.name

    def record(session: Session) -> None:
        dataset_store.freeze_dataset(session, version.id)
        store.add_run(
            session, run_id, name=run_name, dataset_id=version.id, recipe=filled, project_id=project_id
        )

    job = jobs.submit(context, spec, idempotency_key=idempotency_key, project_id=project_id, record=record)
    _make_read_only(data)
    return get_run(context, job.id)


def _tell(folder: JobFolder, version: DatasetVersion, reason: str, exports: Preflight) -> None:
    counts = version.counts
    folder.emit(
        LogEvent(
            message=f"dataset {version.id}: {counts.train} train, {counts.validation} validation, "
            f"{counts.test} test examples"
        )
    )
    leaked = version.ledger.get("test_questions_in_train", 0)
    if leaked:
        message = f"{leaked} test questions stand in the training split too: scores on them prove nothing"
        folder.emit(LogEvent(level="warning", message=message))
    folder.emit(LogEvent(message=reason))
    if exports.ok:
        found = "; ".join(check.message for check in exports.checks)
        folder.emit(LogEvent(message=f"the exports after training will work: {found}"))
    for check in exports.checks:
        if not check.ok:
            folder.emit(LogEvent(level="warning", message=f"not all exports will work: {check.message}"))


def _dataset(
    context: Context, recipe: Recipe, recipe_folder: Path | None, project_id: str | None
) -> DatasetVersion:
    path = _find(recipe.dataset, recipe_folder)
    if path is None and recipe.dataset.startswith(datasets.PREFIX):
        version = datasets.get_dataset(context, recipe.dataset)
    elif path is None:
        looked = [Path.cwd(), *([recipe_folder] if recipe_folder else [])]
        raise NotFoundError(
            f"there is no dataset `{recipe.dataset}` (looked in {', '.join(map(str, looked))})",
            "give a file, a folder of splits, or the id of a dataset (`finetuneflow dataset list`)",
        )
    else:
        version = datasets.create_version(
            context, path, seed=recipe.seed, task=recipe.task, project_id=project_id
        )
    if version.task != recipe.task:
        raise DatasetError(
            f"dataset {version.id} is for {version.task}, the recipe says {recipe.task}",
            f"set `task: {version.task}` in the recipe, or choose another dataset",
        )
    return version


def _find(name: str, recipe_folder: Path | None) -> Path | None:
    """An existing file or folder of that name, relative to the working folder, then to the recipe's."""
    candidates = [Path(name).expanduser(), *([recipe_folder / name] if recipe_folder else [])]
    return next((path for path in candidates if path.exists()), None)


def _base_model(context: Context, name: str, recipe_folder: Path | None) -> str:
    """A local folder as an absolute path, for the worker may run elsewhere; any other name as it is.

    A name may stand for another one: `models.yaml` beside the recipe, then in the workspace, says which.
    """
    name = _alias(name, [*([recipe_folder] if recipe_folder else []), context.workspace.home])
    path = _find(name, recipe_folder) if ":" not in name else None
    return str(path.resolve()) if path is not None and path.is_dir() else name


def _alias(name: str, folders: Sequence[Path]) -> str:
    for folder in folders:
        path = folder / BASE_MODELS
        if path.is_file():
            try:
                known = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("base_models", {})
                found = known.get(name)
            except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
                raise InputError(
                    "this is not a list of models",
                    "write `base_models:` and under it one `name: model` per line",
                    path=path,
                ) from error
            if found:
                return str(found)
    return name


def _make_read_only(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o444)


def resume(context: Context, run_id: str) -> Run:
    """Goes on from the newest valid checkpoint, in the same folder.

    Raises NotFoundError, UsageError when the run is still running or ended well.
    """
    run = get_run(context, run_id)
    if run.status == "success":
        raise UsageError(f"run {run_id} ended well, there is nothing to resume", "start a new run")
    if run.status not in jobs.ENDED:
        raise UsageError(
            f"run {run_id} is {run.status}", f"wait for it, or `finetuneflow runs cancel {run_id}` first"
        )
    with context.store.read() as session:
        row = queue.get_job(session, run_id)
    if row is None:
        raise NotFoundError(f"there is no run `{run_id}`", "`finetuneflow runs list` shows them")
    jobs.resubmit(context, JobSpec.model_validate({**row.spec, "resume": True}))
    return get_run(context, run_id)


def cancel(context: Context, run_id: str) -> Run:
    """Asks a run to stop; its checkpoints stay, so that `resume` can go on."""
    get_run(context, run_id)
    jobs.cancel(context, run_id)
    return get_run(context, run_id)


def get_run(context: Context, run_id: str) -> Run:
    """A run as it is now, with its result when it ended well. Raises NotFoundError."""
    with context.store.read() as session:
        found = store.get_run(session, run_id)
    if found is None:
        raise NotFoundError(f"there is no run `{run_id}`", "`finetuneflow runs list` shows them")
    run, row = found
    if row.status in jobs.ENDED:
        return _as_run(context, run, row)
    return _as_run(context, run, jobs.get_job(context, run_id))


def list_runs(
    context: Context,
    *,
    status: JobStatus | None = None,
    project_id: str | None = None,
    limit: int = 100,
) -> list[Run]:
    """Runs, newest first; `result` filled for those that ended well."""
    jobs.settle(context)
    with context.store.read() as session:
        found = store.list_runs(session, status=status, project_id=project_id, limit=limit)
    return [_as_run(context, run, row) for run, row in found]


def _as_run(context: Context, run: RunRow, job: JobRow | Job) -> Run:
    folder = context.workspace.job("train", run.id)
    return Run(
        id=run.id,
        name=run.name,
        project_id=run.project_id,
        dataset_id=run.dataset_id,
        recipe=Recipe.model_validate(run.recipe),
        status=cast(JobStatus, job.status),
        folder=str(folder),
        created_at=run.created_at,
        result=_result(folder) if job.status == "success" else None,
    )


def _result(folder: Path) -> TrainResult | None:
    result = jobs.read_result(folder)
    try:
        return None if result is None else TrainResult.model_validate(result.result)
    except ValidationError:
        return None  # the folder was tampered with; the row still says what happened


def finished(context: Context, run_id: str) -> tuple[Run, TrainResult]:
    """A run that ended well and its result. Raises NotFoundError, UsageError when it has not."""
    run = get_run(context, run_id)
    if run.status != "success":
        hint = f"finetuneflow runs resume {run_id}" if run.status in jobs.ENDED else "wait until it has ended"
        raise UsageError(f"run {run_id} is {run.status}: there is no trained model yet", hint)
    if run.result is None:
        raise UsageError(f"the result of run {run_id} is missing from `{run.folder}`", "train it again")
    return run, run.result
