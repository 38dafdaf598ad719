"""A server that speaks Ollama's published contract, as 0.33 and as 0.34.1 and later, with faults to order."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

NAME = re.compile(r"(?:[\w.:-]+/)?(?:[\w-]+/)?\w[\w.-]{0,79}(?::\w[\w.-]{0,79})?", re.ASCII)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
GGUF = b"GGUF"


class Question(NamedTuple):
    """What the runner behind `/api/chat` is given."""

    model: dict[str, Any]
    messages: list[dict[str, str]]
    """With the system prompt of the model in front, where the request had none."""
    options: dict[str, Any]
    """The server's defaults, under the model's parameters, under those of the request."""
    blob: Path


class Reply(NamedTuple):
    """What it answers."""

    text: str
    cut: bool = False
    thinking: str = ""


class Refused(Exception):
    """An answer with a status and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class FakeOllama:
    """Blobs, models, and what was asked; the faults are switches."""

    folder: Path
    version: str = "0.34.1"
    url: str = ""
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    answer: Callable[[Question], Reply] = lambda question: Reply("Oui.")
    disk_full_after: int | None = None
    """Bytes of an upload that fit."""
    fails_late_for: str | None = None
    """A model whose `create` ends with an error line after lines of success."""
    stops_half_way: bool = False
    """`create` ends without a last word."""

    def since(self, version: tuple[int, ...]) -> bool:
        """Whether this server is that version or a later one."""
        return tuple(map(int, self.version.split("-")[0].split("."))) >= version

    def blob(self, digest: str) -> Path:
        """Where a blob is, or would be."""
        return self.folder / digest.replace(":", "-")

    def paths(self, method: str, path: str = "") -> list[str]:
        """Paths that were asked for with a method."""
        return [asked for verb, asked, _ in self.requests if verb == method and asked.startswith(path)]

    def bodies(self, path: str) -> list[Any]:
        """Bodies that were sent to a path."""
        return [body for _, asked, body in self.requests if asked == path]

    def find(self, name: object) -> str:
        """The name under which a model is kept, whatever the case; Refused when there is none."""
        wanted = full(str(name)).lower()
        for known in self.models:
            if known.lower() == wanted:
                return known
        raise Refused(404, f"model '{name}' not found")

    def action(self, method: str, path: str) -> Callable[[Any], dict[str, Any]]:
        """What answers a path with one object."""
        actions: dict[tuple[str, str], Callable[[Any], dict[str, Any]]] = {
            ("GET", "/api/version"): lambda _: {"version": self.version},
            ("GET", "/api/tags"): self.tags,
            ("POST", "/api/show"): self.show,
            ("POST", "/api/chat"): self.chat,
            ("DELETE", "/api/delete"): self.delete,
        }
        if (method, path) not in actions:
            raise Refused(404, "404 page not found")
        return actions[method, path]

    def create(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Lines of `/api/create`; Refused before the first one where the request itself is wrong."""
        parameters = body.get("parameters") or {}
        newer = self.since((0, 34, 1))
        if newer and parameters.get("typical_p") is not None:
            raise Refused(400, "typical_p is deprecated and cannot be set as a model parameter")
        files, adapters = body.get("files") or {}, body.get("adapters") or {}
        for path, digest in {**files, **adapters}.items():
            if path.startswith("/") or ".." in path or re.search(r"[\\:]", path):
                raise Refused(400, f"file path must be relative: {path}")
            if not DIGEST.fullmatch(digest):
                raise Refused(400, f"invalid digest for {path}")
        if newer and adapters:
            raise Refused(400, "LoRA adapters are no longer supported")
        name = str(body.get("model", ""))
        if not NAME.fullmatch(name):
            raise Refused(400, "invalid model name")
        if not files:
            raise Refused(400, "neither 'from' or 'files' was specified")
        for path, digest in {**files, **adapters}.items():
            if not self.blob(digest).is_file():
                raise Refused(400, f"blob not found for {path} (digest {digest})")
        return self._create(name, body, files, adapters)

    def _create(
        self, name: str, body: dict[str, Any], files: dict[str, str], adapters: dict[str, str]
    ) -> Iterator[dict[str, Any]]:
        yield {"status": "parsing GGUF"}
        for digest in {**files, **adapters}.values():
            if not self.blob(digest).read_bytes().startswith(GGUF):
                yield {"error": "supplied file was not in GGUF format"}
                return
        if self.stops_half_way:
            return
        yield {"status": "using existing layer " + next(iter(files.values()))}
        if name == self.fails_late_for:
            yield {"error": "write manifest: no space left on device"}
            return
        yield {"status": "writing manifest"}
        kept = full(name)
        for known in self.models:
            kept = known if known.lower() == kept.lower() else kept
        self.models[kept] = {key: value for key, value in body.items() if key not in ("model", "stream")}
        yield {"status": "success"}

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """The whole answer of `/api/chat`."""
        model = self.models[self.find(body["model"])]
        messages = list(body["messages"])
        if model.get("system") and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": model["system"]})
        options = {
            "temperature": 0.8,
            # The default until August 2026.
            "repeat_penalty": 1.0 if self.since((0, 34)) else 1.1,
            **(model.get("parameters") or {}),
            **(body.get("options") or {}),
        }
        blob = self.blob(next(iter(model["files"].values())))
        reply = self.answer(Question(model, messages, options, blob))
        message = {"role": "assistant", "content": reply.text}
        if reply.thinking:
            message["thinking"] = reply.thinking
        return {
            "model": body["model"],
            "created_at": "2026-11-20T12:00:00Z",
            "message": message,
            "done": True,
            "done_reason": "length" if reply.cut else "stop",
        }

    def show(self, body: dict[str, Any]) -> dict[str, Any]:
        """What is known of a model."""
        model = self.models[self.find(body["model"])]
        parameters = "\n".join(f"{name}  {value}" for name, value in model.get("parameters", {}).items())
        texts = {key: model[key] for key in ("system", "template", "license") if key in model}
        return {"parameters": parameters, "details": {"format": "gguf"}, **texts}

    def tags(self, _: object = None) -> dict[str, Any]:
        """The models."""
        return {"models": [{"name": name, "model": name, "size": 1} for name in self.models]}

    def delete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Removes a model, and the blobs that no other one uses."""
        gone = self.models.pop(self.find(body["model"]))
        used = {digest for model in self.models.values() for digest in digests(model)}
        for digest in set(digests(gone)) - used:
            self.blob(digest).unlink(missing_ok=True)
        return {}

    def store(self, digest: str, size: int, read: Callable[[int], bytes]) -> int:
        """Status of an upload: the server counts and sums for itself."""
        if not DIGEST.fullmatch(digest):
            raise Refused(400, "invalid digest format")
        if self.blob(digest).is_file():
            return 200
        data = b""
        while len(data) < size:
            block = read(min(1 << 16, size - len(data)))
            if not block:
                raise Refused(400, "unexpected EOF")  # the client went away
            data += block
            if self.disk_full_after is not None and len(data) > self.disk_full_after:
                raise Refused(500, f"write {self.blob(digest).name}: no space left on device")
        found = "sha256:" + hashlib.sha256(data).hexdigest()
        if found != digest:
            raise Refused(400, f'digest mismatch, expected "{digest}", got "{found}"')
        self.blob(digest).write_bytes(data)
        return 201


def full(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def digests(model: Mapping[str, Any]) -> list[str]:
    return [*model.get("files", {}).values(), *model.get("adapters", {}).values()]


class Handler(BaseHTTPRequestHandler):
    """HTTP around a `FakeOllama`, which a subclass names."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: FakeOllama

    def answer(self) -> None:
        """Any request."""
        method = self.command
        digest = self.path.removeprefix("/api/blobs/")
        try:
            if digest != self.path:
                self.fake.requests.append((method, self.path, None))
                self.blob(method, digest)
                return
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            self.fake.requests.append((method, self.path, body))
            if (method, self.path) == ("POST", "/api/create"):
                self.stream(self.fake.create(body))
                return
            action = self.fake.action(method, self.path)
            self.reply(200, action(body))
        except Refused as refused:
            self.reply(refused.status, {"error": str(refused)})

    do_GET = do_HEAD = do_POST = do_DELETE = answer

    def blob(self, method: str, digest: str) -> None:
        if method == "HEAD":
            self.reply(200 if self.fake.blob(digest).is_file() else 404, None)
            return
        try:
            status = self.fake.store(digest, int(self.headers["Content-Length"]), self.rfile.read)
        except Refused:
            # The rest of the body is never read: the connection cannot be used again.
            self.close_connection = True
            raise
        self.reply(status, None)

    def reply(self, status: int, body: object) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def stream(self, lines: Iterator[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            data = json.dumps(line).encode() + b"\n"
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def ollama(tmp_path: Path) -> Iterator[FakeOllama]:
    """A running server, 0.34.1 unless a test says otherwise."""
    folder = tmp_path / "blobs"
    folder.mkdir()
    fake = FakeOllama(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"fake": fake}))
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def reply() -> type[Reply]:
    """What a runner answers: text, whether it was cut, thoughts."""
    return Reply
