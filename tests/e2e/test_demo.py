"""`finetuneflow demo`: the whole loop on the embedded model, and what it claims."""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.artifacts import read_examples, split_file
from finetuneflow.metrics import exact_match
from finetuneflow.schemas.example import Example

Run = Callable[..., subprocess.CompletedProcess[str]]
ReadJson = Callable[[subprocess.CompletedProcess[str]], Any]
pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("first") / "workspace", tmp_path_factory.mktemp("second") / "workspace"


@pytest.fixture(scope="module")
def demo(workspaces: tuple[Path, Path], run_in: Run, json_of: ReadJson) -> dict[str, Any]:
    """What `finetuneflow demo --json` printed."""
    result: dict[str, Any] = json_of(run_in(workspaces[0], "demo", "--json"))
    return result


@pytest.fixture(scope="module")
def splits(demo: dict[str, Any]) -> dict[str, list[Example]]:
    folder = Path(demo["artifacts"]["dataset"])
    return {name: read_examples(split_file(folder, name)) for name in ("train", "validation", "test")}


def test_the_tuned_model_answers_questions_it_was_not_trained_on(demo: dict[str, Any]) -> None:
    base, tuned = demo["arms"]["base"], demo["arms"]["tuned"]
    assert tuned["exact_match"] >= 0.90
    assert tuned["exact_match"] - base["exact_match"] >= 0.80
    assert set(demo["arms"]) == {"base", "rag", "tuned"}
    assert demo["verdict"] == "PASS"


def test_new_wordings_are_reported_beside(demo: dict[str, Any]) -> None:
    for arm in demo["arms"].values():
        assert arm["held_out_wordings"]["items"] >= 200
        assert 0 <= arm["held_out_wordings"]["exact_match"] <= 1


def test_no_test_question_stands_in_training(splits: dict[str, list[Example]]) -> None:
    trained = {example.question.casefold().strip() for example in [*splits["train"], *splits["validation"]]}
    assert splits["test"]
    assert not [item.question for item in splits["test"] if item.question.casefold().strip() in trained]


def test_known_facts_are_asked_in_words_that_training_saw_with_other_records(
    splits: dict[str, list[Example]],
) -> None:
    facts = {example.provenance.fact for example in splits["train"]}
    wordings = {example.provenance.wording for example in splits["train"]}
    asked = [item for item in splits["test"] if not item.provenance.wording_held_out]
    with_fact = [item for item in asked if item.provenance.fact]
    assert len(with_fact) > 100
    assert all(item.provenance.fact in facts for item in with_fact)
    assert all(item.provenance.wording in wordings for item in with_fact if item.provenance.wording)


def test_held_out_wordings_stand_in_no_training_example(splits: dict[str, list[Example]]) -> None:
    held_out = {item.provenance.wording for item in splits["test"] if item.provenance.wording_held_out}
    assert len(held_out) >= 5
    trained = {example.provenance.wording for example in [*splits["train"], *splits["validation"]]}
    assert not held_out & trained


def test_the_files_that_it_names_are_there(demo: dict[str, Any]) -> None:
    for name, path in demo["artifacts"].items():
        assert Path(path).exists(), name
    with zipfile.ZipFile(demo["artifacts"]["zip"]) as bundle:
        assert bundle.testzip() is None
        names = bundle.namelist()
    assert any(name.endswith("adapter_model.safetensors") for name in names)
    report = Path(demo["artifacts"]["report"]).read_text(encoding="utf-8")
    assert f"{demo['arms']['tuned']['exact_match']:.1%}" in report


def test_two_runs_with_one_seed_agree(
    demo: dict[str, Any], workspaces: tuple[Path, Path], run_in: Run, json_of: ReadJson
) -> None:
    again = json_of(run_in(workspaces[1], "demo", "--json"))
    assert again["dataset_id"] == demo["dataset_id"]
    answers = []
    for result in (demo, again):
        text = Path(result["artifacts"]["predictions"]).read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        answers.append(sorted((row["arm"], row["item_id"], row["predicted"]) for row in rows))
    assert answers[0] == answers[1]
    first, second = (
        (Path(result["artifacts"]["adapter"]) / "adapter_model.safetensors").read_bytes()
        for result in (demo, again)
    )
    assert first == second


def test_the_model_can_be_asked_afterwards(
    demo: dict[str, Any], workspaces: tuple[Path, Path], run_in: Run, json_of: ReadJson
) -> None:
    question = "Quel est le statut de GESTOR ?"
    said = json_of(run_in(workspaces[0], "predict", demo["run_id"], question, "--json"))
    assert "en production" in said["answers"][0]["answer"]


def test_the_exported_file_was_checked_against_the_tuned_model(demo: dict[str, Any]) -> None:
    parity = demo["parity"]
    assert parity["passed"], parity["failures"]
    assert parity["prompts"] >= 20
    assert parity["top1_agreement"] >= 0.99
    assert parity["median_max_logprob_difference"] <= 0.02
    assert parity["ids_equal"] == parity["rendered_equal"] == parity["prompts"]
    folder = Path(demo["artifacts"]["GGUF"]).parent
    assert json.loads((folder / "parity.json").read_text(encoding="utf-8"))["passed"]
    assert (folder / "Modelfile").read_text(encoding="utf-8").startswith("FROM ./model.gguf\n")
    with zipfile.ZipFile(demo["artifacts"]["zip"]) as bundle:
        assert {"gguf/model.gguf", "gguf/Modelfile", "gguf/parity.json", "LICENSE"} <= set(bundle.namelist())


def test_chatting_with_the_exported_file_is_chatting_with_the_tuned_model(
    demo: dict[str, Any],
    splits: dict[str, list[Example]],
    workspaces: tuple[Path, Path],
    run_in: Run,
    json_of: ReadJson,
) -> None:
    asked = [item for item in splits["test"] if not item.provenance.wording_held_out]
    lines = "".join(f"{item.question}\n" for item in asked)
    said = json_of(
        run_in(workspaces[0], "chat", demo["export_id"], "--max-new-tokens", 64, "--json", stdin=lines)
    )
    answers = [turn["content"] for turn in said["messages"] if turn["role"] == "assistant"]
    assert len(answers) == len(asked) == demo["arms"]["tuned"]["items"]
    scores = [exact_match(answer, item.answer) for answer, item in zip(answers, asked, strict=True)]
    assert sum(scores) / len(scores) == pytest.approx(demo["arms"]["tuned"]["exact_match"], abs=0.01)
