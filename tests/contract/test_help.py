"""The command line's surface: one checked-in text per command. A change is seen in review."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from finetuneflow.cli import app

SNAPSHOTS = Path(__file__).parent / "help"
UPDATE = "FTF_UPDATE_SNAPSHOTS"
FIX = f"look at the difference; if it is meant, run {UPDATE}=1 python -m pytest tests/contract/test_help.py"


def all_commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group with the words that lead to it; hidden ones left out."""
    yield path, command
    if isinstance(command, TyperGroup):
        for name in command.list_commands(None):  # type: ignore[arg-type]
            child = command.get_command(None, name)  # type: ignore[arg-type]
            if child is not None and not child.hidden:
                yield from all_commands(child, (*path, name))


COMMANDS = dict(all_commands(get_command(app.app)))
LEAVES = {path: command for path, command in COMMANDS.items() if not isinstance(command, TyperGroup)}


def help_of(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """What `finetuneflow … --help` prints."""
    assert app.run([*path, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: "-".join(path) or "root")
def test_the_help_is_the_one_that_is_checked_in(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    snapshot = SNAPSHOTS / f"{'-'.join(path) or 'finetuneflow'}.txt"
    text = help_of(path, capsys)
    if os.environ.get(UPDATE):
        snapshot.parent.mkdir(exist_ok=True)
        snapshot.write_text(text, encoding="utf-8")
    assert snapshot.exists(), FIX
    assert text == snapshot.read_text(encoding="utf-8"), FIX


def test_no_snapshot_is_left_of_a_command_that_is_gone() -> None:
    known = {"-".join(path) or "finetuneflow" for path in COMMANDS}
    assert sorted(path.stem for path in SNAPSHOTS.glob("*.txt") if path.stem not in known) == []


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: "-".join(path))
def test_every_command_has_json_and_an_example_of_itself(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(path, capsys)
    assert "--json" in text
    assert f"finetuneflow {' '.join(path)}" in text.split("Examples:")[1]


def test_the_commands_of_the_first_issue_are_there() -> None:
    words = (
        "demo|doctor|train|evaluate|compare|export|chat|predict|dataset from-records|dataset from-documents|"
        "dataset validate|dataset deduplicate|dataset split|dataset stats|dataset coverage|dataset convert|"
        "runs list|runs show|runs cancel|runs resume"
    )
    assert [word for word in words.split("|") if tuple(word.split()) not in LEAVES] == []
