"""What the check of a GGUF file found, in sentences of the catalogue, in the order of their causes."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

SHOWN_CHARACTERS = 60


@cache
def wordings() -> dict[str, Any]:
    """Sentences by language."""
    text = (resources.files("finetuneflow.assets") / "reports" / "parity.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


class Findings:
    """Failures, and the first difference: what causes another is looked at before it."""

    def __init__(self, language: Literal["en", "fr"]) -> None:
        self._wording = wordings()[language]
        self._refused: set[str] = set()
        self.failures: list[str] = []
        self.first_difference: str | None = None

    def fail(self, key: str, **values: Any) -> None:
        """Adds a failure."""
        sentence = self._wording[key].format(**values)
        if sentence not in self.failures:
            self.failures.append(sentence)

    def differ(self, key: str, *, cause: str = "", **values: Any) -> None:
        """Notes where the two sides part, unless an earlier difference is known.

        Args:
            key: Sentence of the catalogue.
            cause: Key of the likely cause.
            values: What the sentence names.
        """
        if self.first_difference is None:
            values["cause"] = self._wording["causes"].get(cause, cause)
            self.first_difference = self._wording[key].format(**values)

    def refuse(self, key: str, *, cause: str = "", **values: Any) -> None:
        """Notes a difference that is a failure by itself, the first of its kind."""
        self.differ(key, cause=cause, **values)
        if key not in self._refused:
            self._refused.add(key)
            self.fail(key, cause=self._wording["causes"].get(cause, cause), **values)


def shown(text: str) -> str:
    """A text in quotes, in one line and not endless."""
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…")


def around(text: str, position: int) -> str:
    """What stands at a position of a text, with a little of what surrounds it."""
    cut = text[max(position - 12, 0) : position + 12]
    return repr(cut) if position < len(text) else f"{cut!r} (and nothing more)"


def first_unlike(one: Any, other: Any) -> int:
    """First position where two sequences differ, or the shorter one's length."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
