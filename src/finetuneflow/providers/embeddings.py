"""A client for servers that speak OpenAI's embeddings, Ollama among them: texts as vectors, with retries."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray

from finetuneflow.errors import UsageError
from finetuneflow.providers.ollama_server import is_loopback
from finetuneflow.providers.openai_compatible import RETRIED, EndpointError, reason_of, wait_seconds


class EmbeddingClient:
    """Vectors of one model on one server.

    `base_url` ends with the version, such as `http://localhost:11434/v1`. To be closed (`with`).
    """

    query_prefix: str | None = None
    passage_prefix: str | None = None

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
                "give one such as http://localhost:11434/v1",
                code="endpoint_url_invalid",
            )
        # without a password: it is shown in messages and hashed into names
        self._server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self.model = model
        self.identity = f"{self._server}#{model}"
        self._max_retries = max_retries
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=base_url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_seconds, connect=min(10.0, timeout_seconds)),
            follow_redirects=False,
            trust_env=not is_loopback(base_url),
        )

    def __enter__(self) -> EmbeddingClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.close()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row of length 1 for each text (texts, dimensions).

        Errors: EndpointError `endpoint_unreachable`, `endpoint_refused`, `endpoint_failed`,
        `endpoint_bad_answer`.
        """
        if not texts:
            return np.zeros((0, 0), np.float32)
        response = self._post({"model": self.model, "input": list(texts), "encoding_format": "float"})
        if not response.is_success:
            raise self._refused(response)
        try:
            data = sorted(response.json()["data"], key=lambda item: item["index"])
            rows = np.array([item["embedding"] for item in data], dtype=np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise self._bad_answer("did not answer with embeddings") from error
        if rows.ndim != 2 or len(rows) != len(texts) or not rows.shape[1]:
            raise self._bad_answer(f"gave {len(rows)} vectors for {len(texts)} texts")
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not lengths.all():
            raise self._bad_answer("gave a vector that is zero or not a number")
        return np.asarray(rows / lengths, dtype=np.float32)

    def _post(self, body: dict[str, object]) -> httpx.Response:
        """The response, after retries of what may pass."""
        for attempt in range(self._max_retries + 1):
            last = attempt == self._max_retries
            try:
                response = self._http.post("embeddings", json=body)
            except httpx.TransportError as error:
                if last or isinstance(error, httpx.UnsupportedProtocol):
                    raise EndpointError(
                        f"the model server {self._server} cannot be reached ({attempt + 1} attempts)",
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
        hint = "check the address, the model name and the server's own log"
        if status in (401, 403):
            hint = "check the API key"
        elif status == 404:
            hint = (
                f"check that the address ends with /v1 and that the server has `{self.model}` "
                f"(Ollama: `ollama pull {self.model}`)"
            )
        code = "endpoint_failed" if status >= 500 else "endpoint_refused"
        message = f"the model server {self._server} answered {status}: {reason_of(response)}"
        return EndpointError(message, hint, code=code)

    def _bad_answer(self, what: str) -> EndpointError:
        return EndpointError(
            f"the model server {self._server} {what}",
            f"check that `{self.model}` is an embedding model",
            code="endpoint_bad_answer",
        )
