"""Greedy answers, as plain text, of models on other people's servers."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finetuneflow.errors import FineTuneFlowError
from finetuneflow.providers.ollama import OllamaClient
from finetuneflow.providers.ollama_server import OllamaError
from finetuneflow.providers.openai_compatible import ChatClient, EndpointError

NO_ROOM = re.compile(
    r"context (?:size|length|window)|maximum context|too (?:long|many tokens)|exceed\w* .*(?:context|token)",
    re.I,
)
"""How servers say that a prompt does not fit; none has a code for it that others share."""
RENAMED = {"max_tokens": "max_completion_tokens"}
OPTIONAL = ("seed", "temperature")
"""Parameters that some models refuse: without them they still answer, less repeatably."""


class ChatText(NamedTuple):
    """One answer."""

    text: str
    seconds: float
    """Without the time in which the server loaded the model, where it says so."""
    new_tokens: int | None
    stopped: bool
    """True when the model ended its turn, False when it was cut."""


class TextClient(ChatClient):
    """Plain text from an OpenAI-compatible server; retries and errors are those of `ChatClient`."""

    def __init__(self, base_url: str, model: str, **settings: Any) -> None:
        super().__init__(base_url, model, **settings)
        self._renamed: dict[str, str] = {}
        self.left_out: set[str] = set()
        """Parameters that this model refuses."""

    def complete(self, messages: Sequence[Mapping[str, str]], *, max_new_tokens: int, seed: int) -> ChatText:
        """The answer to a conversation at temperature 0. Raises EndpointError."""
        wanted: dict[str, Any] = {"temperature": 0, "max_tokens": max_new_tokens, "seed": seed}
        while True:
            body = {self._renamed.get(k, k): v for k, v in wanted.items() if k not in self.left_out}
            started = time.perf_counter()
            response = self._post({"model": self.model, "messages": list(messages), **body})
            seconds = time.perf_counter() - started
            if response.status_code in (400, 422) and self._adapt(response.text, body):
                continue
            if response.is_error or response.is_redirect:
                raise self._refused(response)
            return self._text(response.content, response.json, seconds)

    def _adapt(self, reason: str, sent: Mapping[str, Any]) -> bool:
        """Whether there is another way to ask a model that refuses a parameter."""
        for name, other in RENAMED.items():
            if name in sent and other in reason:
                self._renamed[name] = other
                return True
        refused = [name for name in OPTIONAL if name in sent and re.search(rf"\b{name}\b", reason)]
        self.left_out.update(refused)
        return bool(refused)

    def _text(self, content: bytes, read: Any, seconds: float) -> ChatText:
        try:
            reply = read()
            choice = reply["choices"][0]
            text = str(choice["message"]["content"] or "")
            usage = reply.get("usage") or {}
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise EndpointError(
                f"the model server {self._server} did not answer with a chat completion: "
                f"{' '.join(content[:80].decode('utf-8', 'replace').split())}",
                "check that the address is that of an OpenAI-compatible server, ending with /v1",
                code="endpoint_bad_answer",
            ) from error
        return ChatText(
            text, seconds, usage.get("completion_tokens"), choice.get("finish_reason") != "length"
        )


class OllamaText(OllamaClient):
    """Plain text from an Ollama server, with its count of tokens."""

    def complete(
        self, name: str, messages: Sequence[Mapping[str, str]], *, options: Mapping[str, Any]
    ) -> ChatText:
        """The answer to a conversation; a prompt that does not fit is an error, never cut.

        Raises OllamaError.
        """
        started = time.perf_counter()
        reply = self._json(
            "POST",
            "/api/chat",
            {
                "model": name,
                "messages": list(messages),
                "options": dict(options),
                "stream": False,
                "truncate": False,
                "shift": False,
                "keep_alive": "5m",
            },
        )
        seconds = time.perf_counter() - started
        message = reply.get("message")
        if not isinstance(message, dict):
            raise self._not_ollama()
        loading = float(reply.get("load_duration") or 0) / 1e9
        return ChatText(
            str(message.get("content") or ""),
            max(seconds - loading, 0.0),
            reply.get("eval_count"),
            reply.get("done_reason") != "length",
        )


def has_no_room(error: FineTuneFlowError) -> bool:
    """Whether a server refused a prompt for its length."""
    refused = error.code in ("endpoint_refused", "ollama_refused") or not isinstance(
        error, EndpointError | OllamaError
    )
    return refused and NO_ROOM.search(error.message) is not None
