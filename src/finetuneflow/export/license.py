"""The licence that a model inherits from its base."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import yaml

NAMES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "USE_POLICY.md")
FRONT_MATTER = "---\n"
LONGEST = 1 << 20


class License(NamedTuple):
    """What is known of a licence."""

    id: str | None
    """As model cards name it, such as `apache-2.0`."""
    text: str | None


def base_license(folder: Path, reference: str) -> License:
    """The licence in a model's folder: its own text, else a sentence with what the model card names."""
    named = _card_license(folder / "README.md")
    texts = [_read(folder / name).strip() for name in NAMES if (folder / name).is_file()]
    text = "\n\n".join(filter(None, texts))
    if not text and named:
        text = f"The base model, {reference}, is under this licence: {named}"
    return License(named, text + "\n" if text else None)


def _read(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(LONGEST)


def _card_license(path: Path) -> str | None:
    """What the head of a model card gives as `license`."""
    text = _read(path) if path.is_file() else ""
    end = text.find("\n" + FRONT_MATTER, len(FRONT_MATTER) - 1)
    if not text.startswith(FRONT_MATTER) or end < 0:
        return None
    try:
        head = yaml.safe_load(text[len(FRONT_MATTER) : end + 1])
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that is none
        return None
    named = head.get("license") if isinstance(head, dict) else None
    return str(named) if named else None
