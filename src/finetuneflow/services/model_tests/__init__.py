"""Tests of a model, for pytest: `pytest -p finetuneflow.services.model_tests --model NAME`.

NAME is a run, an export, a `.gguf` file, or `ollama:NAME`. Two files: `test_model_accuracy` (right answers on
a test set) and `test_model_regression` (does it still do what its base does); without a path on the command
line both run, and with `--pyargs finetuneflow.services.model_tests.test_model_regression` only that one. In a
suite of one's own, the same options and fixtures are there for other tests of the model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from finetuneflow.artifacts import read_examples, split_file
from finetuneflow.errors import FineTuneFlowError, NotFoundError
from finetuneflow.evaluation.forgetting_suite import Answer, ask, suite
from finetuneflow.schemas.deployment import DEFAULT_OLLAMA_URL
from finetuneflow.schemas.evaluation import EvaluationConfig
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.forgetting import Family
from finetuneflow.services import datasets, forgetting, runs
from finetuneflow.services.context import Context, using_context

DEFAULTS = EvaluationConfig()

Met = Callable[[Family], tuple[list[bool], list[bool]]]
"""A family of the forgetting suite to which of its requests the baseline meets, and which the model meets."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the model tests."""
    group = parser.getgroup("finetuneflow", "tests of a model")
    group.addoption("--model", metavar="NAME", help="Run, export, .gguf file or ollama:NAME to test.")
    group.addoption(
        "--baseline", metavar="NAME", help="Model to compare with (default: what a run was made from)."
    )
    group.addoption(
        "--dataset", metavar="FILE", help="Questions with answers (default: the test split of a run)."
    )
    group.addoption("--max-items", metavar="N", type=int, default=200, help="Questions that are asked.")
    group.addoption("--min-score", metavar="SHARE", type=float, default=DEFAULTS.min_score)
    group.addoption("--min-improvement", metavar="SHARE", type=float, default=DEFAULTS.min_improvement)
    group.addoption("--ollama-url", default=os.environ.get("OLLAMA_HOST") or DEFAULT_OLLAMA_URL)


def pytest_configure(config: pytest.Config) -> None:
    """Runs these tests when no others are named."""
    if config.getoption("--model") and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = [str(Path(__file__).parent)]


@pytest.fixture(scope="session")
def model_name(pytestconfig: pytest.Config) -> str:
    """The name given with `--model`; without one the test is skipped."""
    name = pytestconfig.getoption("--model")
    if not name:
        pytest.skip("no model is named: add --model NAME")
    return str(name)


@pytest.fixture(scope="session")
def workspace() -> Iterator[Context]:
    """The user's workspace."""
    with using_context() as context:
        yield context


@pytest.fixture(scope="session")
def answerers(
    workspace: Context, model_name: str, pytestconfig: pytest.Config
) -> Iterator[Callable[[bool], Answer]]:
    """A function that opens the model, or with True its baseline, once."""
    with ExitStack() as opened:

        @cache
        def open_one(baseline: bool) -> Answer:
            name = pytestconfig.getoption("--baseline") if baseline else model_name
            if not name and not _is_run(workspace, model_name):
                pytest.skip("nothing to compare with: add --baseline NAME")
            try:
                return opened.enter_context(
                    forgetting.open_answerer(
                        workspace,
                        name or model_name,
                        base=not name,
                        ollama_url=pytestconfig.getoption("--ollama-url"),
                    )
                )
            except FineTuneFlowError as error:
                pytest.exit(f"error: {error.message}\nhint: {error.hint}", returncode=2)

        yield open_one


@pytest.fixture(scope="session")
def examples(
    workspace: Context,
    model_name: str,
    answerers: Callable[[bool], Answer],
    pytestconfig: pytest.Config,
) -> list[Example]:
    """Questions with their right answers."""
    answerers(False)  # a name that nobody answers to is an error before it is a reason to skip
    file, most = pytestconfig.getoption("--dataset"), pytestconfig.getoption("--max-items")
    if file:
        return datasets.read(Path(file))[:most]
    if not _is_run(workspace, model_name):
        pytest.skip("no questions to ask: add --dataset FILE")
    return read_examples(split_file(_data(workspace, model_name), "test"))[:most]


@pytest.fixture(scope="session")
def trained_on(workspace: Context, model_name: str) -> list[Example]:
    """The training split of a run."""
    if not _is_run(workspace, model_name):
        pytest.skip("what the model was trained on is known of runs alone")
    return read_examples(split_file(_data(workspace, model_name), "train"))


@pytest.fixture(scope="session")
def answers(answerers: Callable[[bool], Answer], examples: Sequence[Example]) -> Callable[[bool], list[str]]:
    """A function that gives the model's answers to the questions, or with True its baseline's."""

    @cache
    def answers_of(baseline: bool) -> list[str]:
        return answerers(baseline)([_question(example) for example in examples])

    return answers_of


@pytest.fixture(scope="session")
def met(answerers: Callable[[bool], Answer]) -> Met:
    """A function that asks one family of the forgetting suite."""

    def both(family: Family) -> tuple[list[bool], list[bool]]:
        after = ask(suite([family]), answerers(False))
        return ask(suite([family]), answerers(True)), after

    return both


def _question(example: Example) -> list[dict[str, str]]:
    turns = [{"role": message.role, "content": message.content} for message in example.messages]
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return turns or [{"role": "user", "content": example.text or ""}]


def _is_run(context: Context, name: str) -> bool:
    try:
        runs.get_run(context, name)
    except NotFoundError:
        return False
    return True


def _data(context: Context, run_id: str) -> Path:
    return Path(datasets.get_dataset(context, runs.get_run(context, run_id).dataset_id).path)
