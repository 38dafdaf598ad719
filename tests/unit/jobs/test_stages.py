"""The table of stages."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from finetuneflow.errors import DependencyError, UsageError
from finetuneflow.jobs.stages import STAGES, Stage, load_stage, stage_of
from finetuneflow.schemas.job import JobSpec
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import TrainInputs


def spec(kind: str, **config: str) -> JobSpec:
    return JobSpec.model_validate({"id": "x", "kind": kind, "config": config, "inputs": {}})


def test_a_task_chooses_the_stage_of_training() -> None:
    assert stage_of(spec("train", task="causal_lm")).function == "finetuneflow.training.causal_lm:run"
    assert "sequence_classification" in stage_of(spec("train", task="sequence_classification")).function
    assert stage_of(spec("evaluate", task="causal_lm")).function == "finetuneflow.evaluation.run:run"


def test_a_kind_that_no_stage_runs_is_refused() -> None:
    with pytest.raises(UsageError, match="translate"):
        stage_of(spec("train", task="translate"))


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_every_stage_of_the_table_exists(stage: Stage) -> None:
    assert find_spec(stage.function.partition(":")[0]) is not None


def test_a_missing_package_is_told_with_the_command_that_installs_it() -> None:
    stage = Stage("no_such_package_at_all.module:run", Recipe, TrainInputs, "train")
    with pytest.raises(DependencyError) as caught:
        load_stage(stage)
    assert "finetuneflow[train]" in caught.value.hint


def test_worker_and_supervisor_start_light() -> None:
    code = (
        "import sys; import finetuneflow.jobs.worker, finetuneflow.jobs.supervisor, finetuneflow.jobs.local; "
        "print([m for m in ('torch', 'transformers', 'sqlalchemy', 'typer', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
