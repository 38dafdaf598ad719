"""A GGUF file behind OpenAI's HTTP contract: llama.cpp answers, this stands at its door.

llama.cpp's own server knows neither where a web page comes from nor which name it was called by, so it runs
as a child on a private address with a key that nobody else has; without a `temperature` the answer is greedy,
as the model was evaluated.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from finetuneflow.artifacts import sha256_file
from finetuneflow.deploy.connection import Places, client_gone
from finetuneflow.deploy.guard import HEALTH, Refused, new_app, read_json
from finetuneflow.deploy.serve_request import ServeRequest
from finetuneflow.errors import ModelError
from finetuneflow.modeling.llama_cpp import start_llama

MAX_BODY_BYTES = 4 << 20
PARALLEL = 2
"""Answers given at the same time; further requests wait inside llama.cpp."""
MAX_IN_FLIGHT = 64
"""Requests answered or waiting; one more is sent away for now."""
CLIENT_GONE = 499
"""Status of an answer that nobody reads."""
ANSWER_SECONDS = 600.0
"""Longest silence of llama.cpp in the middle of an answer."""
DEFAULTS = {
    "temperature": 0.0,
    # What the model thinks aloud stays in the text, where training had it.
    "reasoning_format": "none",
}


class Child(NamedTuple):
    """A llama.cpp that has the model loaded."""

    address: str
    runtime: str
    key: str


@contextmanager
def open_llama_server(path: Path, *, name: str) -> Iterator[Child]:
    """llama.cpp's server in a process that ends with this one.

    Raises:
        DependencyError: xllamacpp is not installed.
        ModelError: llama.cpp cannot load the file, with what it said.
    """
    arguments = [f"--alias={name}", f"--parallel={PARALLEL}"]
    with start_llama(path, arguments, reason="to serve a GGUF model") as started:
        yield Child(started.address, started.runtime, started.key)


def new_gguf_app(child: Child, *, name: str) -> Starlette:
    """The application in front of a llama.cpp server."""
    client = httpx.AsyncClient(
        base_url=child.address,
        headers={"Authorization": f"Bearer {child.key}"},
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=5.0, pool=None),
        limits=httpx.Limits(max_connections=None),
        trust_env=False,  # a proxy has no business between this process and its child
    )

    async def send(method: str, path: str, body: bytes | None = None) -> httpx.Response:
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            return await client.send(
                client.build_request(method, path, content=body, headers=headers), stream=True
            )
        except httpx.HTTPError as error:
            raise Refused(502, "llama.cpp does not answer: start the server again") from error

    def passed_on(reply: httpx.Response) -> Response:
        return StreamingResponse(
            reply.aiter_raw(),
            reply.status_code,
            media_type=reply.headers.get("content-type"),
            background=BackgroundTask(reply.aclose),
        )

    async def complete(request: Request) -> Response:
        body = await read_json(request, max_bytes=MAX_BODY_BYTES)
        given = {key: value for key, value in body.items() if value is not None}
        sending = asyncio.create_task(send("POST", request.url.path, json.dumps(DEFAULTS | given).encode()))
        gone = asyncio.create_task(client_gone(request))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            return passed_on(sending.result()) if sending.done() else Response(status_code=CLIENT_GONE)
        finally:
            # llama.cpp stops when the connection is closed.
            sending.cancel()
            gone.cancel()

    async def models(_: Request) -> Response:
        return passed_on(await send("GET", "/v1/models"))

    async def health(_: Request) -> Response:
        try:
            reply = await client.get("/health")
        except httpx.HTTPError as error:
            raise Refused(503, "llama.cpp does not answer: start the server again") from error
        status = "ok" if reply.is_success else "unavailable"
        body = {"status": status, "model": name, "runtime": child.runtime}
        return JSONResponse(body, 200 if reply.is_success else 503)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    app = new_app(
        [
            Route("/v1/chat/completions", complete, methods=["POST"]),
            Route("/v1/completions", complete, methods=["POST"]),
            Route("/v1/models", models),
            Route(HEALTH, health),
        ],
        lifespan,
    )
    app.add_middleware(Places, at_most=MAX_IN_FLIGHT)
    return app


@contextmanager
def open_app(request: ServeRequest) -> Iterator[tuple[Starlette, str]]:
    """Application and runtime of a GGUF file.

    Raises:
        DependencyError, ModelError: llama.cpp is missing or cannot load it, or it is not what was checked.
    """
    path = Path(request.gguf or "")
    if request.sha256 is not None and path.is_file() and sha256_file(path) != request.sha256:
        raise ModelError(
            f"`{path}` is not the file that was checked: its SHA-256 is another one",
            "it was changed or damaged since; export again",
        )
    with open_llama_server(path, name=request.name) as child:
        yield new_gguf_app(child, name=request.name), child.runtime
