"""What Ollama is told about a model: as a request to its API, and as the Modelfile that says the same.

Both come from one `Modelfile`, so that what is registered and what is written down cannot part.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from finetuneflow.errors import UsageError

PARAMETERS: dict[str, type] = {
    "num_ctx": int,
    "num_predict": int,
    "draft_num_predict": int,
    "num_keep": int,
    "num_batch": int,
    "num_gpu": int,
    "main_gpu": int,
    "num_thread": int,
    "repeat_last_n": int,
    "seed": int,
    "top_k": int,
    "temperature": float,
    "top_p": float,
    "min_p": float,
    "typical_p": float,
    "repeat_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "use_mmap": bool,
    "stop": list,
}
"""Parameters that Ollama knows, and what each takes; `stop` may be given more than once."""
AS_TRAINED = {"repeat_penalty": 1.0}
"""Servers before August 2026 punish every repeated token by 1.1 unless the model says otherwise."""
CONTEXT_TOKENS = 4096
"""Context window that Ollama gives a model that asks for none, on most machines."""
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(
    rf"(?:(?:[A-Za-z0-9_][A-Za-z0-9_.:-]{{0,349}}/)?[A-Za-z0-9_][A-Za-z0-9_-]{{0,79}}/)?{_PART}(?::{_PART})?"
)
_QUOTES_AT_LINE_END = re.compile(r'"""(?=[ \t]*[\r\n])')
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Modelfile:
    """A model for Ollama."""

    gguf: str = "model.gguf"
    """File name, beside the Modelfile."""
    adapter: str | None = None
    """File name of a LoRA adapter as GGUF; servers from 0.34.1 on refuse it."""
    system: str | None = None
    template: str | None = None
    """A Go template instead of the chat template in the file."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None

    def all_parameters(self) -> dict[str, Any]:
        """What was asked for, and what keeps the server's own defaults from changing the answers."""
        return {**AS_TRAINED, **self.parameters}


def window(max_seq_length: int) -> int:
    """Context window to ask for, tokens: what training used, and no less than other models get.

    Ollama drops the earliest turns of a conversation that is longer, and says nothing.
    """
    return max(max_seq_length, CONTEXT_TOKENS)


def render(model: Modelfile) -> str:
    """The Modelfile, for `ollama create NAME -f Modelfile`; it says where it cannot hold a text exactly."""
    texts = (("SYSTEM", model.system), ("TEMPLATE", model.template), ("LICENSE", model.license))
    lines = [f"# {word}: {loss}" for word, text in texts for loss in losses(text or "")]
    lines.append(f"FROM ./{model.gguf}")
    if model.adapter:
        lines.append(f"ADAPTER ./{model.adapter}")
    for name, value in model.all_parameters().items():
        for one in value if isinstance(value, list) else [value]:
            lines.append(f"PARAMETER {name} {_parameter(one)}")
    lines += [f'{word} """{as_read(text)}"""' for word, text in texts if text]
    return "\n".join(lines) + "\n"


def create_body(model: Modelfile, name: str, digests: Mapping[str, str]) -> dict[str, Any]:
    """The body of `POST /api/create`; `digests` holds `sha256:…` by file name."""
    body: dict[str, Any] = {
        "model": name,
        "files": {model.gguf: digests[model.gguf]},
        "parameters": model.all_parameters(),
        "stream": True,
    }
    if model.adapter:
        body["adapters"] = {model.adapter: digests[model.adapter]}
    for key in ("system", "template", "license"):
        if text := getattr(model, key):
            body[key] = text
    return body


def as_read(text: str) -> str:
    """A text as Ollama would read it back from a Modelfile, which has no way to escape anything.

    Its parser drops what Unicode calls not printable, so a no-break space would glue two words together:
    spaces of every kind become plain ones here. Three quotes at the end of a line would end the text.
    """
    kept = "".join(
        " " if _is_space(character) else character
        for character in text
        if _is_space(character) or _is_kept(character)
    )
    return _QUOTES_AT_LINE_END.sub("'''", kept)


def losses(text: str) -> list[str]:
    """What a Modelfile cannot say of a text, in words; the API can say all of it."""
    found = []
    if any(_is_space(character) for character in text):
        found.append("no-break and other special spaces are written as plain ones")
    if any(not _is_space(character) and not _is_kept(character) for character in text):
        found.append("invisible characters are left out")
    if _QUOTES_AT_LINE_END.search(text):
        found.append("three double quotes at the end of a line are written as single ones")
    return found


def _is_space(character: str) -> bool:
    return character != " " and unicodedata.category(character) in ("Zs", "Zl", "Zp")


def _is_kept(character: str) -> bool:
    return character in " \t\r\n" or unicodedata.category(character)[0] in "LMNPS"


def _parameter(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
    text = as_read(value)
    return f'"""{text}"""' if '"' in text or "\n" in text or "\r" in text else f'"{text}"'


def parse_parameters(pairs: Iterable[str]) -> dict[str, Any]:
    """Parameters given as `name=value`. Raises UsageError for what Ollama does not know."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UsageError(f"`{pair}` is not NAME=VALUE", "write it as `temperature=0.7`")
        if name == "stop":
            values.setdefault("stop", []).append(text)
        else:
            values[name] = text.strip()
    return check_parameters(values)


def check_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with the type that Ollama wants of each. Raises UsageError naming the one that is wrong."""
    return {name: _checked(name, value) for name, value in values.items()}


def _checked(name: str, value: Any) -> Any:
    kind = PARAMETERS.get(name)
    if kind is None:
        nearest = difflib.get_close_matches(name, PARAMETERS, n=1)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"it knows {', '.join(PARAMETERS)}"
        raise UsageError(f"Ollama has no parameter `{name}`", hint, code="ollama_parameter")
    if kind is list:
        texts = list(value) if isinstance(value, list | tuple) else [value]
        if all(isinstance(text, str) and text for text in texts):
            return texts
    elif kind is bool:
        known = _BOOLEANS.get(str(value).lower())
        if known is not None:
            return known
    elif not isinstance(value, bool):
        with suppress(TypeError, ValueError, OverflowError):
            number = kind(value)
            if math.isfinite(number) and (isinstance(value, str) or number == value):
                return number
    words = {int: "a whole number", float: "a number", bool: "true or false", list: "a text"}
    raise UsageError(
        f"the parameter `{name}` takes {words[kind]}, not `{value}`",
        f"write it as `{name}={'0.7' if kind is float else 4096 if kind is int else '…'}`",
        code="ollama_parameter",
    )


def check_name(name: str) -> str:
    """A name under which Ollama can keep a model. Raises UsageError with the nearest good one."""
    if _NAME.fullmatch(name) and ".." not in name:
        return name
    raise UsageError(
        f"`{name}` is no name for a model in Ollama",
        f"letters, digits, `-`, `_` and `.`, then perhaps a tag after a colon: `{name_from(name)}`",
        code="ollama_name",
    )


def name_from(text: str) -> str:
    """A name that Ollama takes, from any text: `Modèle n° 2` becomes `modele-n-2`."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"\.{2,}|[^a-z0-9._-]+", "-", plain)[:80].strip("-._")
    return name or "model"


def full_name(name: str) -> str:
    """A name with its tag, as the server lists it."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
