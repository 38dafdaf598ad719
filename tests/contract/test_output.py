"""Manners: data on stdout, messages on stderr, exit codes, no traceback, whatever happens."""

from __future__ import annotations

import importlib.metadata
import io
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.errors import InputError, JobCancelled, StorageError
from finetuneflow.services import datasets, predictions


def raising(error: BaseException) -> Any:
    """A function that raises, whatever it is given."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_from_records_json(cli: Any, catalogue: Path, tmp_path: Path) -> None:
    said = cli(
        "dataset", "from-records", catalogue, "--out", tmp_path / "made.jsonl", "--add-negatives", "--json"
    )
    assert said.code == 0, said.err
    made = said.json()
    assert made["records"] == 5
    assert made["examples"] == sum(made["question_types"].values()) > 0
    assert made["mapping"]["name"] == "nom"
    assert len((tmp_path / "made.jsonl").read_text(encoding="utf-8").splitlines()) == made["examples"]


def test_from_records_shows_the_guessed_mapping_and_how_to_edit_it(
    cli: Any, catalogue: Path, tmp_path: Path
) -> None:
    said = cli("dataset", "from-records", catalogue, "--out", tmp_path / "made.jsonl")
    assert said.code == 0, said.err
    assert "statut" in said.err
    assert "--mapping mapping.yaml" in said.err
    assert "statut" not in said.out
    assert "definition" in said.out


def test_a_mapping_is_yaml_that_from_records_takes_back(cli: Any, catalogue: Path, tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(cli("dataset", "mapping", catalogue).out, encoding="utf-8")
    said = cli(
        "dataset", "from-records", catalogue, "--mapping", mapping, "--out", tmp_path / "made.jsonl", "--json"
    )
    assert said.code == 0, said.err
    assert said.json()["mapping"] == cli("dataset", "mapping", catalogue, "--json").json()


def test_an_unknown_question_type_is_named(cli: Any, catalogue: Path, tmp_path: Path) -> None:
    said = cli(
        "dataset",
        "from-records",
        catalogue,
        "--question-types",
        "status,colour",
        "--out",
        tmp_path / "x.jsonl",
    )
    assert (said.code, said.out) == (2, "")
    assert "`colour`" in said.err
    assert "definition" in said.err
    assert not (tmp_path / "x.jsonl").exists()


def test_from_documents_json(cli: Any, tmp_path: Path) -> None:
    document = tmp_path / "guide.md"
    document.write_text("# Guide\n\n## Delays\n\nThe delay of payment is thirty days.\n", encoding="utf-8")
    said = cli("dataset", "from-documents", document, "--out", tmp_path / "made.jsonl", "--json")
    assert said.code == 0, said.err
    assert said.json()["examples"] > 0


def test_validate_json(cli: Any, dataset: Path) -> None:
    said = cli("dataset", "validate", dataset, "--json")
    assert said.json()["rows"] == 40


def test_validate_fails_when_a_row_cannot_be_used(cli: Any, dataset: Path) -> None:
    with dataset.open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    said = cli("dataset", "validate", dataset)
    assert said.code == 1
    assert "41" in said.out
    assert said.err.startswith("error: ")


def test_split_stats_coverage_convert_and_deduplicate_json(cli: Any, catalogue: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.jsonl"
    cli("dataset", "from-records", catalogue, "--out", made)
    rows = len(made.read_text(encoding="utf-8").splitlines())

    split = cli("dataset", "split", made, "--out-dir", tmp_path / "splits", "--json").json()
    placed = sum(part["examples"] for part in split["splits"])
    assert placed + sum(split["left_out"].values()) == rows

    assert cli("dataset", "stats", made, "--json").json()["examples"] == rows
    coverage = cli("dataset", "coverage", catalogue, made, "--json").json()
    assert (coverage["records"], coverage["covered"], coverage["uncovered"]) == (5, 5, [])
    converted = cli(
        "dataset", "convert", made, "--to", "alpaca", "--out", tmp_path / "alpaca.json", "--json"
    ).json()
    assert converted["report"]["valid"] == rows
    clean = cli("dataset", "deduplicate", made, "--out", tmp_path / "clean.jsonl", "--json").json()
    assert clean["kept"] + len(clean["dropped"]) == rows


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("dataset list", "datasets"),
        ("runs list", "runs"),
        ("jobs list", "jobs"),
        ("recipes list", "recipes"),
        ("recipes keys", "keys"),
        ("models list", "models"),
    ],
)
def test_lists_are_one_json_object(cli: Any, words: str, key: str) -> None:
    said = cli(*words.split(), "--json")
    assert (said.code, said.err) == (0, "")
    assert list(said.json()) == [key]


def test_every_recipe_key_is_explained_by_type(cli: Any) -> None:
    keys = {key["name"]: key for key in cli("recipes", "keys", "--json").json()["keys"]}
    assert keys["num_epochs"]["aliases"] == ["epochs", "num_train_epochs"]
    assert keys["method"]["type"] == "lora | full | head"
    assert keys["packing"]["default"] == "true"
    assert not [key for key in keys.values() if "typing" in key["type"] or "<class" in key["type"]]


def test_a_mistyped_recipe_key_gets_the_nearest(cli: Any) -> None:
    said = cli("recipes", "keys", "lernrate")
    assert said.code == 2
    assert "`learning_rate`" in said.err


def test_doctor_makes_the_workspace(cli: Any, workspace: Path) -> None:
    said = cli("doctor", "--json")
    assert said.code == 0, said.err
    assert {"python", "disk", "workspace", "database"} <= {check["name"] for check in said.json()["checks"]}
    assert workspace.is_dir()


def test_doctor_names_an_unwritable_workspace(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("FTF_HOME", str(tmp_path / "file" / "home"))
    said = cli("doctor", "--json")
    assert said.code == 1
    faults = {check["name"]: check["remedy"] for check in said.json()["checks"] if check["state"] == "fault"}
    assert "FTF_HOME" in faults["workspace"]


@pytest.mark.parametrize(
    "words",
    [
        "runs show run-none",
        "runs resume run-none",
        "runs cancel run-none",
        "runs follow run-none",
        "jobs show none",
        "jobs follow none",
        "evaluate run-none",
        "export run-none",
        "compare run-none",
        "predict run-none question",
        "chat run-none",
    ],
)
def test_an_unknown_id_is_a_usage_error_with_a_hint(cli: Any, words: str) -> None:
    said = cli(*words.split(), "--json")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert "\n\nhint: " in said.err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["trian"], "`finetuneflow train`"),
        (["dataset", "spilt"], "`finetuneflow dataset split`"),
        (["dataset", "split", "x.jsonl"], "`finetuneflow dataset split --help`"),
        (["train", "--sed", "1"], "`finetuneflow train --help`"),
        (["runs", "list", "--limit", "many"], "`finetuneflow runs list --help`"),
        (["train"], "--dataset"),
        (["train", "data.jsonl"], "--dataset data.jsonl"),
        (["train", "--dataset", "x.jsonl", "--set", "num_epochs"], "--set num_epochs=5"),
        (["export", "run-none", "--to", "gguf2"], "adapter"),
    ],
)
def test_usage_errors_say_error_and_hint_and_exit_2(cli: Any, arguments: list[str], hint: str) -> None:
    said = cli(*arguments)
    assert (said.code, said.out) == (2, "")
    error, _, remedy = said.err.partition("\n\n")
    assert error.startswith("error: ")
    assert remedy.startswith("hint: ")
    assert hint in remedy


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            InputError("is empty", "add rows", path="rows.csv", line=3),
            1,
            "error: rows.csv:3: is empty\n\nhint: add rows\n",
        ),
        (
            StorageError("the disk is full", "free some space"),
            1,
            "error: the disk is full\n\nhint: free some space\n",
        ),
        (JobCancelled("cancelled"), 130, "error: cancelled\n"),
        (KeyboardInterrupt(), 130, ""),
        (PermissionError(13, "Permission denied", "rows.csv"), 1, "error: `rows.csv`: permission denied\n"),
    ],
)
def test_errors_are_told_in_one_manner(
    cli: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    monkeypatch.setattr(datasets, "statistics", raising(error))
    said = cli("dataset", "stats", dataset)
    assert said.code == code
    assert said.out == ""
    assert said.err.strip() == text.strip()


@pytest.mark.parametrize("command", [("predict", "run-1", "-"), ("chat", "run-1")])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_stdin_that_is_no_utf8_is_told_with_the_remedy(
    cli: Any, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], errors: str
) -> None:
    latin = io.BytesIO("Où en est l'été ?\n".encode("latin1"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(latin, encoding="utf-8", errors=errors))
    monkeypatch.setattr(predictions, "open_model", lambda *_, **__: nullcontext())
    said = cli(*command)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: stdin is not UTF-8\n")
    assert "iconv -f latin1 -t utf8" in said.err


def test_no_message_steers_the_terminal(cli: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        datasets, "statistics", raising(InputError("\x1b[2Jbad", "\x9b1mhint", path="\x07.csv"))
    )
    said = cli("dataset", "stats", dataset)
    assert said.code == 1
    assert "[2Jbad" in said.err
    assert [code for code in "\x1b\x07\x9b" if code in said.err] == []


def test_an_unforeseen_error_is_one_line_and_its_traceback_is_kept(
    cli: Any, dataset: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "statistics", raising(ZeroDivisionError("no rows")))
    said = cli("dataset", "stats", dataset)
    assert said.code == 1
    assert "ZeroDivisionError: no rows" in said.err
    assert "Traceback" not in said.err
    (kept,) = (workspace / "crashes").iterdir()
    assert str(kept) in said.err
    assert "Traceback" in kept.read_text(encoding="utf-8")


def run_outside(tmp_path: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell command with `$FTF` as the program."""
    variables = os.environ | {"FTF": f"{sys.executable} -m finetuneflow", "FTF_HOME": str(tmp_path / "home")}
    return subprocess.run(
        ["bash", "-c", command], env=variables | environment, capture_output=True, text=True, check=False
    )


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    done = run_outside(tmp_path, "set -o pipefail; $FTF recipes keys | head -n 1; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("key")


def test_nothing_is_coloured_when_piped(tmp_path: Path) -> None:
    done = run_outside(tmp_path, "$FTF trian; $FTF recipes keys; $FTF --version", TERM="xterm-256color")
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("finetuneflow ")


def test_the_bare_program_shows_its_help(cli: Any) -> None:
    said = cli()
    assert said.code == 0
    assert "Examples:" in said.out


def test_versions_agree(cli: Any) -> None:
    assert cli("--version").out.strip() == f"finetuneflow {importlib.metadata.version('finetuneflow')}"
