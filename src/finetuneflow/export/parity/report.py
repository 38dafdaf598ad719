"""The check of a GGUF file for people: one Markdown page from a Jinja template. Pure: no torch."""

from __future__ import annotations

import re
from functools import partial
from importlib import resources
from typing import Literal

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetuneflow.export.report import cell, number, percent
from finetuneflow.schemas.export import ParityResult

LISTED = 20
"""Prompts in the table; all of them are in the JSON."""


def render_parity(result: ParityResult, language: Literal["en", "fr"] = "en") -> str:
    """The check as a Markdown page: verdict, figures beside what is asked for, and the prompts."""
    comma = language == "fr"
    environment = ImmutableSandboxedEnvironment(
        autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "line": line,
        "number": partial(number, comma=comma),
        "percent": partial(percent, comma=comma),
    }
    folder = resources.files("finetuneflow.assets") / "reports"
    template = (folder / f"parity.{language}.md.jinja").read_text(encoding="utf-8")
    # What differs comes first; a long table says no more than a short one, and all of it is in the JSON.
    prompts = [prompt for prompt in result.examples if prompt.max_logprob_difference is not None]
    listed = sorted(prompts, key=lambda prompt: bool(prompt.continuation_equal and prompt.top1_equal))
    text = environment.from_string(template).render(result=result, shown=listed[:LISTED])
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def line(text: str, longest: int = 60) -> str:
    """Any text as one harmless line of Markdown, cut where it gets long."""
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    return " ".join(cell(word) for word in cut.split())
