"""The commands that start jobs: what they ask of the services, and what they print of the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetuneflow.cli import progress
from finetuneflow.schemas.answerer import ArmSpeeds
from finetuneflow.schemas.evaluation import ArmResult, EvaluationConfig, EvaluationResult, Scores, Verdict
from finetuneflow.schemas.export import ExportConfig, ExportedFile, ExportResult
from finetuneflow.schemas.interval import Interval
from finetuneflow.schemas.job import Job, JobKind
from finetuneflow.schemas.recipe import Hyperparameters, Recipe
from finetuneflow.schemas.run import Run, TrainResult
from finetuneflow.services import evaluations, exports, jobs, runs

RESULT = TrainResult(
    adapter="adapter",
    base_model="embedded:tiny",
    base_fingerprint="0",
    method="lora",
    steps=20,
    epochs=2.0,
    best_step=18,
    train_loss=0.25,
    eval_loss=0.5,
    trainable_parameters=1000,
    parameters=7_000_000,
    tokens=5000,
    supervised_tokens=2000,
    tokens_per_second=3400,
    seconds=185,
    precision="fp32",
    device="CPU, 2 threads",
    hyperparameters=Hyperparameters(
        num_epochs=2,
        learning_rate=1e-3,
        per_device_batch_size=8,
        max_seq_length=256,
        lora_r=8,
        lora_alpha=16,
        lora_dropout=0,
    ),
)


def scores(value: float) -> Scores:
    """One figure three times."""
    interval = Interval(value=value, low=max(value - 0.1, 0), high=min(value + 0.1, 1))
    return Scores(
        items=50, exact_match=interval, token_f1=interval, rouge_l=interval, latency_mean_seconds=0.05
    )


EVALUATION = EvaluationResult(
    run_id="run-1",
    items=50,
    test_set_hash="abc",
    arms={
        "base": ArmResult(arm="base", overall=scores(0.0)),
        "tuned": ArmResult(arm="tuned", overall=scores(0.96), held_out_wordings=scores(0.6)),
    },
    verdict=Verdict(
        outcome="PASS",
        reasons=["96.0 % is above 85 %"],
        metric="exact_match",
        score=0.96,
        baseline="base",
        baseline_score=0.0,
        improvement=0.96,
        p_value=0.0001,
        items=50,
    ),
    seconds=3,
    config=EvaluationConfig(),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the services were asked for; jobs end well at once."""
    seen: dict[str, Any] = {}
    folder = tmp_path / "job"

    def run(recipe: Recipe) -> Run:
        return Run(
            id="run-1",
            name="mine",
            dataset_id="ds-1",
            recipe=recipe,
            status="success",
            folder=str(folder),
            created_at="",
            result=RESULT,
        )

    def job(kind: JobKind) -> Job:
        return Job(id=f"{kind}-1", kind=kind, status="success", folder=str(folder), created_at="")

    def start_run(_: object, recipe: Recipe, **options: Any) -> Run:
        seen.update(options, recipe=recipe)
        return run(recipe)

    def start_evaluation(_: object, run_id: str, **options: Any) -> Job:
        seen.update(options, run_id=run_id)
        return job("evaluate")

    def start_export(_: object, run_id: str, **options: Any) -> Job:
        seen.update(options, run_id=run_id)
        (folder / "adapter").mkdir(parents=True)
        (folder / "adapter" / "config.json").write_text("{}", encoding="utf-8")
        return job("export")

    exported = ExportResult(
        run_id="run-1", files=[ExportedFile(path="adapter/config.json", size_bytes=2, sha256="0")]
    )
    monkeypatch.setattr(runs, "start", start_run)
    monkeypatch.setattr(runs, "get_run", lambda *_: run(seen["recipe"]))
    monkeypatch.setattr(evaluations, "start", start_evaluation)
    monkeypatch.setattr(evaluations, "result", lambda *_: EVALUATION)
    monkeypatch.setattr(evaluations, "speeds", lambda *_: ArmSpeeds())
    monkeypatch.setattr(evaluations, "latest", lambda _, run_id: EVALUATION if run_id == "run-1" else None)
    monkeypatch.setattr(exports, "default_config", lambda *_: ExportConfig())
    monkeypatch.setattr(exports, "start", start_export)
    monkeypatch.setattr(exports, "result", lambda *_: exported)
    monkeypatch.setattr(jobs, "follow", lambda *_, **__: iter(()))
    monkeypatch.setattr(progress.jobs, "wait", lambda _, job_id: job("train"))
    return seen


def test_train_takes_flags_and_any_key_by_set(cli: Any, asked: dict[str, Any]) -> None:
    said = cli(
        *("train", "--dataset", "d.jsonl", "--method", "full", "--seed", 3, "--name", "mine"),
        *("--set", "learning_rate=5e-5", "--set", "epochs=2", "--set", "packing=false"),
        *("--set", "target_modules=[q_proj, v_proj]", "--json"),
    )
    assert said.code == 0, said.err
    recipe = asked["recipe"]
    assert (recipe.base_model, recipe.dataset, recipe.method, recipe.seed) == (
        "embedded:tiny",
        "d.jsonl",
        "full",
        3,
    )
    assert (recipe.learning_rate, recipe.num_epochs, recipe.packing) == (5e-5, 2, False)
    assert recipe.target_modules == ["q_proj", "v_proj"]
    assert asked["name"] == "mine"
    assert said.json()["result"]["eval_loss"] == 0.5


def test_flags_win_over_the_recipe(cli: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    recipe = tmp_path / "recipes" / "mine.yaml"
    recipe.parent.mkdir()
    recipe.write_text("base_model: embedded:tiny\ndataset: a.jsonl\nseed: 1\n", encoding="utf-8")
    said = cli("train", recipe, "--seed", 9)
    assert said.code == 0, said.err
    assert (asked["recipe"].dataset, asked["recipe"].seed) == ("a.jsonl", 9)
    assert asked["recipe_folder"] == recipe.parent
    assert "3 min 05 s" in said.out
    assert "validation 0.500 at step 18" in said.out
    assert "finetuneflow evaluate run-1" in said.err


def test_a_detached_run_prints_its_id_alone(cli: Any, asked: dict[str, Any]) -> None:
    said = cli("train", "--dataset", "d.jsonl", "--detach")
    assert (said.code, said.out) == (0, "run-1\n")
    assert "finetuneflow runs follow run-1" in said.err


def test_evaluate_shows_the_arms_and_the_verdict(cli: Any, asked: dict[str, Any]) -> None:
    said = cli("evaluate", "run-1", "--sources", "a.csv", "--sources", "b.md", "--min-score", "0.5")
    assert said.code == 0, said.err
    assert asked["sources"] == [Path("a.csv"), Path("b.md")]
    assert asked["config"].min_score == 0.5
    assert "tuned, new wordings" in said.out
    assert "96.0 % (86.0 to 100.0)" in said.out
    assert "Verdict: PASS" in said.out
    assert cli("evaluate", "run-1", "--json").json()["verdict"]["outcome"] == "PASS"


def test_export_copies_the_files_to_a_new_folder(cli: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = cli(
        "export", "run-1", "--out", out, "--to", "adapter", "--to", "zip", "--language", "fr", "--json"
    )
    assert said.code == 0, said.err
    assert (asked["config"].kinds, asked["config"].language) == (["adapter", "zip"], "fr")
    assert (out / "adapter" / "config.json").read_text(encoding="utf-8") == "{}"
    assert said.json()["out"] == str(out)


def test_export_never_overwrites(cli: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    said = cli("export", "run-1", "--out", tmp_path / "out")
    assert said.code == 2
    assert asked == {}


def test_compare_puts_runs_side_by_side_and_asks_for_missing_evaluations(
    cli: Any, asked: dict[str, Any]
) -> None:
    said = cli("compare", "run-1", "--json")
    assert said.json()["same_test_set"] is True
    missing = cli("compare", "run-1", "run-2")
    assert missing.code == 2
    assert "finetuneflow evaluate run-2" in missing.err
