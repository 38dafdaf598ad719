"""A thin client of Ollama's own API: what a deployment needs, every failure as one sentence.

The published Python client cannot ask for the version, uploads blobs that are there already, and takes a late
error line for success.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from finetuneflow.providers.ollama_server import OllamaError, is_loopback
from finetuneflow.providers.ollama_server import check_place as check_place  # whoever opens a client
from finetuneflow.providers.ollama_server import server_url as server_url  # needs these two first

BLOCK_BYTES = 1 << 20
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 600.0
"""Longest silence: loading a large model, or reading it at `create`, takes minutes."""
SHOWN_CHARACTERS = 300


class ChatAnswer(NamedTuple):
    """One answer of `/api/chat`."""

    text: str
    thinking: str
    """What a reasoning model wrote before it, which the server keeps apart."""
    cut: bool
    """True when the answer was cut at `num_predict`."""


class OllamaClient:
    """One server. To be closed (`with`). Every method raises OllamaError.

    Its codes: `ollama_unreachable`, `ollama_refused` (4xx), `ollama_not_found` (404), `ollama_digest`,
    `ollama_failed` (5xx, a broken connection, or a late error line).
    """

    def __init__(self, url: str, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.url = url
        self._http = httpx.Client(
            base_url=url,
            timeout=httpx.Timeout(answer_seconds, connect=min(CONNECT_SECONDS, answer_seconds)),
            follow_redirects=False,
            # A proxy of the environment would take the model off this machine.
            trust_env=not is_loopback(url),
        )

    def __enter__(self) -> OllamaClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.close()

    def version(self) -> str:
        """Version of the server, such as `0.34.1`."""
        try:
            answer = self._json("GET", "/api/version")
        except OllamaError as error:
            if error.code != "ollama_not_found":
                raise
            raise self._not_ollama() from error
        if not isinstance(answer.get("version"), str):
            raise self._not_ollama()
        return str(answer["version"])

    def has_blob(self, digest: str) -> bool:
        """True when the server holds a file with that `sha256:…`."""
        with self._errors("look for the file"):
            response = self._http.head(f"/api/blobs/{digest}")
        if response.status_code == 404:
            return False
        self._raise_for(response, "look for the file")
        return True

    def upload_blob(
        self, path: Path, digest: str, *, on_progress: Callable[[int, int], None] | None = None
    ) -> int:
        """Sends a file in blocks and gives its size; the server checks the digest.

        `on_progress` hears bytes sent and bytes in all; what it raises ends the upload.
        """
        size = path.stat().st_size
        with self._errors("send the model"):
            response = self._http.post(
                f"/api/blobs/{digest}",
                content=_blocks(path, size, on_progress),
                headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"},
            )
        if response.status_code == 400 and "digest" in response.text:
            raise OllamaError(
                f"`{path}` is not the file that was exported: {_reason(response)}",
                "it was changed or damaged since; export again",
                code="ollama_digest",
            )
        self._raise_for(response, "send the model")
        return size

    def create(self, body: Mapping[str, Any], *, on_status: Callable[[str], None] | None = None) -> None:
        """Makes or replaces a model. An error line is a failure, also late and with status 200."""
        doing = f"create `{body['model']}`"
        last = ""
        with self._errors(doing), self._http.stream("POST", "/api/create", json=dict(body)) as response:
            if not response.is_success:
                response.read()
                self._raise_for(response, doing)
            for line in _objects(response):
                if "error" in line:
                    raise OllamaError(f"the Ollama server could not {doing}: {_shown(line['error'])}", _LOG)
                last = str(line.get("status", ""))
                if on_status is not None:
                    on_status(last)
        if last != "success":
            raise OllamaError(f"the Ollama server stopped half-way: it could not {doing}", _LOG)

    def names(self) -> list[str]:
        """Names of the models that the server has, each with its tag."""
        models = self._json("GET", "/api/tags").get("models")
        return [str(model["name"]) for model in models if "name" in model] if isinstance(models, list) else []

    def show(self, name: str) -> dict[str, Any]:
        """What the server knows of a model: `parameters`, `template`, `system`, `details`."""
        return self._json("POST", "/api/show", {"model": name})

    def chat(
        self, name: str, messages: Sequence[Mapping[str, str]], *, options: Mapping[str, Any]
    ) -> ChatAnswer:
        """The answer to a conversation, whole; a prompt that does not fit is an error, never cut."""
        answer = self._json(
            "POST",
            "/api/chat",
            {
                "model": name,
                "messages": list(messages),
                "options": dict(options),
                "stream": False,
                "truncate": False,
                "shift": False,
                "keep_alive": "1m",
            },
        )
        message = answer.get("message")
        if not isinstance(message, dict):
            raise self._not_ollama()
        text, thinking = (str(message.get(key) or "") for key in ("content", "thinking"))
        return ChatAnswer(text, thinking, answer.get("done_reason") == "length")

    def delete(self, name: str) -> None:
        """Removes a model, and its files where no other model uses them."""
        self._json("DELETE", "/api/delete", {"model": name})

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        doing = f"answer {path}"
        with self._errors(doing):
            response = self._http.request(method, path, json=None if body is None else dict(body))
        self._raise_for(response, doing)
        if not response.content:
            return {}
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._not_ollama()
        if "error" in answer:
            raise OllamaError(f"the Ollama server could not {doing}: {_shown(answer['error'])}", _LOG)
        return answer

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Turns a broken connection into one sentence."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise OllamaError(
                f"no Ollama server answers at {self.url}",
                "start one with `ollama serve`, or give its address with --url",
                code="ollama_unreachable",
            ) from error
        except httpx.TimeoutException as error:
            raise OllamaError(f"the Ollama server took too long to {doing}", _LOG) from error
        except httpx.TransportError as error:
            raise OllamaError(
                f"the Ollama server broke the connection: it could not {doing}",
                "its disk may be full; see its own log",
            ) from error

    def _raise_for(self, response: httpx.Response, doing: str) -> None:
        if response.is_success:
            return
        status, reason = response.status_code, _reason(response)
        message = f"the Ollama server could not {doing} ({status}): {reason}"
        if status == 404:
            raise OllamaError(message, "`ollama list` shows the models that it has", code="ollama_not_found")
        if status >= 500:
            raise OllamaError(message, "its disk may be full; see its own log")
        raise OllamaError(message, _LOG, code="ollama_refused")

    def _not_ollama(self) -> OllamaError:
        return OllamaError(
            f"what answers at {self.url} is not an Ollama server",
            "give the address of one with --url",
            code="ollama_refused",
        )


_LOG = "see the server's own log"


def _blocks(path: Path, size: int, on_progress: Callable[[int, int], None] | None) -> Iterator[bytes]:
    done = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block
            done += len(block)
            if on_progress is not None:
                on_progress(done, size)


def _objects(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The lines of a stream as objects; a line that is none counts as an error."""
    for line in response.iter_lines():
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        yield value if isinstance(value, dict) else {"error": f"it said `{line[:80]}`"}


def _reason(response: httpx.Response) -> str:
    try:
        return _shown(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return _shown(response.text or response.reason_phrase)


def _shown(text: object) -> str:
    """The server's own words, one line."""
    return " ".join(str(text).split())[:SHOWN_CHARACTERS]
