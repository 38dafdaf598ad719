"""An error report as Markdown, in French or English. What comes from a file is text, never markup."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache, partial
from importlib import resources
from typing import Any

import yaml
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetuneflow.schemas.error_report import Charter, ErrorReport, Language

CELL_CHARACTERS = 300
MATRIX_LABELS = 25
"""More labels than this do not fit across a page: the matrix then shows those with the most errors."""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of the text around them."""
_MARKUP = re.compile(r"[\\|`*\[\]#~$]|(?<![^\W_])_|_(?![^\W_])")
"""Also underscores, but for those inside words, which mean nothing."""
_LINKS = (
    (re.compile(r"://"), "&#58;//"),
    (re.compile(r"\bwww\.", re.I), "www&#46;"),
    (re.compile("@"), "&#64;"),
)
"""What viewers turn into links and mentions by themselves."""


@cache
def _catalogue() -> dict[str, Any]:
    text = resources.files("finetuneflow").joinpath("assets", "reports", "errors.yaml").read_text("utf-8")
    found: dict[str, Any] = yaml.load(text, Loader=_LOADER)  # noqa: S506 - both loaders are the safe ones
    return found


def reason(key: str, language: Language, **values: object) -> str:
    """A sentence of the catalogue, such as why a figure is missing."""
    shown = {name: thousands(value, language) for name, value in values.items()}
    sentence: str = _catalogue()[key][language]
    return sentence.format(**shown)


def render(
    report: ErrorReport,
    charter: Charter,
    *,
    examples: Sequence[str] = (),
    row_words: dict[str, Any] | None = None,
) -> str:
    """The report in Markdown, all sections always there.

    Args:
        report: The figures; its language is the Markdown's.
        charter: The one it was made with.
        examples: Training examples to show, one line of JSON each.
        row_words: What can be wrong with rows: `dropped` and `notices` of `assets/predictions.yaml`.
    """
    language = report.language
    environment = ImmutableSandboxedEnvironment(
        autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "cell": cell,
        "percent": partial(percent, language=language),
        "number": partial(number, language=language),
        "thousands": partial(thousands, language=language),
    }
    folder = resources.files("finetuneflow").joinpath("assets", "reports")
    template = environment.from_string(folder.joinpath(f"errors.{language}.md.jinja").read_text("utf-8"))
    shown, hidden = matrix_labels(report)
    text = template.render(
        report=report,
        charter=charter,
        charter_title=charter.title.say(language),
        examples=examples,
        words=row_words or {"dropped": {}, "notices": {}},
        shown=shown,
        hidden=hidden,
        unknown_labels=[name for name in report.labels if charter.labels and name not in charter.labels],
        metadata=json.dumps(report.metadata.model_dump(), ensure_ascii=False, indent=2),
    )
    head, mark, tail = text.partition("```jsonl")
    # only outside the examples: their lines are data
    tidy = partial(re.sub, r"\n{3,}", "\n\n")
    return (tidy(head) + mark + tidy(tail)).strip() + "\n"


def matrix_labels(report: ErrorReport) -> tuple[list[int], int]:
    """Which labels the printed matrix shows, as places in `report.labels`, and how many it leaves out."""
    size = len(report.labels)
    if size <= MATRIX_LABELS:
        return list(range(size)), 0
    errors = [score.predicted + score.support - 2 * score.correct for score in report.per_label]
    worst = sorted(range(size), key=lambda place: -errors[place])[:MATRIX_LABELS]
    return sorted(worst), size - MATRIX_LABELS


def cell(value: object) -> str:
    """Any text as one harmless line of Markdown: no table bars, HTML, links, emphasis, and not endless."""
    text = " ".join(_STEERING.sub(" ", str(value)).split())
    if len(text) > CELL_CHARACTERS:
        text = text[: CELL_CHARACTERS - 1] + "…"
    text = re.sub("^>", "&gt;", text.replace("&", "&amp;").replace("<", "&lt;"))
    text = _MARKUP.sub(r"\\\g<0>", text)
    for pattern, harmless in _LINKS:
        text = pattern.sub(harmless, text)
    return text


def number(value: float | None, form: str = ".3f", *, language: Language) -> str:
    """A number in the manner of the language; a dash for none."""
    if value is None:
        return "—"
    text = format(value, form)
    return text.replace(".", ",") if language == "fr" else text


def percent(share: float | None, *, language: Language) -> str:
    """A share as a percentage with one decimal; a dash for none."""
    if share is None:
        return "—"
    return number(share * 100, ".1f", language=language) + ("\u202f%" if language == "fr" else "%")


def thousands(value: object, language: Language) -> str:
    """A whole number with its thousands apart; anything else as it is."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace(",", "\u202f" if language == "fr" else ",")
    return str(value)
