"""Names in tables lead somewhere: stages to functions, commands to modules, errors to exit codes."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from finetuneflow import errors
from finetuneflow.cli import app
from finetuneflow.errors import FineTuneFlowError
from finetuneflow.jobs.stages import STAGES, Stage
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import TrainInputs

PARAMETERS = ["config", "inputs", "job"]
EXIT_CODES = {1, 2, 130}


def faults_of_stages(package: Path, stages: Mapping[str, Stage]) -> list[str]:
    """Stage names that lead to no `run(config, inputs, job)`; read as text, to import nothing heavy."""
    faults = []
    for key, stage in stages.items():
        module, _, name = stage.function.partition(":")
        path = package.parent / Path(*module.split(".")).with_suffix(".py")
        body = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
        functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
        if name not in functions:
            faults.append(f"{key}: no function {stage.function}")
        elif [argument.arg for argument in functions[name].args.args] != PARAMETERS:
            faults.append(f"{key}: {stage.function} does not take {', '.join(PARAMETERS)}")
    return faults


def all_errors(root: type[FineTuneFlowError] = FineTuneFlowError) -> list[type[FineTuneFlowError]]:
    """The error tree, flat."""
    return [root, *(leaf for child in root.__subclasses__() for leaf in all_errors(child))]


def faults_of_errors(classes: Iterable[type[FineTuneFlowError]]) -> list[str]:
    """Errors without a code of their own, or with an exit code that no door knows."""
    seen: dict[str, str] = {}
    faults = []
    for error in classes:
        if error.exit_code not in EXIT_CODES:
            faults.append(f"{error.__name__}: exit code {error.exit_code}")
        if error.code in seen:
            faults.append(f"{error.__name__}: code {error.code} is {seen[error.code]}'s")
        seen[error.code] = error.__name__
    return faults


def test_every_stage_leads_to_a_function(package: Path) -> None:
    assert faults_of_stages(package, STAGES) == []


@pytest.mark.parametrize(
    "function", ["finetuneflow.training.nowhere:run", "finetuneflow.training.loop:nothing"]
)
def test_a_planted_stage_that_leads_nowhere_is_found(function: str, package: Path) -> None:
    assert faults_of_stages(package, {"train/planted": Stage(function, Recipe, TrainInputs, "train")})


def test_every_error_has_a_code_and_an_exit_code() -> None:
    ours = [error for error in all_errors() if error.__module__.startswith("finetuneflow")]
    assert faults_of_errors(ours) == []


def test_planted_errors_without_their_own_codes_are_found() -> None:
    class NoCode(errors.InputError):
        pass

    class StrangeExit(errors.InputError):
        code = "strange"
        exit_code = 7

    assert len(faults_of_errors([errors.InputError, NoCode, StrangeExit])) == 2


def test_every_error_stands_in_the_tree_that_the_module_draws() -> None:
    ours = [error.__name__ for error in all_errors() if error.__module__ == errors.__name__]
    assert [name for name in ours if name not in (errors.__doc__ or "")] == []


def test_every_command_leads_to_a_module_with_an_app() -> None:
    for name in app.COMMANDS:
        assert hasattr(importlib.import_module(app.MODULE.format(name)), "app"), name
