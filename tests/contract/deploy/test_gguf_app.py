"""What stands before llama.cpp: how many may wait, and clients that go away; llama.cpp is a stand-in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette

from finetuneflow.deploy.gguf_server import MAX_IN_FLIGHT, Child, new_gguf_app

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class StandIn:
    """Never ends an answer; knows who still listens."""

    def __init__(self) -> None:
        self.listening = 0
        self.reached = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l"))
        body = json.loads(await reader.readexactly(length))
        self.listening += 1
        self.reached += 1
        if body.get("stream"):
            writer.write(HEAD + b"b\r\ndata: {}\n\n\n\r\n")
            await writer.drain()
        await reader.read()  # until the other side closes
        self.listening -= 1
        writer.close()


class Client:
    """A request to an application, as its server makes it."""

    def __init__(self, app: Starlette, **body: Any) -> None:
        self.sent: list[Any] = []
        self._body: bytes | None = json.dumps({"messages": []} | body).encode()
        self._gone = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": "POST",
            "path": "/v1/chat/completions",
            "query_string": b"",
            "headers": [],
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    async def leave(self) -> None:
        """Goes away."""
        self._gone.set()
        await asyncio.wait_for(self.task, 5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def with_app(test: Callable[[Starlette, StandIn], Awaitable[None]]) -> None:
    async def go() -> None:
        stand_in = StandIn()
        server = await asyncio.start_server(stand_in, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        app = new_gguf_app(Child(f"http://127.0.0.1:{port}", "llama.cpp", "key"), name="mine")
        async with server, app.router.lifespan_context(app):
            await test(app, stand_in)
            await until(lambda: stand_in.listening == 0)

    asyncio.run(go())


def test_a_client_that_goes_away_is_no_longer_answered() -> None:
    async def test(app: Starlette, llama_cpp: StandIn) -> None:
        for stream in (False, True):
            client = Client(app, stream=stream)
            await until(lambda: llama_cpp.listening == 1)
            if stream:
                await until(lambda client=client: len(client.sent) > 1)  # type: ignore[misc]
            await client.leave()
            await until(lambda: llama_cpp.listening == 0)
        assert llama_cpp.reached == 2

    with_app(test)


def test_too_many_at_once_are_sent_away_until_one_leaves() -> None:
    async def test(app: Starlette, llama_cpp: StandIn) -> None:
        clients = [Client(app, stream=bool(number % 2)) for number in range(MAX_IN_FLIGHT)]
        await until(lambda: llama_cpp.listening == MAX_IN_FLIGHT)
        for freed in clients[:2]:  # one that waits for a whole answer, one that hears it grow
            refused = Client(app)
            await asyncio.wait_for(refused.task, 5)
            start, body = refused.sent
            assert start["status"] == 503
            assert (b"retry-after", b"1") in start["headers"]
            assert json.loads(body["body"])["error"]["code"] == "overloaded"
            await freed.leave()
            clients.append(Client(app))
            await until(lambda: llama_cpp.listening == MAX_IN_FLIGHT)
        assert llama_cpp.reached == MAX_IN_FLIGHT + 2
        for client in clients[2:]:
            await client.leave()

    with_app(test)
