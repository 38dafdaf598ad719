"""The client at the other end: how many may wait, and that one went away."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from finetuneflow.deploy.guard import Refused, error_response


async def client_gone(request: Request) -> None:
    """Returns when the client has gone away; the body of the request must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Places:
    """Lets in so many questions at a time, from their first byte to the last one of the answer."""

    def __init__(self, app: ASGIApp, *, at_most: int) -> None:
        self._app = app
        self._free = at_most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request on, or sends it away for now."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif not self._free:
            full = Refused(503, "too many requests are waiting: try again in a moment", code="overloaded")
            await error_response(full)(scope, receive, send)
        else:
            self._free -= 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._free += 1


class EventStream(StreamingResponse):
    """Server-sent events that say when they are over, also when nobody was left to hear the first one."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterable[str], *, on_end: Callable[[], None]) -> None:
        super().__init__(events)
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()
