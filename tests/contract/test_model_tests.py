"""`pytest -p finetuneflow.services.model_tests --model NAME`, with answerers that are made up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PLUGINS = ("-p", "stand_in", "-p", "finetuneflow.services.model_tests", "-p", "no:cacheprovider")

# `perfect` meets what can be copied from the suite; `mute` says nothing; `half` is right every other time.
STAND_IN = """
from contextlib import contextmanager
from finetuneflow.errors import NotFoundError
from finetuneflow.evaluation.forgetting_suite import suite
from finetuneflow.services import forgetting

RIGHT = {item.messages[0]["content"]: item.value for item in suite()}
RIGHT |= {f"What is {n} + {n}?": str(2 * n) for n in range(100)}

@contextmanager
def open_answerer(context, model, *, base=False, max_new_tokens=96, ollama_url=""):
    if model not in ("perfect", "half", "mute"):
        raise NotFoundError(f"there is no run `{model}`", "look again")
    step = {"perfect": 1, "half": 2, "mute": 10**9}[model]
    yield lambda asked: [
        RIGHT.get(turns[-1]["content"], "") if place % step == 0 and step < 10**9 else ""
        for place, turns in enumerate(asked)
    ]

forgetting.open_answerer = open_answerer
"""


def model_tests(folder: Path, *arguments: str, expected: int) -> str:
    """What pytest says when it is run on a model in an empty folder."""
    (folder / "stand_in.py").write_text(STAND_IN, encoding="utf-8")
    rows = [
        {"messages": [
            {"role": "user", "content": f"What is {n} + {n}?"},
            {"role": "assistant", "content": str(2 * n)},
        ]}
        for n in range(40)
    ]  # fmt: skip
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGINS, "-rs", *arguments],
        cwd=empty,
        env=os.environ | {"PYTHONPATH": str(folder), "FTF_HOME": str(folder / "home"), "COLUMNS": "250"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_model_that_lost_something_fails_the_families_and_says_how_much(tmp_path: Path) -> None:
    said = model_tests(tmp_path, "--model", "mute", "--baseline", "perfect", expected=1)
    for family in ("arithmetic", "copying", "json", "echo", "constraints"):
        assert f"test_the_model_still_does_what_its_base_does[{family}]" in said
    assert "100.0% → 0.0% of 44 requests (44 lost, 0 won, p = " in said
    assert "5 failed, 5 skipped" in said
    assert "no questions to ask: add --dataset FILE" in said
    assert "Traceback" not in said


def test_a_model_that_lost_nothing_and_answers_well_passes(tmp_path: Path) -> None:
    questions = str(tmp_path / "questions.jsonl")
    said = model_tests(
        tmp_path, "--model", "perfect", "--baseline", "half", "--dataset", questions, expected=0
    )
    assert "7 passed, 3 skipped" in said


def test_a_model_that_is_no_better_than_its_baseline_fails_with_figures(tmp_path: Path) -> None:
    questions = str(tmp_path / "questions.jsonl")
    one_file = "finetuneflow.services.model_tests.test_model_accuracy"
    said = model_tests(
        tmp_path,
        *("--pyargs", one_file, "--model", "half", "--baseline", "half", "--dataset", questions),
        expected=1,
    )
    assert "50.0% (35.2% to 64.8%) of 40 answers are right, more than 85.0% are asked for" in said
    assert "question: What is 1 + 1?" in said
    assert "+0.0 points (at least 5.0 are asked for), p = 1" in said
    assert "2 failed, 1 skipped" in said


def test_an_unknown_model_is_one_clear_error(tmp_path: Path) -> None:
    said = model_tests(tmp_path, "--model", "nothing", expected=2)
    assert "error: there is no run `nothing`" in said
    assert "hint: look again" in said


def test_without_a_name_nothing_is_asked(tmp_path: Path) -> None:
    package = "finetuneflow.services.model_tests"
    said = model_tests(tmp_path, "--pyargs", f"{package}.test_model_regression", expected=0)
    assert "no model is named: add --model NAME" in said
    assert "7 skipped" in said
