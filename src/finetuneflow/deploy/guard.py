"""What every request to a served model passes first, and how it is refused: errors have OpenAI's shape."""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from finetuneflow.deploy.serve_request import is_loopback

HEALTH = "/health"
"""The one path that needs no key: whoever balances the load has none."""


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code


def error_body(refused: Refused) -> dict[str, Any]:
    """The error as OpenAI's clients read it."""
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    return {"error": {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}}


def error_response(refused: Refused) -> JSONResponse:
    """The error as a response."""
    headers = {
        401: {"WWW-Authenticate": "Bearer"},
        429: {"Retry-After": "1"},
        503: {"Retry-After": "1"},
    }.get(refused.status)
    return JSONResponse(error_body(refused), refused.status, headers=headers)


async def read_json(request: Request, *, max_bytes: int) -> dict[str, Any]:
    """The JSON object in a request's body; never more than `max_bytes` of it are held.

    Raises:
        Refused: too long, not JSON, not an object, or text that is not Unicode.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise Refused(
                413, f"the body is longer than {max_bytes:,} bytes: send less at once", code="body_too_long"
            )
    try:
        text = data.decode()  # `json.loads` would guess at bytes, and let half a surrogate pair through
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the body is not JSON in UTF-8", code="invalid_json") from error
    if not isinstance(value, dict):
        raise Refused(400, "the body must be a JSON object", code="invalid_json")
    return value


class Guard:
    """Lets through who has the key, and no web page of another site."""

    def __init__(self, app: ASGIApp, *, host: str, api_key: str | None) -> None:
        self._app = app
        self._loopback = is_loopback(host)
        self._key = api_key.encode() if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with an error, or hands the request on."""
        if scope["type"] == "http":
            refused = self._refusal(scope["method"], scope["path"], Headers(scope=scope))
            if refused is not None:
                await error_response(refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, method: str, path: str, headers: Headers) -> Refused | None:
        if self._key is not None and path != HEALTH:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._key):
                return Refused(
                    401, "a valid API key is needed: `Authorization: Bearer KEY`", code="invalid_api_key"
                )
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            called = urlsplit(f"//{host}").hostname or ""
            page = None if origin is None else urlsplit(origin).netloc
        except ValueError:
            return Refused(400, "`Host` or `Origin` is no address")
        # A page that gave its own name our address (DNS rebinding) still sends its own name.
        if self._loopback and not is_loopback(called):
            return Refused(403, f"this server answers to 127.0.0.1 and localhost, not to `{host[:80]}`")
        if page is not None and page != host:
            return Refused(403, "web pages of other origins are not served")
        # Browsers send JSON to another site only after asking, and we never say yes.
        if method == "POST" and headers.get("content-type", "").partition(";")[0].strip().lower() != (
            "application/json"
        ):
            return Refused(415, "send JSON with `Content-Type: application/json`")
        return None


def new_app(routes: Sequence[Route], lifespan: Lifespan[Starlette] | None = None) -> Starlette:
    """An application that tells every error in the same shape."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, Refused):
            return error_response(error)
        if isinstance(error, HTTPException):
            message = f"{request.method} {request.url.path}: {error.detail}"
            return error_response(Refused(error.status_code, message))
        return error_response(Refused(500, "the server failed on this request"))

    handlers: dict[Any, Any] = {Refused: refused, HTTPException: refused, Exception: refused}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
