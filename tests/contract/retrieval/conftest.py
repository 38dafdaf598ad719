"""A server that speaks the published contract of OpenAI's embeddings, as Ollama does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

WORDS = {"cat": 0, "feline": 0, "chat": 0, "car": 1, "lorry": 1, "rain": 2}


class FakeEmbeddings:
    """Texts as counts of ideas; faults to order."""

    def __init__(self) -> None:
        self.url = ""
        self.models = ["nomic-embed-text"]
        self.statuses: list[int] = []
        """Refusals before the first answer."""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Any = None
        """What it says in place of the embeddings."""

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path != "/v1/embeddings":
            return 404, {"error": {"message": "404 page not found", "type": "api_error"}}
        if self.statuses:
            return self.statuses.pop(0), {"error": {"message": "busy", "type": "api_error"}}
        if body["model"] not in self.models:
            return 404, {"error": {"message": f'model "{body["model"]}" not found', "type": "api_error"}}
        if self.answer is not None:
            return 200, self.answer
        data = [
            {"object": "embedding", "index": index, "embedding": self._row(text)}
            for index, text in enumerate(body["input"])
        ]
        # the contract has an index, so the order of the list means nothing
        return 200, {"object": "list", "model": body["model"], "data": data[::-1], "usage": {}}

    def _row(self, text: str) -> list[float]:
        row = [0.1, 0.1, 0.1]
        for word in text.lower().replace(".", " ").split():
            if word in WORDS:
                row[WORDS[word]] += 5
        return row


@pytest.fixture
def embeddings() -> Iterator[FakeEmbeddings]:
    """A running server on a free local port."""
    fake = FakeEmbeddings()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.requests.append(body)
            fake.headers.append(dict(self.headers))
            status, answer = fake.reply(self.path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()
