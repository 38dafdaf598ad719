"""Runs, evaluations, exports and projects through the services, with stand-in stages in real processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetuneflow.artifacts import ITEMS, RECIPE, Workspace, read_events
from finetuneflow.errors import DatasetError, FineTuneFlowError, NotFoundError, UsageError
from finetuneflow.jobs.local import LocalExecutor
from finetuneflow.schemas.evaluation import EvaluationConfig, TestItem
from finetuneflow.schemas.event import LogEvent
from finetuneflow.schemas.example import Example, Message, Provenance
from finetuneflow.schemas.export import ExportConfig
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import Run
from finetuneflow.services import datasets, evaluations, exports, jobs, projects, recipes, runs
from finetuneflow.services.context import Context
from finetuneflow.settings import Settings
from finetuneflow.store.database import open_store

pytestmark = pytest.mark.integration

WORKER = (sys.executable, str(Path(__file__).with_name("stand_in_stages.py")))


@contextmanager
def workspace(home: Path) -> Iterator[Context]:
    home.mkdir()
    settings = Settings(home=home, database_url=f"sqlite:///{home / 'test.db'}")
    store = open_store(settings.database_url)
    context = Context(settings, Workspace(home), store, LocalExecutor(worker=WORKER, grace_seconds=0.5))
    try:
        yield context
    finally:
        for job in jobs.list_jobs(context):
            jobs.cancel(context, job.id)
            jobs.wait(context, job.id)
        store.close()


def write_data(path: Path) -> Path:
    examples = [
        Example(
            messages=[
                Message(role="system", content="Tu réponds en bref."),
                Message(role="user", content=f"Quel est le statut de l'application Appli{n} ?"),
                Message(role="assistant", content=f"Appli{n} est en production."),
            ],
            provenance=Provenance(record_ids=[str(n)], fact=f"{n}:status", question_type="status"),
        )
        for n in range(60)
    ]
    path.parent.mkdir()
    datasets.write(path, examples)
    return path


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    with workspace(tmp_path / "home") as context:
        yield context


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "recipe" / "data.jsonl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Context, Run]]:
    """A run that ended well, for the tests that only look at it."""
    folder = tmp_path_factory.mktemp("trained")
    with workspace(folder / "home") as context:
        path = write_data(folder / "recipe" / "data.jsonl")
        yield context, done(context, runs.start(context, recipe(path), name="essai"))


def done(context: Context, run: Run) -> Run:
    jobs.wait(context, run.id, poll_seconds=0.02)
    return runs.get_run(context, run.id)


def recipe(dataset: Path | str, base_model: str = "some/model") -> Recipe:
    return Recipe(base_model=base_model, dataset=str(dataset))


def test_a_run_freezes_its_dataset_fills_its_recipe_and_gives_its_result(
    context: Context, data: Path
) -> None:
    run = runs.start(context, recipe("data.jsonl"), recipe_folder=data.parent, name="essai")
    assert run.id.startswith("run-")
    ended = done(context, run)
    assert (ended.status, ended.name) == ("success", "essai")
    assert ended.result is not None
    assert ended.result.hyperparameters.lora_r == 8
    version = datasets.get_dataset(context, ended.dataset_id)
    assert version.frozen
    assert version.counts.train == ended.result.tokens
    written = recipes.load_recipe(Path(run.folder) / RECIPE)
    assert written == ended.recipe
    assert (written.dataset, written.lora_r) == (version.id, 8)
    told = [
        event.event.message for event in read_events(Path(run.folder)) if isinstance(event.event, LogEvent)
    ]
    assert any("small dataset" in message for message in told)
    assert [found.id for found in runs.list_runs(context)] == [run.id]
    again = done(context, runs.start(context, recipe(version.id)))
    assert again.dataset_id == version.id


def test_a_dataset_that_is_nowhere_is_named_with_the_places_looked_in(
    context: Context, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match=r"none\.jsonl") as caught:
        runs.start(context, recipe("none.jsonl"), recipe_folder=tmp_path)
    assert str(tmp_path) in caught.value.message
    with pytest.raises(NotFoundError, match="ds-0123"):
        runs.start(context, recipe("ds-0123"))
    assert runs.list_runs(context) == []


def test_a_dataset_for_another_task_is_refused_before_anything_starts(context: Context, data: Path) -> None:
    version = datasets.create_version(context, data)
    other = recipe(version.id).model_copy(update={"task": "sequence_classification"})
    with pytest.raises(DatasetError, match="causal_lm"):
        runs.start(context, other)
    assert jobs.list_jobs(context) == []


def test_a_failed_run_is_resumed_and_a_finished_one_is_not(context: Context, data: Path) -> None:
    run = done(context, runs.start(context, recipe(data, "stand-in/fails-once")))
    assert run.status == "failed"
    assert run.result is None
    with pytest.raises(UsageError, match="no trained model") as caught:
        evaluations.start(context, run.id)
    assert f"runs resume {run.id}" in caught.value.hint
    resumed = runs.resume(context, run.id)
    assert resumed.folder == run.folder
    ended = done(context, resumed)
    assert ended.status == "success"
    assert ended.result is not None
    assert ended.result.resumed_from == 1
    with pytest.raises(UsageError, match="ended well"):
        runs.resume(context, run.id)


def test_a_running_run_is_not_resumed_and_can_be_cancelled(context: Context, data: Path) -> None:
    run = runs.start(context, recipe(data, "stand-in/slow"))
    with pytest.raises(UsageError, match="is running"):
        runs.resume(context, run.id)
    runs.cancel(context, run.id)
    assert done(context, run).status == "cancelled"
    assert [found.id for found in runs.list_runs(context, status="cancelled")] == [run.id]


def test_a_run_asked_for_twice_with_one_key_is_one_run(context: Context, data: Path) -> None:
    first = runs.start(context, recipe(data), idempotency_key="k")
    second = runs.start(context, recipe(data), idempotency_key="k")
    assert first.id == second.id
    assert len(list((context.workspace.home / "runs").iterdir())) == 1
    done(context, first)
    with pytest.raises(UsageError) as caught:
        runs.start(context, recipe(data, "other/model"), idempotency_key="k")
    assert caught.value.code == "idempotency_conflict"


def test_an_evaluation_asks_the_frozen_test_split_with_passages_from_the_sources(
    trained: tuple[Context, Run], tmp_path: Path
) -> None:
    context, run = trained
    source = tmp_path / "catalogue.csv"
    rows = "\n".join(f"Appli{n},en production,Outil de gestion numéro {n}" for n in range(60))
    source.write_text(f"nom,statut,descriptif\n{rows}\n", encoding="utf-8")
    job = evaluations.start(context, run.id, sources=[source])
    assert jobs.wait(context, job.id).status == "success"
    result = evaluations.result(context, job.id)
    assert result.items == datasets.get_dataset(context, run.dataset_id).counts.test
    assert result.config.arms == ["base", "rag", "tuned"]
    lines = (Path(job.folder) / ITEMS).read_text(encoding="utf-8").splitlines()
    for item in map(TestItem.model_validate_json, lines):
        name = item.expected.split()[0]
        assert item.messages[-1]["role"] == "user"
        assert item.messages[0]["role"] == "system"
        assert name in item.passages[0], "the record asked about comes first"
        assert item.rag_messages[0] == item.messages[0]
        prompt = item.rag_messages[-1]["content"]
        assert prompt.startswith("Réponds à la question à l'aide du contexte.\n\nContexte :\n")
        assert prompt.endswith(f"\n\nQuestion : {item.messages[-1]['content']}")
    assert evaluations.latest(context, run.id) == result


def test_without_sources_there_is_no_retrieval_arm(trained: tuple[Context, Run]) -> None:
    context, run = trained
    job = evaluations.start(context, run.id, config=EvaluationConfig(seed=5))
    jobs.wait(context, job.id)
    result = evaluations.result(context, job.id)
    assert (result.config.arms, result.config.seed) == (["base", "tuned"], 5)


def test_an_export_is_told_of_the_newest_evaluation(trained: tuple[Context, Run]) -> None:
    context, run = trained
    before = len(exports.list_exports(context, run_id=run.id))
    jobs.wait(context, evaluations.start(context, run.id).id)
    job = exports.start(context, run.id, config=ExportConfig(kinds=["adapter"]))
    jobs.wait(context, job.id)
    result = exports.result(context, job.id)
    assert (result.run_id, result.adapter, result.zip) == (run.id, "essai", "True")
    assert len(exports.list_exports(context, run_id=run.id)) == before + 1


def test_an_export_s_result_is_refused_while_it_runs_or_when_unknown(context: Context, data: Path) -> None:
    run = runs.start(context, recipe(data, "stand-in/slow"))
    with pytest.raises(UsageError, match="still running"):
        exports.result(context, run.id)
    with pytest.raises(FineTuneFlowError, match="there is no job"):
        exports.result(context, "export-none")


def test_a_project_is_deleted_with_its_runs_but_not_while_one_is_running(
    context: Context, data: Path
) -> None:
    project = projects.create_project(context, " Mes données ")
    assert (project.name, project.status) == ("Mes données", "draft")
    run = runs.start(context, recipe(data, "stand-in/slow"), project_id=project.id)
    with pytest.raises(UsageError, match="running"):
        projects.delete_project(context, project.id)
    runs.cancel(context, run.id)
    done(context, run)
    projects.delete_project(context, project.id)
    assert not Path(run.folder).exists()
    assert projects.list_projects(context) == []
    assert [version.id for version in datasets.list_datasets(context)] == [run.dataset_id]
    with pytest.raises(NotFoundError):
        runs.get_run(context, run.id)


def test_a_run_in_a_project_that_does_not_exist_leaves_nothing(context: Context, data: Path) -> None:
    with pytest.raises(UsageError):
        runs.start(context, recipe(data), project_id="proj-none")
    assert runs.list_runs(context) == []
    assert list((context.workspace.home / "runs").glob("*")) == []
