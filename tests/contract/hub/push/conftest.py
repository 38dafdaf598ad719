"""A model hub that speaks the published protocol over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

TOKEN = "hf_SecretSecretSecretSecretSecret"
LFS_SUFFIXES = (".safetensors", ".gguf", ".png", ".bin")


@dataclass
class Repository:
    """What the hub keeps of a model."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])


@dataclass
class Hub:
    """The state of the hub, the requests that it saw, and how it shall misbehave."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    ignores_private: bool = False
    part_bytes: int = 0
    """Over this, large files travel in parts; 0: never."""
    dropped_uploads: int = 0
    """So many connections are cut in the middle of a large file."""
    refused_uploads: int = 0
    """So many large files are refused, as by an address that has expired."""
    refused_commits: int = 0
    loses: str = ""
    """A file that a commit does not take over."""

    def received(self) -> bytes:
        """Every byte that reached the hub in a body, and what stood in them as base64."""
        bodies = [body for _, _, body in self.requests]
        inner = [
            base64.b64decode(line["value"]["content"])
            for method, path, body in self.requests
            if method == "POST" and "/commit/" in path
            for line in map(json.loads, body.splitlines())
            if line["key"] == "file"
        ]
        samples = [
            base64.b64decode(file["sample"])
            for _, path, body in self.requests
            if "/preupload/" in path
            for file in json.loads(body)["files"]
        ]
        return b"\n".join([*bodies, *inner, *samples])

    def paths(self, method: str) -> list[str]:
        """Paths that were asked for."""
        return [path for how, path, _ in self.requests if how == method]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, body: Any = None, **headers: str) -> None:
        data = json.dumps(body).encode() if body is not None else b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, self.path, body))
        self.hub.agents.add(self.headers.get("User-Agent", ""))
        return body

    def _knows(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._answer(401, {"error": "Invalid username or password."})
        return False

    def do_GET(self) -> None:
        self._body()
        path = urlsplit(self.path).path
        if not self._knows():
            return
        if path == "/api/whoami-v2":
            self._answer(200, {"type": "user", "name": "lea", "orgs": [{"type": "org", "name": "team"}]})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/main)?", path):
            self._info(found.group(1))
        else:
            self._answer(404, {"error": "Not found"})

    def _info(self, name: str) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return
        siblings = []
        for path, data in repository.files.items():
            sibling: dict[str, Any] = {"rfilename": path, "size": len(data)}
            if path in repository.lfs:
                digest = hashlib.sha256(data).hexdigest()
                sibling["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
            siblings.append(sibling)
        known = {"_id": "1", "id": name, "modelId": name, "private": repository.private, "tags": []}
        known |= {"sha": repository.commits[-1], "siblings": siblings, "downloads": 0, "likes": 0}
        self._answer(200, known | {"gated": False, "disabled": False})

    def do_POST(self) -> None:
        body = self._body()
        path = urlsplit(self.path).path
        if path.startswith("/lfs/complete/"):
            self._complete(path.rpartition("/")[2], json.loads(body))
            return
        if not self._knows():
            return
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path == "/lfs/verify":
            known = json.loads(body)
            there = len(self.hub.objects.get(known["oid"], b"")) == known["size"]
            self._answer(200 if there else 404, {})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._batch(json.loads(body))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path):
            repository = self.hub.repositories[found.group(1)]
            if found.group(2) == "preupload":
                self._preupload(repository, json.loads(body)["files"])
            else:
                self._commit(found.group(1), [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": "Not found"})

    def _create(self, wish: dict[str, Any]) -> None:
        owner, name = wish.get("organization") or "lea", wish["name"]
        if owner not in ("lea", "team"):
            error = f"You don't have the rights to create a model under the namespace {owner}"
            self._answer(403, {"error": error})
            return
        if f"{owner}/{name}" in self.hub.repositories:
            self._answer(409, {"error": "You already created this model repo"})
            return
        private = wish.get("private", wish.get("visibility") == "private")
        self.hub.repositories[f"{owner}/{name}"] = Repository(private and not self.hub.ignores_private)
        self._answer(200, {"url": f"{self.hub.url}/{owner}/{name}", "name": f"{owner}/{name}", "id": "1"})

    def _preupload(self, repository: Repository, files: list[dict[str, Any]]) -> None:
        answer = []
        for file in files:
            mode = "lfs" if file["path"].endswith(LFS_SUFFIXES) or file["size"] > 10 << 20 else "regular"
            data, oid = repository.files.get(file["path"]), None
            if data is not None and mode == "lfs":
                oid = hashlib.sha256(data).hexdigest()
            elif data is not None:
                oid = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
            answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer(200, {"files": answer, "commitOid": repository.commits[-1]})

    def _batch(self, wish: dict[str, Any]) -> None:
        objects = []
        for item in wish["objects"]:
            oid, size = item["oid"], item["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
            if oid not in self.hub.objects:
                signed = "?X-Amz-Signature=feedface"
                upload: dict[str, Any] = {"href": f"{self.hub.url}/lfs/whole/{oid}{signed}", "header": {}}
                if self.hub.part_bytes and size > self.hub.part_bytes:
                    parts = -(-size // self.hub.part_bytes)
                    upload["href"] = f"{self.hub.url}/lfs/complete/{oid}"
                    upload["header"] = {"chunk_size": str(self.hub.part_bytes)} | {
                        f"{number:05d}": f"{self.hub.url}/lfs/part/{oid}{signed}&part={number}"
                        for number in range(1, parts + 1)
                    }
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs/verify"}}
            objects.append(answer)
        self._answer(200, {"transfer": "basic", "objects": objects})

    def do_PUT(self) -> None:
        parts = urlsplit(self.path)
        oid = parts.path.rpartition("/")[2]
        if self.hub.dropped_uploads:
            self.hub.dropped_uploads -= 1
            self.rfile.read(int(self.headers["Content-Length"]) // 2)
            self.close_connection = True
            self.connection.close()
            return
        body = self._body()
        if self.hub.refused_uploads:
            self.hub.refused_uploads -= 1
            self._answer(403, {"error": "Request has expired"})
            return
        if parts.path.startswith("/lfs/part/"):
            self.hub.objects[f"{oid}/{int(parse_qs(parts.query)['part'][0]):05d}"] = body
        elif hashlib.sha256(body).hexdigest() == oid:
            self.hub.objects[oid] = body
        else:
            self._answer(400, {"error": "BadDigest"})
            return
        self._answer(200, None, ETag=f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"')

    def _complete(self, oid: str, wish: dict[str, Any]) -> None:
        keys = [f"{oid}/{part['partNumber']:05d}" for part in wish["parts"]]
        whole = b"".join(self.hub.objects.pop(key) for key in keys)
        if hashlib.sha256(whole).hexdigest() != oid:
            self._answer(400, {"error": "BadDigest"})
            return
        self.hub.objects[oid] = whole
        self._answer(200, {})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        repository = self.hub.repositories[name]
        if self.hub.refused_commits:
            self.hub.refused_commits -= 1
            self._answer(500, {"error": "Internal error"})
            return
        assert lines[0]["key"] == "header"
        gone = {line["value"]["path"] for line in lines if line["key"] == "deletedFile"}
        if not gone <= set(repository.files):
            self._answer(404, {"error": "A file with this name doesn't exist"}, X_Error_Code="EntryNotFound")
            return
        new: dict[str, bytes] = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    self._answer(400, {"error": f"lfs object {value['oid']} is missing"})
                    return
                new[value["path"]] = self.hub.objects[value["oid"]]
                repository.lfs.add(value["path"])
            elif line["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
        new.pop(self.hub.loses, None)
        kept = {path: data for path, data in repository.files.items() if path not in gone}
        repository.files = kept | new
        repository.commits.append(hashlib.sha1(json.dumps(lines).encode(), usedforsecurity=False).hexdigest())
        oid = repository.commits[-1]
        url = f"{self.hub.url}/{name}/commit/{oid}"
        self._answer(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A running hub that knows one token; the environment leads to it."""
    state = Hub()
    handler = type("Handler", (_Handler,), {"hub": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in (
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    yield state
    server.shutdown()
    thread.join()
    server.server_close()
