"""Rules about the source itself, read from its syntax trees; each is seen to fail on a planted violation."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MAX_LINES = 500
MAX_STATEMENTS = 50
MAX_README_LINES = 40
VAGUE_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "core",
    "manager",
    "managers",
    "misc",
    "shared",
}
TEXT_SUFFIXES = {".py", ".yaml", ".yml", ".jinja", ".md", ".toml", ".json", ".txt", ".cfg", ""}
# A path under someone's home or a temporary folder, but not a part of a longer path or of an address.
MACHINE_PATH = re.compile(r"(?<![\w.~}/:-])/(?:home|root|Users|work|farm|tmp|private)/[\w.-]+")

Check = Callable[[Path], list[str]]


def modules(package: Path) -> Iterator[tuple[str, ast.Module, list[str]]]:
    """Path, tree and lines of every module, by path."""
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield path.relative_to(package).as_posix(), ast.parse(text), text.splitlines()


def long_files(package: Path) -> list[str]:
    """Modules over the cap."""
    return [f"{name}: {len(lines)} lines" for name, _, lines in modules(package) if len(lines) > MAX_LINES]


def statements(function: ast.AST) -> int:
    """Statements in a function, its docstring not counted."""
    return (
        sum(isinstance(node, ast.stmt) for node in ast.walk(function)) - 1 - bool(ast.get_docstring(function))
    )  # type: ignore[arg-type]


def long_functions(package: Path) -> list[str]:
    """Functions over the cap."""
    return [
        f"{name}:{node.lineno} {node.name}: {statements(node)} statements"
        for name, tree, _ in modules(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and statements(node) > MAX_STATEMENTS
    ]


def late_imports(package: Path) -> list[str]:
    """Imports that are not at the top of their module (or under TYPE_CHECKING): torch at the top or never."""
    found = []
    for name, tree, _ in modules(package):
        top = {id(node) for node in tree.body}
        for node in tree.body:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                top |= {id(inner) for inner in node.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in top:
                found.append(f"{name}:{node.lineno} {ast.unparse(node)}")
    return found


def relative_imports(package: Path) -> list[str]:
    """Imports with dots."""
    return [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, tree, _ in modules(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def prints(package: Path) -> list[str]:
    """Calls of print: only cli/output.py writes to stdout."""
    return [
        f"{name}:{node.lineno} print"
        for name, tree, _ in modules(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def vague_names(package: Path) -> list[str]:
    """Modules and packages whose name says nothing."""
    return [name for name, _, _ in modules(package) if VAGUE_NAMES & set(Path(name).with_suffix("").parts)]


def machine_paths(folder: Path) -> list[str]:
    """Paths of somebody's machine, in any text file."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in TEXT_SUFFIXES and path.stat().st_size < 1 << 20:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            found += [
                f"{path.name}:{n} {line.strip()}"
                for n, line in enumerate(lines, 1)
                if MACHINE_PATH.search(line)
            ]
    return found


CHECKS: dict[str, tuple[Check, str, str]] = {
    "a file of 501 lines": (long_files, "dataset/planted.py", "x = 1\n" * 501),
    "a function of 51 statements": (long_functions, "dataset/planted.py", "def f():\n" + "    x = 1\n" * 51),
    "torch inside a function": (late_imports, "training/planted.py", "def f():\n    import torch\n"),
    "torch inside try": (
        late_imports,
        "training/planted.py",
        "try:\n    import torch\nexcept ImportError:\n    pass\n",
    ),
    "a relative import": (relative_imports, "dataset/planted.py", "from . import split"),
    "a print": (prints, "training/planted.py", "print('loss')"),
    "a module named utils": (vague_names, "dataset/utils.py", "x = 1"),
    "a machine path": (machine_paths, "dataset/planted.py", "x = '/" + "home/someone/data'"),
}
RULES: list[Check] = list(dict.fromkeys(check for check, _, _ in CHECKS.values()))


@pytest.mark.parametrize("check", RULES, ids=lambda check: check.__name__)
def test_the_source_keeps_the_rule(check: Check, package: Path) -> None:
    assert check(package) == []


@pytest.mark.parametrize("case", CHECKS, ids=lambda case: case.replace(" ", "-"))
def test_a_planted_violation_is_found(case: str, plant: Callable[[str, str], Path]) -> None:
    check, module, code = CHECKS[case]
    found = check(plant(module, code))
    assert [line for line in found if Path(module).name in line], found


def test_no_machine_path_outside_the_package(repository: Path) -> None:
    folders = ("tests", "docs", "recipes", "benchmarks", "pretraining", ".ci")
    assert [line for name in folders for line in machine_paths(repository / name)] == []
    tops = [path for path in repository.iterdir() if path.is_file() and path.suffix in TEXT_SUFFIXES]
    assert [path.name for path in tops if MACHINE_PATH.search(path.read_text(encoding="utf-8"))] == []


def test_package_readmes_stay_short(package: Path) -> None:
    long = [
        path
        for path in package.rglob("README.md")
        # A model card says what it must.
        if "models" not in path.parts and len(path.read_text("utf-8").splitlines()) > MAX_README_LINES
    ]
    assert long == []
