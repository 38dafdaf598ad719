"""Whoever is asked the forgetting suite by name: here a model of an Ollama server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, cast

import pytest

from finetuneflow.errors import FineTuneFlowError, UsageError
from finetuneflow.evaluation.forgetting_suite import ask, suite
from finetuneflow.services.context import Context
from finetuneflow.services.forgetting import open_answerer

NO_CONTEXT = cast(Context, None)
RIGHT = {item.messages[0]["content"]: item.value for item in suite()}


class Server(HTTPServer):
    """Answers `/api/chat` as Ollama does, for a model that copies well."""

    asked: list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        cast(Server, self.server).asked.append({"path": self.path, **body})
        known = body["model"] == "copyist"
        answer: dict[str, Any] = {"error": f"model '{body['model']}' not found"}
        if known:
            text = RIGHT[body["messages"][-1]["content"]]
            answer = {"message": {"role": "assistant", "content": f" {text}\n"}, "done_reason": "stop"}
        data = json.dumps(answer).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server(("127.0.0.1", 0), Handler)
    found.asked = []
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_a_model_of_an_ollama_server_is_asked_greedily_and_one_by_one(server: Server) -> None:
    items = suite(["copying"])[:5]
    url = f"127.0.0.1:{server.server_port}"
    with open_answerer(NO_CONTEXT, "ollama:copyist", ollama_url=url) as answer:
        assert ask(items, answer) == [True] * 5
    assert [row["messages"] for row in server.asked] == [item.messages for item in items]
    assert {(row["path"], row["options"]["temperature"]) for row in server.asked} == {("/api/chat", 0)}


def test_an_unknown_model_and_a_far_server_are_clear_errors(server: Server) -> None:
    url = f"127.0.0.1:{server.server_port}"
    with open_answerer(NO_CONTEXT, "ollama:nobody", ollama_url=url) as answer:
        with pytest.raises(FineTuneFlowError, match="not found"):
            answer([suite()[0].messages])
    with pytest.raises(UsageError, match="not on this machine"):
        with open_answerer(NO_CONTEXT, "ollama:copyist", ollama_url="http://models.example"):
            pass
