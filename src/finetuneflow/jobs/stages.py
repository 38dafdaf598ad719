"""The table of stages: what a worker runs for a kind of job, by name; nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import NamedTuple

from finetuneflow.errors import DependencyError, UsageError
from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.deployment import OllamaConfig, OllamaInputs
from finetuneflow.schemas.evaluation import EvaluateInputs, EvaluationConfig
from finetuneflow.schemas.export import ExportConfig, ExportInputs
from finetuneflow.schemas.forgetting import ForgettingConfig, ForgettingInputs
from finetuneflow.schemas.job import JobSpec
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import TrainInputs


class Stage(NamedTuple):
    """One stage: `run(config, inputs, job) -> result`."""

    function: str
    """`module:function`."""
    config: type[Schema]
    inputs: type[Schema]
    extra: str
    """The optional dependencies it needs: `pip install "finetuneflow[extra]"`."""


Stages = Mapping[str, Stage]

STAGES: Stages = {
    "train/causal_lm": Stage("finetuneflow.training.causal_lm:run", Recipe, TrainInputs, "train"),
    "train/sequence_classification": Stage(
        "finetuneflow.training.sequence_classification:run", Recipe, TrainInputs, "train"
    ),
    "evaluate": Stage("finetuneflow.evaluation.run:run", EvaluationConfig, EvaluateInputs, "train"),
    "evaluate/forgetting": Stage(
        "finetuneflow.evaluation.forgetting:run", ForgettingConfig, ForgettingInputs, "train"
    ),
    "export": Stage("finetuneflow.export.run:run", ExportConfig, ExportInputs, "export"),
    "deploy/ollama": Stage("finetuneflow.deploy.ollama:run", OllamaConfig, OllamaInputs, "export"),
}


def stage_of(spec: JobSpec, stages: Stages = STAGES) -> Stage:
    """The stage of a job: `kind/task` when its configuration names a task, else `kind`."""
    for key in (f"{spec.kind}/{spec.config.get('task', '')}", spec.kind):
        if key in stages:
            return stages[key]
    raise UsageError(
        f"no stage runs jobs of kind `{spec.kind}` and task `{spec.config.get('task')}`",
        f"the kinds are {', '.join(sorted(stages))}",
    )


def load_stage(stage: Stage) -> Callable[..., Schema]:
    """The stage's function. Raises DependencyError when a package of its extra is not installed."""
    module, _, function = stage.function.partition(":")
    try:
        loaded: Callable[..., Schema] = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "finetuneflow":
            raise
        raise DependencyError(error.name, stage.extra, f"to run {module}") from error
    return loaded
