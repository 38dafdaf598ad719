"""Sentences for people out of a catalogue, with figures written as English or French does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

Language = Literal["en", "fr"]


class Sentences:
    """One catalogue of `assets/reports` in one language; `values` fill every sentence."""

    def __init__(
        self, catalogue: str, language: Language, values: Mapping[str, object] | None = None
    ) -> None:
        self.language = language
        self.texts = _catalogue(catalogue)[language]
        self.values: dict[str, object] = dict(values or {})

    def __call__(self, key: str, **more: object) -> str:
        """The sentence of that key, filled in."""
        return str(self.texts[key]).format(**(self.values | more))

    def number(self, text: str) -> str:
        """Digits with the decimal mark of the language."""
        return text.replace(".", ",") if self.language == "fr" else text

    def p(self, value: float) -> str:
        """A p-value, two digits."""
        return self.number(f"{value:.2g}")

    def percent(self, share: float) -> str:
        """A share, one decimal."""
        # a narrow no-break space before the sign is French typography
        return self.number(f"{share:.1%}").replace("%", "\u202f%" if self.language == "fr" else "%")

    def points(self, difference: float, *, sign: Literal["+", "-"] = "-") -> str:
        """A difference of shares in points; `+` shows the sign of a gain, too."""
        value = f"{difference * 100:{sign}.1f}".removesuffix(".0")
        return f"{self.number(value)} points"


@cache
def _catalogue(name: str) -> dict[str, dict[str, Any]]:
    text = (resources.files("finetuneflow.assets") / "reports" / f"{name}.yaml").read_text(encoding="utf-8")
    catalogue: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return catalogue
