"""A workspace of its own for every test, and small files to feed the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from finetuneflow.cli import app

CATALOGUE = """nom,descriptif,statut,domaine
Atlas,Cartographie des bâtiments publics,En production,Immobilier
Boréal,Gestion des congés des agents,En projet,Ressources humaines
Cigale,Suivi des marchés publics,En production,Achats
Delta,Messagerie des écoles,Arrêtée,Éducation
Écho,Archivage des délibérations,En production,Archives
"""


class Said(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


class Cli:
    """Runs command lines in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Said:
        """Runs one command line."""
        self._capsys.readouterr()
        code = app.run([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        return Said(code, out, err)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace."""
    home = tmp_path / "workspace"
    monkeypatch.setenv("FTF_HOME", str(home))
    monkeypatch.delenv("FTF_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return home


@pytest.fixture
def cli(workspace: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line over an empty workspace."""
    return Cli(capsys)


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """Five records."""
    path = tmp_path / "catalogue.csv"
    path.write_text(CATALOGUE, encoding="utf-8")
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Forty question-answer rows, the last one a duplicate."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is the status of application {number}?"},
                {"role": "assistant", "content": f"Application {number} is in state {number % 7}."},
            ]
        }
        for number in [*range(39), 38]
    ]
    path = tmp_path / "dataset.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
