"""A copy of the package to plant violations in: every check is seen to fail there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import finetuneflow

PACKAGE = Path(finetuneflow.__file__).parent
REPOSITORY = PACKAGE.parents[1]


def copy_package(destination: Path) -> Path:
    """The package's Python files, without its assets."""
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors", "tokenizer.json", "static", "models")
    shutil.copytree(PACKAGE, destination / "finetuneflow", ignore=ignored)
    return destination / "finetuneflow"


@pytest.fixture(scope="session")
def package() -> Path:
    """The package as it is."""
    return PACKAGE


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture
def plant(tmp_path: Path) -> Callable[[str, str], Path]:
    """A function that appends code to a module of a fresh copy and gives the copy."""
    copied: list[Path] = []

    def plant_code(module: str, code: str) -> Path:
        if not copied:
            copied.append(copy_package(tmp_path))
        path = copied[0] / module
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(f"{text}\n{code}\n", encoding="utf-8")
        return copied[0]

    return plant_code
