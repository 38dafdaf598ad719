"""A small server that speaks the published contract of chat completions."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Reply = tuple[int, dict[str, str], Any]


class FakeServer:
    """Answers with the replies in order, the last one again and again; keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    def says(self, content: str, *, finish_reason: str = "stop") -> None:
        """Adds a completion."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": content},
            "finish_reason": finish_reason,
        }
        body = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
        }
        self.replies.append((200, {}, body))

    def fails(self, status: int, message: str = "no", **headers: str) -> None:
        """Adds an error in OpenAI's shape."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.replies.append((status, named, {"error": {"message": message, "type": "x", "code": None}}))


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            server.requests.append(
                json.loads(self.rfile.read(int(self.headers["Content-Length"]))) | {"_path": self.path}
            )
            server.headers.append(dict(self.headers))
            status, headers, body = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def chat_server() -> Iterator[FakeServer]:
    """A running server on a free local port."""
    fake = FakeServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def waits() -> list[float]:
    """Seconds that a client would have slept."""
    return []


@pytest.fixture
def sleep(waits: list[float]) -> Callable[[float], None]:
    """Stands in for `time.sleep`."""
    return waits.append
