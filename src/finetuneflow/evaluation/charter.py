"""Charters: shipped ones by name, a user's own by path."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from finetuneflow.errors import InputError, NotFoundError
from finetuneflow.schemas.error_report import Charter, CharterConfusion

GENERIC = "generic"
SUFFIXES = (".yaml", ".yml")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def shipped_charters() -> list[str]:
    """Names of the charters in the package."""
    folder = resources.files("finetuneflow").joinpath("assets", "charters")
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def charter_text(name: str) -> str:
    """The YAML of a shipped charter.

    Raises:
        NotFoundError: there is none of that name; the hint names the nearest.
    """
    names = shipped_charters()
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean `{nearest[0]}`? " if nearest else ""
        raise NotFoundError(
            f"no charter `{name}`",
            f"{hint}shipped are {', '.join(names)}; your own is a path to a .yaml file",
        )
    folder = resources.files("finetuneflow").joinpath("assets", "charters")
    return folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def load_charter(name: str | Path) -> Charter:
    """A charter by name, or by the path of a YAML file.

    Raises:
        NotFoundError: no such name or file.
        InputError: the file is no charter; names the key.
    """
    path = Path(name)
    if path.suffix.lower() not in SUFFIXES and not path.is_file():
        return Charter.model_validate(yaml.load(charter_text(str(name)), Loader=_LOADER))  # noqa: S506
    if not path.is_file():
        hint = f"check the path; shipped charters are {', '.join(shipped_charters())}"
        raise NotFoundError(f"no such charter file: {path}", hint)
    try:
        return Charter.model_validate(yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER))  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else None
        hint = "begin with `finetuneflow errors charters generic > charter.yaml`"
        raise InputError("not valid YAML", hint, path=path, line=line, code="charter_invalid") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "the file"
        hint = "begin with `finetuneflow errors charters generic > charter.yaml`"
        message = f"`{place}`: {problem['msg'].lower()}"
        raise InputError(message, hint, path=path, code="charter_invalid") from error


def choose_charter(labels: Iterable[str]) -> Charter:
    """The shipped charter that knows all the labels, else the generic one."""
    wanted = set(labels)
    for name in shipped_charters():
        charter = load_charter(name)
        if wanted and wanted <= set(charter.labels):
            return charter
    return load_charter(GENERIC)


def known_confusion(charter: Charter, predicted: str, gold: str) -> CharterConfusion | None:
    """What the charter says of a confusion."""
    for confusion in charter.confusions:
        if confusion.predicted == predicted and confusion.gold == gold:
            return confusion
    return None
