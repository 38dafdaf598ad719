"""The import contracts of pyproject.toml hold, and each of them is seen to fail on a planted violation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# contract -> (module that breaks it, line planted there, what the report must say)
VIOLATIONS = {
    "Doors, services, jobs and store, stages, modeling, artifacts, schemas, errors": [
        (
            "schemas/planted.py",
            "import finetuneflow.artifacts",
            "finetuneflow.schemas.planted -> finetuneflow.artifacts",
        ),
        (
            "jobs/planted.py",
            "import finetuneflow.services.runs",
            "finetuneflow.jobs.planted -> finetuneflow.services.runs",
        ),
        # Two stages side by side must not meet.
        (
            "dataset/planted.py",
            "import finetuneflow.ingest",
            "finetuneflow.dataset.planted -> finetuneflow.ingest",
        ),
        # A new package must be given a place.
        ("helpers/__init__.py", "", "finetuneflow.helpers"),
    ],
    "The light half imports no heavy package": [
        ("dataset/heavy.py", "def late() -> None:\n    import torch", "finetuneflow.dataset.heavy -> torch"),
        ("ingest/heavy.py", "import transformers", "finetuneflow.ingest.heavy -> transformers"),
    ],
    "Only services touch the store": [
        (
            "cli/planted.py",
            "import finetuneflow.store.tables",
            "finetuneflow.cli.planted -> finetuneflow.store.tables",
        ),
    ],
    "Only the store speaks SQL": [
        ("services/planted.py", "import sqlalchemy", "finetuneflow.services.planted -> sqlalchemy"),
    ],
    "Only the API and the servers of deployed models speak HTTP to others": [
        ("services/web.py", "import fastapi", "finetuneflow.services.web -> fastapi"),
    ],
    "Only the CLI imports typer and rich": [
        ("training/planted.py", "import rich.progress", "finetuneflow.training.planted -> rich"),
    ],
}
CASES = [(contract, *violation) for contract, planted in VIOLATIONS.items() for violation in planted]

LINT = """
import sys
from importlinter.cli import lint_imports
sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))
"""


def lint(folder: Path, configuration: Path) -> str:
    """The report of import-linter on the package in `folder`."""
    environment = os.environ | {"PYTHONPATH": str(folder), "NO_COLOR": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", LINT, str(configuration)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{done.stdout}\n{done.stderr}\nexit {done.returncode}"


def test_the_package_keeps_every_contract(package: Path, repository: Path) -> None:
    report = lint(package.parent, repository / "pyproject.toml")
    assert "exit 0" in report, f"run `lint-imports` to see this report\n{report}"
    assert " 0 broken" in report


@pytest.fixture(scope="module")
def broken_report(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> str:
    """One report on a copy in which every violation is planted."""
    folder = tmp_path_factory.mktemp("planted")
    ignored = shutil.ignore_patterns("__pycache__", "assets/*")
    shutil.copytree(repository / "src" / "finetuneflow", folder / "finetuneflow", ignore=ignored)
    for _, module, code, _ in CASES:
        path = folder / "finetuneflow" / module
        path.parent.mkdir(exist_ok=True)
        path.write_text(code + "\n", encoding="utf-8")
    shutil.copy(repository / "pyproject.toml", folder)
    return lint(folder, folder / "pyproject.toml")


@pytest.mark.parametrize(("contract", "module", "code", "said"), CASES, ids=[case[1] for case in CASES])
def test_a_planted_import_breaks_its_contract(
    broken_report: str, contract: str, module: str, code: str, said: str
) -> None:
    assert re.search(rf"{re.escape(contract)}\s+BROKEN", broken_report), broken_report
    section = broken_report.split("Broken contracts")[1].split(contract)[1]
    assert said in section, broken_report


def test_every_contract_has_a_planted_violation(repository: Path) -> None:
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    contracts = re.findall(r'\[\[tool\.importlinter\.contracts\]\]\nid = "\w+"\nname = "([^"]+)"', text)
    assert sorted(contracts) == sorted(VIOLATIONS)
