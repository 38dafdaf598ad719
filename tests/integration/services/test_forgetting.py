"""A look at what a run's model forgot, through the service, with a stand-in stage in a real process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetuneflow.artifacts import Workspace, write_text
from finetuneflow.errors import FineTuneFlowError, NotFoundError, UsageError
from finetuneflow.jobs.local import LocalExecutor
from finetuneflow.schemas.example import Example, Message
from finetuneflow.schemas.forgetting import ForgettingConfig
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import Run
from finetuneflow.services import datasets, forgetting, jobs, runs
from finetuneflow.services.context import Context
from finetuneflow.settings import Settings
from finetuneflow.store.database import open_store

pytestmark = pytest.mark.integration

STAGES = """
import sys
from pathlib import Path
from finetuneflow.errors import ModelError
from finetuneflow.jobs.stages import STAGES, Stage
from finetuneflow.jobs.worker import main
from finetuneflow.schemas.interval import Interval
from finetuneflow.schemas.forgetting import *
from finetuneflow.schemas.recipe import Hyperparameters
from finetuneflow.schemas.run import TrainResult

def train(config, inputs, job):
    (job.path / "adapter").mkdir()
    names = [name for name in Hyperparameters.model_fields if name != "reason"]
    return TrainResult(
        adapter="adapter", base_model=config.base_model, base_fingerprint="0", method="lora", steps=1,
        epochs=1, best_step=1, train_loss=1.0, trainable_parameters=1, parameters=1, tokens=1,
        supervised_tokens=1, tokens_per_second=1, seconds=0.1, precision="fp32", device="cpu",
        hyperparameters=Hyperparameters.model_validate({name: getattr(config, name) for name in names}),
    )

def look(config, inputs, job):
    if config.seed == 13 and not job.resume:
        raise ModelError("the model is broken", "mend it")
    assert Path(inputs.adapter).is_dir() and inputs.model is None
    moved = Interval(value=3.0, low=2.0, high=4.0)
    return ForgettingResult(run_id=inputs.run_id, base_model=inputs.base_model, suite_hash="0", items=0,
        divergence=moved, prompts=100, outcome="FAIL", reasons=["said by the stage"], seconds=0.1,
        config=config)

table = {
    "train/causal_lm": STAGES["train/causal_lm"]._replace(function="__main__:train"),
    "train/sequence_classification": STAGES["train/causal_lm"]._replace(function="__main__:train"),
    "evaluate/forgetting": Stage("__main__:look", ForgettingConfig, ForgettingInputs, "train"),
}
sys.exit(main(sys.argv[1:], table))
"""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    """A workspace whose worker has three stages that answer at once."""
    home = tmp_path_factory.mktemp("workspace")
    write_text(home / "worker.py", STAGES)
    settings = Settings(home=home, database_url=f"sqlite:///{home / 'test.db'}")
    store = open_store(settings.database_url)
    executor = LocalExecutor(worker=(sys.executable, str(home / "worker.py")), grace_seconds=0.5)
    yield Context(settings, Workspace(home), store, executor)
    store.close()


@pytest.fixture(scope="module")
def run(context: Context) -> Run:
    """A run that ended well."""
    examples = [
        Example(
            messages=[
                Message(role="user", content=f"Où est l'outil {n} ?"),
                Message(role="assistant", content=f"À Lyon {n}."),
            ]
        )
        for n in range(60)
    ]
    path = context.workspace.home / "data.jsonl"
    datasets.write(path, examples)
    started = runs.start(context, Recipe(base_model="some/model", dataset=str(path)))
    jobs.wait(context, started.id, poll_seconds=0.02)
    return runs.get_run(context, started.id)


def test_a_run_is_looked_at_once_and_told_about_in_both_languages(context: Context, run: Run) -> None:
    job = jobs.wait(context, forgetting.start(context, run.id).id, poll_seconds=0.02)
    assert (job.status, job.kind) == ("success", "evaluate")
    english = forgetting.result(context, job.id)
    french = forgetting.result(context, job.id, language="fr")
    assert (english.run_id, english.base_model) == (run.id, "some/model")
    assert (english.outcome, french.outcome) == ("FAIL", "FAIL")
    assert "neutral prompts" in english.reasons[0]
    assert "demandes neutres" in french.reasons[0]
    assert Path(english.predictions_path) == Path(job.folder) / "predictions.jsonl"
    # the same question again is not asked again, in whatever language
    assert forgetting.start(context, run.id).id == job.id
    assert forgetting.start(context, run.id, config=ForgettingConfig(language="fr")).id == job.id
    # other settings are another question
    assert forgetting.start(context, run.id, config=ForgettingConfig(max_new_tokens=8)).id != job.id


def test_one_that_failed_goes_on_where_it_stopped(context: Context, run: Run) -> None:
    unlucky = ForgettingConfig(seed=13)
    job = jobs.wait(context, forgetting.start(context, run.id, config=unlucky).id, poll_seconds=0.02)
    assert job.status == "failed"
    with pytest.raises(FineTuneFlowError, match="the model is broken"):
        forgetting.result(context, job.id)
    again = jobs.wait(context, forgetting.start(context, run.id, config=unlucky).id, poll_seconds=0.02)
    assert (again.id, again.status) == (job.id, "success")


def test_unknown_runs_and_classifiers_are_refused(context: Context, run: Run) -> None:
    with pytest.raises(NotFoundError):
        forgetting.start(context, "run-x")
    path = context.workspace.home / "labels.jsonl"
    rows = [{"text": f"texte {n}", "label": "ab"[n % 2]} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = Recipe(base_model="some/model", dataset=str(path), task="sequence_classification")
    started = runs.start(context, recipe)
    jobs.wait(context, started.id, poll_seconds=0.02)
    with pytest.raises(UsageError, match="is a classifier"):
        forgetting.start(context, started.id)
