"""The chat template of a model folder, and what it writes. Jinja in a sandbox, no transformers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetuneflow.errors import ModelError
from finetuneflow.modeling.tokenize import plain_template

TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"


class GenerationTag(Extension):
    """`{% generation %}`, which marks what is learnt and writes nothing."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """The body by itself."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def read_chat_template(folder: Path, *, begins: bool) -> str:
    """The template that training used: the model's own, or the plain one when it has none.

    Args:
        folder: With the tokenizer's files.
        begins: Whether the tokenizer puts a beginning-of-sequence token before a text.

    Raises:
        ModelError: the tokenizer's configuration cannot be read.
    """
    own = folder / TEMPLATE
    if own.is_file():
        return own.read_text(encoding="utf-8")
    stored = read_json(folder / TOKENIZER_CONFIG).get("chat_template")
    if isinstance(stored, list):
        stored = {entry["name"]: entry["template"] for entry in stored}.get("default")
    if isinstance(stored, str):
        return stored
    return plain_template(begins=begins)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is no such file.

    Raises:
        ModelError: not JSON.
    """
    if not path.is_file():
        return {}
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"`{path}` cannot be read", "the download may be incomplete") from error
    return data


def render(template: str, messages: list[dict[str, str]], *, prompt: bool, **variables: str) -> str:
    """A conversation as text.

    Args:
        template: Jinja source.
        messages: Role and content of each turn.
        prompt: True to end with the opening of an assistant turn.
        variables: What the template may name, such as `bos_token`.

    Raises:
        ModelError: the template is broken, or refuses the conversation.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda layout: datetime.now(UTC).strftime(layout)
    try:
        return environment.from_string(template).render(
            messages=messages, add_generation_prompt=prompt, **variables
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise ModelError(
            f"the model's chat template fails: {error}", "correct its chat_template.jinja"
        ) from error


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise TemplateError(message)
