"""A client for servers that speak OpenAI's chat completions: answers as JSON after a schema, with retries."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from finetuneflow.errors import FineTuneFlowError, UsageError

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_LONGEST_WAIT_SECONDS = 60.0
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)


class EndpointError(FineTuneFlowError):
    """A model server that cannot be reached, refuses, or answers something else than asked for."""

    code = "endpoint_failed"


class ChatClient:
    """Chat completions of one model on one server.

    `base_url` ends with the version, such as `http://localhost:8000/v1`. To be closed (`with`).
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 120.0,
        max_retries: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                f"`{base_url}` is not the address of a model server",
                "give one such as http://localhost:8000/v1",
                code="endpoint_url_invalid",
            )
        self.model = model
        self._server = (
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"  # without a password, for messages
        )
        self._max_retries = max_retries
        self._sleep = sleep
        self._formats = ["json_schema", "json_object", "text"]
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=base_url.rstrip("/") + "/",
            headers=headers,
            timeout=httpx.Timeout(timeout_seconds, connect=min(10.0, timeout_seconds)),
            follow_redirects=False,
        )

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def complete_json(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        schema: Mapping[str, Any],
        name: str,
        temperature: float = 0.2,
        max_tokens: int = 2048,
        seed: int | None = None,
    ) -> dict[str, Any]:
        """The model's answer as a JSON object.

        The schema is sent as `response_format`; a server that does not know it is asked for plain JSON from
        then on. Errors: EndpointError `endpoint_unreachable`, `endpoint_refused`, `endpoint_rate_limited`,
        `endpoint_failed`, `endpoint_bad_answer`.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        if seed is not None:
            body["seed"] = seed
        while True:
            response = self._post({**body, **_response_format(self._formats[0], name, schema)})
            if response.status_code in (400, 422) and len(self._formats) > 1:
                self._formats.pop(0)
                continue
            if response.is_error or response.is_redirect:
                raise self._refused(response)
            return self._object(response)

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        """The response, after retries of what may pass."""
        for attempt in range(self._max_retries + 1):
            last = attempt == self._max_retries
            try:
                response = self._http.post("chat/completions", json=body)
            except httpx.TransportError as error:
                if last or isinstance(error, httpx.UnsupportedProtocol):
                    kind = (
                        "did not answer in time"
                        if isinstance(error, httpx.TimeoutException)
                        else "cannot be reached"
                    )
                    raise EndpointError(
                        f"the model server {self._server} {kind} ({attempt + 1} attempts)",
                        "check that it runs and that the address is right",
                        code="endpoint_unreachable",
                    ) from error
                self._sleep(wait_seconds(attempt, None))
                continue
            if response.status_code not in RETRIED or last:
                return response
            self._sleep(wait_seconds(attempt, response.headers.get("retry-after")))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _refused(self, response: httpx.Response) -> EndpointError:
        status = response.status_code
        code, hint = "endpoint_refused", "check the address, the model name and the server's own log"
        if status in (401, 403):
            hint = "check the API key"
        elif status == 404:
            hint = f"check that the address ends with /v1 and that the server has a model `{self.model}`"
        elif status == 429:
            code, hint = "endpoint_rate_limited", "wait, or ask for fewer questions at a time"
        elif status >= 500:
            code, hint = "endpoint_failed", "see the server's own log"
        message = f"the model server {self._server} answered {status}: {reason_of(response)}"
        return EndpointError(message, hint, code=code)

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        """The object in the first choice; also one between words or code fences."""
        try:
            choice = response.json()["choices"][0]
            content = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise EndpointError(
                f"the model server {self._server} did not answer with a chat completion",
                "check that the address is that of an OpenAI-compatible server, ending with /v1",
                code="endpoint_bad_answer",
            ) from error
        if choice.get("finish_reason") == "length":
            raise EndpointError(
                "the model's answer was cut off by the token limit",
                "ask for fewer questions at a time",
                code="endpoint_bad_answer",
            )
        found = _OBJECT.search(content or "")
        try:
            value = json.loads(found.group() if found else "")
        except ValueError as error:
            raise EndpointError(
                "the model did not answer with JSON",
                "use a larger model, or ask again",
                code="endpoint_bad_answer",
            ) from error
        return dict(value)


def _response_format(kind: str, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    if kind == "json_schema":
        wanted = {"name": name, "schema": dict(schema), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": wanted}}
    return {"response_format": {"type": "json_object"}} if kind == "json_object" else {}


def wait_seconds(attempt: int, retry_after: str | None) -> float:
    """What the server asks for, else 0.5, 1, 2 … seconds with some chance, at most a minute."""
    try:
        asked = float(retry_after) if retry_after else -1.0
    except ValueError:  # a date
        asked = -1.0
    if asked >= 0:
        return min(asked, _LONGEST_WAIT_SECONDS)
    wait = 0.5 * (1 << attempt) * (0.75 + random.random() / 2)  # noqa: S311 - spreads retries, no secret
    return min(wait, _LONGEST_WAIT_SECONDS)


def reason_of(response: httpx.Response) -> str:
    """The server's own words, one line."""
    try:
        error = response.json()["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        text = response.text or response.reason_phrase
    return " ".join(str(text).split())[:200]
