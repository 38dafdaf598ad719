"""The installed product, run as a user runs it: commands in a workspace of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def _run(
    home: Path, *arguments: object, timeout: float = 900, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FTF_HOME": str(home), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "finetuneflow", *map(str, arguments)],
        env=environment,
        input=stdin or "",
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
        cwd=home.parent,
    )


@pytest.fixture(scope="session")
def run_in() -> Run:
    """Runs one command with its workspace in the folder given first."""
    return _run


@pytest.fixture(scope="session")
def json_of() -> Callable[[subprocess.CompletedProcess[str]], Any]:
    """Reads what a command printed on stdout, after it ended well."""

    def read(process: subprocess.CompletedProcess[str]) -> Any:
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout)

    return read


@pytest.fixture
def finetuneflow(tmp_path: Path) -> Run:
    """Runs commands that share one new workspace."""

    def run(*arguments: object, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        return _run(tmp_path / "workspace", *arguments, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets, which are not part of the repository."""
    folder = Path(os.environ.get("FTF_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; set FTF_SHARED_DATA")
    return folder
