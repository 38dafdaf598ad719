"""`finetuneflow errors`: the report of a small file in both languages, word for word, and its JSON twin."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from finetuneflow.cli import errors as command
from finetuneflow.cli.output import say_error
from finetuneflow.errors import FineTuneFlowError
from finetuneflow.services import errors

HERE = Path(__file__).parent
PREDICTIONS = HERE / "predictions.jsonl"
TRAINING = HERE / "training.jsonl"
UPDATE = "FTF_UPDATE_SNAPSHOTS"
SECTIONS = {
    "fr": (
        "## Contexte",
        "## Statistiques globales",
        "## Métriques par label",
        "## Matrice de confusion (prédiction → gold)",
        "## Données d'entraînement (format JSONL)",
        "## Analyse des erreurs",
        "### Top 5 confusions les plus fréquentes",
        "**Cause probable**",
        "**Exemples typiques**",
        "**Action recommandée**",
        "### Distribution des erreurs par confiance",
        "**Alerte**",
        "### Erreurs semblables",
        "### Annotations à vérifier",
        "### Contradictions avec les données d'entraînement",
        "## Exemples d'annotations d'experts",
        "## Recommandations pour le fine-tuning",
        "## Suivi de performance",
        "## Métadonnées techniques",
    ),
    "en": (
        "## Context",
        "## Overall figures",
        "## Figures per label",
        "## Confusion matrix (prediction → gold)",
        "## Training data (JSONL)",
        "## Error analysis",
        "### The five most frequent confusions",
        "**Probable cause**",
        "**Typical examples**",
        "**Recommended action**",
        "### Errors by confidence",
        "**Alarm**",
        "### Similar errors",
        "### Annotations to check",
        "### Contradictions with the training data",
        "## Expert annotations",
        "## Recommendations for fine-tuning",
        "## Performance",
        "## Technical metadata",
    ),
}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `finetuneflow errors …` as the program does: code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        program = get_command(command.app)
        try:
            code = program.main([str(one) for one in arguments], "finetuneflow errors", standalone_mode=False)
        except FineTuneFlowError as error:
            say_error(error.message, error.hint)
            code = error.exit_code
        said = capsys.readouterr()
        return code or 0, said.out, said.err

    return call


@pytest.mark.parametrize("language", ["fr", "en"])
def test_the_report_is_the_one_that_is_checked_in(
    language: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "utc_now", lambda: "2026-11-21T00:00:00.000+00:00")
    monkeypatch.setattr(errors, "__version__", "0")
    out = tmp_path / "report.md"
    code, _, said = run("report", PREDICTIONS, "--lang", language, "--out", out)
    assert code == 0, said
    text = out.read_text(encoding="utf-8")
    snapshot = HERE / f"report.{language}.md"
    if os.environ.get(UPDATE):
        snapshot.write_text(text, encoding="utf-8")
    assert text == snapshot.read_text(encoding="utf-8"), f"if it is meant, run with {UPDATE}=1"


@pytest.mark.parametrize("language", ["fr", "en"])
def test_every_section_is_there_in_the_order_of_the_document(language: str, run: Run) -> None:
    _, text, _ = run("report", PREDICTIONS, "--lang", language)
    places = [text.find(section) for section in SECTIONS[language]]
    assert -1 not in places, [section for section in SECTIONS[language] if section not in text]
    assert places == sorted(places)


def test_the_json_twin_has_the_figures(run: Run) -> None:
    _, out, _ = run("report", PREDICTIONS, "--json")
    report = json.loads(out)
    assert (report["rows"], report["kept"], report["correct"], report["errors"]) == (10, 8, 4, 4)
    assert report["dropped"] == {"missing_gold": 1, "json_invalid": 1}
    assert report["accuracy"] == 0.5
    assert report["kappa"] == pytest.approx(23 / 55)
    assert {(one["predicted"], one["gold"]) for one in report["confusions"]} == {
        ("OUVERTURE", "ENGAGEMENT"),
        ("REFLET_ACQ", "ENGAGEMENT"),
        ("REFLET_VOUS", "EXPLICATION"),
        ("∅", "REFLET_ACQ"),
    }
    assert report["metadata"]["charter"] == "counselling"
    assert report["language"] == "fr"
    assert "NaN" not in out


def test_dropped_rows_are_named_with_file_line_and_remedy(run: Run) -> None:
    _, _, said = run("report", PREDICTIONS, "--out", "report.md")
    assert f"{PREDICTIONS}:9: there is no gold label" in said
    assert "annotate the row" in said
    assert f"{PREDICTIONS}:10: not valid JSON" in said
    assert f"correct disagrees (first: {PREDICTIONS}:8)" in said


def test_the_markdown_holds_the_training_examples(run: Run) -> None:
    _, text, _ = run("report", PREDICTIONS)
    block = re.search(r"```jsonl\n(.*?)\n```", text, re.DOTALL)
    assert block is not None
    examples = [json.loads(line) for line in block[1].splitlines()]
    assert [one["metadata"]["turnId"] for one in examples] == [101, 103, 105, 107]


def test_extract_writes_every_error_as_the_document_says(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "training_data.jsonl"
    code, said, _ = run("extract", PREDICTIONS, "--out", out)
    assert code == 0
    assert said == "4 examples of 10 rows (4 right, 2 dropped)\n"
    rows: list[dict[str, Any]] = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    first = rows[0]
    assert [turn["role"] for turn in first["messages"]] == ["system", "user", "assistant"]
    assert "1. action du conseiller à la première personne" in first["messages"][0]["content"]
    assert 'Tour -1: "j\'attends un remboursement"' in first["messages"][1]["content"]
    assert first["messages"][2]["content"].startswith("Le tag correct est **ENGAGEMENT**.")
    assert "ENGAGEMENT > OUVERTURE > REFLET_VOUS" in rows[2]["messages"][0]["content"]
    assert first["metadata"]["algo"] == {
        "classifier": "regex",
        "model": "v3",
        "type": "rules",
        "provider": "local",
        "temperature": 0.1,
        "max_tokens": 64,
    }


def test_charters_are_listed_and_shown(run: Run, tmp_path: Path) -> None:
    code, listed, _ = run("charters")
    assert code == 0
    assert "counselling" in listed
    assert "generic" in listed
    _, text, _ = run("charters", "generic")
    own = tmp_path / "own.yaml"
    own.write_text(text, encoding="utf-8")
    assert run("report", PREDICTIONS, "--charter", own, "--out", "report.md")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "absent.jsonl"], "no such file"),
        (["report", PREDICTIONS, "--charter", "counseling"], "no charter `counseling`"),
        (["report", PREDICTIONS, "--mapping", "absent.yaml"], "no such mapping file"),
        (["extract", PREDICTIONS, "--out", "x.csv"], "written as JSON lines"),
    ],
)
def test_what_cannot_be_done_is_said_with_a_way_out(arguments: list[object], message: str, run: Run) -> None:
    code, out, said = run(*arguments)
    assert code == 2
    assert out == ""
    assert message in said
    assert "hint:" in said


def test_without_scikit_learn_the_report_says_what_is_left_out(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else real(name))
    code, text, _ = run("report", PREDICTIONS, "--lang", "en", "--training", TRAINING)
    assert code == 0
    assert text.count("scikit-learn is not installed") == 3
    assert "## Technical metadata" in text


def test_the_command_starts_light() -> None:
    code = "import sys, finetuneflow.cli.errors; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "sklearn", "scipy", "pyarrow", "sqlalchemy", "safetensors"}
    assert heavy & set(done.stdout.split()) == set()


def test_training_data_that_taught_an_error_is_named(run: Run) -> None:
    _, out, _ = run("report", PREDICTIONS, "--training", TRAINING, "--json")
    (conflict,) = json.loads(out)["training_conflicts"]
    assert (conflict["line"], conflict["training_line"], conflict["training_label"]) == (3, 2, "REFLET_ACQ")


def test_examples_shown_are_bounded_and_counted(run: Run) -> None:
    _, text, _ = run("report", PREDICTIONS, "--max-examples", 1)
    assert text.count('{"messages"') == 1
    assert "1 sur 4 exemples" in text


def test_a_long_analysis_says_how_far_it_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "TELL_EVERY_SECONDS", 0.0)
    _, out, said = run("report", PREDICTIONS, "--out", "report.md")
    assert "  figures: 8 rows" in said
    assert "figures:" not in out


def test_the_same_seed_gives_the_same_report(run: Run) -> None:
    first, second = (json.loads(run("report", PREDICTIONS, "--json")[1]) for _ in range(2))
    for one in (first, second):
        one["metadata"].pop("extraction_date")
    assert first == second


@pytest.mark.slow
def test_ten_thousand_rows_take_less_than_three_seconds(tmp_path: Path) -> None:
    source, out = tmp_path / "predictions.jsonl", tmp_path / "report.md"
    benchmark = Path(__file__).parents[3] / "benchmarks" / "errors.py"
    runpy.run_path(str(benchmark))["write_predictions"](source, 10_000)
    code = "import sys, finetuneflow.cli.errors as e; sys.argv[0] = 'errors'; e.app()"
    arguments = [sys.executable, "-c", code, "report", str(source), "--out", str(out), "--lang", "fr"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(arguments, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # the wall clock would measure whoever else uses the machine
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 3
    text = out.read_text(encoding="utf-8")
    assert [section for section in SECTIONS["fr"] if section not in text] == []
