"""The question as the retrieval arm asks it: passages first, then the question."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

Language = Literal["fr", "en"]


@cache
def _template(language: Language) -> Template:
    file = resources.files("finetuneflow.assets") / "prompts" / f"rag.{language}.jinja"
    text = file.read_text(encoding="utf-8")
    return ImmutableSandboxedEnvironment(autoescape=False).from_string(text)


def rag_prompt(question: str, passages: list[str], language: Language = "en") -> str:
    """The user turn: passages, best first, then the question; without passages, just the question."""
    if not passages:
        return question
    return _template(language).render(passages=passages, question=question)


def rag_messages(
    messages: list[dict[str, str]], passages: list[str], language: Language = "en"
) -> list[dict[str, str]]:
    """The conversation with its last user turn rewritten to carry the passages."""
    last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
    return [
        {**message, "content": rag_prompt(message["content"], passages, language)}
        if i == last
        else dict(message)
        for i, message in enumerate(messages)
    ]
