"""`finetuneflow registry` and `finetuneflow verify` as a person types them."""

from __future__ import annotations

import getpass
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

BEFORE = 'models:\n  sfd_analyzer:\n    model_name: "qwen3-sfd-analyzer"\n'
AFTER = BEFORE.replace('analyzer"', 'analyzer-v2"')


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "configs" / "models.yaml"
    path.parent.mkdir()
    path.write_text(BEFORE, encoding="utf-8")
    return path


def promote(cli: Any, file: Path, *options: str) -> Any:
    return cli("registry", "promote", "sfd_analyzer", "run-1", "--file", file, *options)


def test_the_guides_last_step_from_before_to_after_and_back(cli: Any, finished: Any, file: Path) -> None:
    finished.evaluate("PASS")
    finished.export()
    said = promote(cli, file, "--json")
    assert said.code == 0, said.err
    assert file.read_text(encoding="utf-8") == AFTER
    promoted = said.json()
    assert promoted["model_name"] == "qwen3-sfd-analyzer-v2"
    assert (promoted["run_id"], promoted["verdict"]) == ("run-1", "PASS")
    assert promoted["export_id"].startswith("export-")
    assert promoted["promoted_by"] == getpass.getuser()
    (shown,) = cli("registry", "show", "--file", file, "--json").json()["models"]
    assert shown == {key: value for key, value in promoted.items() if key != "file"}
    said = cli("registry", "rollback", "sfd_analyzer", "--file", file, "--reason", "too slow")
    assert said.code == 0, said.err
    assert file.read_text(encoding="utf-8") == BEFORE
    events = cli("registry", "history", "--file", file, "--json").json()["events"]
    assert [(event["action"], event["reason"]) for event in events] == [
        ("promote", ""),
        ("rollback", "too slow"),
    ]
    assert "too slow" in cli("registry", "history", "sfd_analyzer", "--file", file).out


@pytest.mark.parametrize("outcome", ["FAIL", "NOT ENOUGH DATA", None])
def test_promotion_demands_pass_or_a_reason(cli: Any, finished: Any, file: Path, outcome: str | None) -> None:
    finished.export()
    if outcome:
        finished.evaluate(outcome)
    for options in ([], ["--name", "mine"], ["--force", " "]):
        said = promote(cli, file, *options)
        assert (said.code, said.out) == (2, "")
        assert "it is not promoted" in said.err
        assert "--force REASON" in said.err
    assert file.read_text(encoding="utf-8") == BEFORE
    said = promote(cli, file, "--force", "agreed with Léa")
    assert said.code == 0, said.err
    assert "without the verdict PASS: agreed with Léa" in said.err
    (event,) = cli("registry", "history", "--file", file, "--json").json()["events"]
    assert (event["forced"], event["reason"], event["verdict"]) == (True, "agreed with Léa", outcome)


def test_the_newest_evaluation_decides(cli: Any, finished: Any, file: Path) -> None:
    finished.export()
    finished.evaluate("PASS")
    finished.evaluate("FAIL")
    assert promote(cli, file).code == 2
    finished.evaluate("PASS")
    assert promote(cli, file).code == 0


def test_a_run_that_nothing_serves_needs_a_name(cli: Any, finished: Any, file: Path) -> None:
    finished.evaluate("PASS")
    said = promote(cli, file)
    assert said.code == 2
    assert "nothing serves run run-1" in said.err
    assert promote(cli, file, "--name", "served-elsewhere:v1", "--json").json()["export_id"] is None
    assert "served-elsewhere:v1" in file.read_text(encoding="utf-8")


def test_the_name_in_the_registry_is_the_one_that_was_deployed(cli: Any, finished: Any, file: Path) -> None:
    finished.evaluate("PASS")
    finished.deploy("applications-ia:v3", finished.export())
    assert promote(cli, file, "--json").json()["model_name"] == "applications-ia:v3"


def test_the_export_in_the_registry_is_the_one_that_answers_under_the_name(
    cli: Any, finished: Any, file: Path
) -> None:
    finished.evaluate("PASS")
    first, second = finished.export(), finished.export()
    finished.deploy("older", first)
    finished.deploy("newer", second)
    newest = finished.export()
    for options, export in (
        ((), second),
        (("--name", "older"), first),
        (("--name", "newer:latest"), second),
        (("--name", "qwen3-sfd-analyzer-v2"), newest),
        (("--name", "served-elsewhere"), None),
    ):
        promoted = promote(cli, file, *options, "--json").json()
        assert promoted["export_id"] == (export and export.name)


def test_a_name_that_another_run_was_deployed_under_since_is_refused(
    cli: Any, finished: Any, file: Path
) -> None:
    finished.evaluate("PASS")
    other = finished.another("run-2")
    finished.deploy("analyser", finished.export())
    finished.deploy("analyser", finished.export(), url="http://127.0.0.1:9999")
    assert promote(cli, file).code == 0
    before = file.read_bytes()
    other.deploy("Analyser:latest", other.export(), url="http://127.0.0.1:9999")
    for options in ((), ("--name", "analyser")):
        said = promote(cli, file, *options)
        assert said.code == 2
        assert "`analyser` at http://127.0.0.1:9999 is the model of run run-2" in said.err
        assert "deploy run run-1 again, under a name of its own" in said.err
    assert file.read_bytes() == before
    finished.deploy("analyser", finished.export(), url="http://127.0.0.1:9999")
    assert promote(cli, file).code == 0


def test_the_recipes_name_is_refused_when_another_run_was_deployed_under_it(
    cli: Any, finished: Any, file: Path
) -> None:
    finished.evaluate("PASS")
    finished.export()
    other = finished.another("run-2")
    other.deploy("qwen3-sfd-analyzer-v2", other.export())
    said = promote(cli, file)
    assert said.code == 2
    assert "is the model of run run-2" in said.err
    assert file.read_text(encoding="utf-8") == BEFORE


def test_rollback_between_two_runs_of_one_name_is_refused(cli: Any, finished: Any, file: Path) -> None:
    finished.evaluate("PASS")
    finished.export()
    finished.another("run-2").export()
    assert promote(cli, file).code == 0
    assert cli("registry", "promote", "sfd_analyzer", "run-2", "--file", file).code == 0
    said = cli("registry", "rollback", "sfd_analyzer", "--file", file)
    assert said.code == 2
    assert "does not tell the two models apart: run run-1, then run run-2" in said.err
    (shown,) = cli("registry", "show", "--file", file, "--json").json()["models"]
    assert shown["run_id"] == "run-2"


def test_an_export_whose_folder_was_deleted_serves_nothing(cli: Any, finished: Any, file: Path) -> None:
    finished.evaluate("PASS")
    kept, gone = finished.export(), finished.export()
    shutil.rmtree(gone)
    assert promote(cli, file, "--json").json()["export_id"] == kept.name
    shutil.rmtree(kept)
    said = promote(cli, file)
    assert said.code == 2
    assert "nothing serves run run-1" in said.err


def test_the_workspaces_own_registry_is_the_default_and_keeps_the_base_models(
    cli: Any, finished: Any
) -> None:
    finished.evaluate("PASS")
    finished.export()
    own = finished.home / "models.yaml"
    own.write_text("base_models:  # short names\n  tiny: embedded:tiny\n", encoding="utf-8")
    assert cli("registry", "promote", "writer", "run-1").code == 0
    assert own.read_text(encoding="utf-8") == (
        "base_models:  # short names\n  tiny: embedded:tiny\n"
        'models:\n  writer:\n    model_name: "qwen3-sfd-analyzer-v2"\n'
    )
    assert "writer" in cli("registry", "show").out


def test_an_empty_registry_is_no_error(cli: Any) -> None:
    assert cli("registry", "show", "--json").json()["models"] == []
    assert cli("registry", "history", "--json").json() == {"events": []}
    assert "promote" in cli("registry", "show").err
    assert cli("registry", "rollback", "writer").code == 2


def test_verify_says_whole_with_exit_code_0_and_names_what_is_bad_with_1(cli: Any, finished: Any) -> None:
    folder = finished.export()
    for bundle in (folder, folder / "analyser.zip"):
        said = cli("verify", bundle)
        assert said.code == 0, said.err
        assert "Whole" in said.err
        assert "passed (f16, 32 prompts" in said.out
        assert cli("verify", bundle, "--json").json()["whole"] is True
    with (folder / "gguf" / "model.gguf").open("r+b") as file:
        file.seek(1000)
        file.write(b"flipped")
    said = cli("verify", folder)
    assert said.code == 1
    assert "gguf/model.gguf  has another SHA-256 than the manifest says" in said.out
    said = cli("verify", folder, "--json")
    assert said.code == 1
    assert json.loads(said.out)["bad"] == [
        {"path": "gguf/model.gguf", "problem": "has another SHA-256 than the manifest says"}
    ]


def test_verify_passes_no_escape_codes_on_to_the_terminal(cli: Any, finished: Any) -> None:
    folder = finished.export()
    parity = folder / "gguf" / "parity.json"
    told = json.loads(parity.read_text(encoding="utf-8"))
    told |= {"passed": False, "first_difference": "\x1b]0;owned\x07\x1b[2J\x9b1m", "quantization": "\x1b[1m"}
    parity.write_text(json.dumps(told), encoding="utf-8")
    said = cli("verify", folder)
    assert said.code == 1
    assert "owned" in said.err
    assert [code for code in "\x1b\x07\x9b" if code in said.out + said.err] == []


def test_verify_of_a_truncated_zip_is_one_clear_line(cli: Any, finished: Any) -> None:
    path = finished.export() / "analyser.zip"
    path.write_bytes(path.read_bytes()[:5000])
    said = cli("verify", path)
    assert said.code == 1
    assert "cut off or damaged" in said.out
    assert "Traceback" not in said.err
    assert cli("verify", path.with_name("none.zip")).code == 2
