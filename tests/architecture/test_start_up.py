"""`finetuneflow --help` is quick and light; both checks are seen to fail on a planted import."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FORBIDDEN = ("torch", "transformers", "fastapi", "sqlalchemy", "pydantic", "numpy", "pyarrow", "rich.table")
LIMIT_SECONDS = 0.300
ROUNDS = 20
SHOW_MODULES = """
import sys
from finetuneflow.cli.app import main
try:
    main(["--help"])
except SystemExit as end:
    assert not end.code
sys.stderr.write("\\n".join(sys.modules))
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with the package in `folder` before any other."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )


def forbidden_modules(folder: Path) -> set[str]:
    """The heavy packages that the help of the package in `folder` imports."""
    return set(FORBIDDEN) & set(run(folder, "-c", SHOW_MODULES).stderr.splitlines())


def help_seconds(folder: Path, rounds: int = ROUNDS) -> float:
    """Least processor time of `--help` over some runs: what the wall clock shows on an idle machine.

    The wall clock itself would measure whoever else uses the machine while the tests run.
    """
    best = float("inf")
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(folder, "-m", "finetuneflow", "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        if best < LIMIT_SECONDS:
            break
    return best


def test_help_imports_nothing_heavy(package: Path) -> None:
    assert forbidden_modules(package.parent) == set()


def test_help_takes_less_than_300_milliseconds(package: Path) -> None:
    seconds = help_seconds(package.parent)
    assert seconds < LIMIT_SECONDS, (
        f"{1000 * seconds:.0f} ms; see `python -X importtime -m finetuneflow --help`"
    )


@pytest.mark.parametrize("name", ["torch", "sqlalchemy"])
def test_a_planted_import_is_found(name: str, plant: Callable[[str, str], Path]) -> None:
    assert name in forbidden_modules(plant("cli/output.py", f"import {name}").parent)


def test_a_planted_delay_is_found(plant: Callable[[str, str], Path]) -> None:
    busy = f"import time\nwhile time.process_time() < {LIMIT_SECONDS}:\n    pass"
    assert help_seconds(plant("cli/output.py", busy).parent, rounds=2) > LIMIT_SECONDS
