"""A model hub that speaks the published protocol over HTTP, and a workspace with a finished run to push."""

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

from finetuneflow.artifacts import RESULT
from finetuneflow.export.bundle import list_files, write_manifest, write_zip
from finetuneflow.schemas.deployment import OllamaDeployment
from finetuneflow.schemas.evaluation import EvaluationConfig, EvaluationResult, Prediction, Verdict
from finetuneflow.schemas.export import ExportResult, GgufResult, ParityResult
from finetuneflow.schemas.job import JobKind, JobResult, JobSpec
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import TrainResult
from finetuneflow.services import datasets
from finetuneflow.services.context import Context, using_context
from finetuneflow.store import queue
from finetuneflow.store import runs as store

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
        new: dict[str, bytes] = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    self._answer(400, {"error": f"lfs object {value['oid']} is missing"})
                    return
                new[value["path"]] = self.hub.objects[value["oid"]]
                repository.lfs.add(value["path"])
            else:
                new[value["path"]] = base64.b64decode(value["content"])
        new.pop(self.hub.loses, None)
        repository.files |= new
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


SECRET = "/data/lea_private/base-model"


@dataclass
class Finished:
    """A workspace in which a run has ended well."""

    home: Path
    rows: list[str]
    """What no other machine may ever see: questions and answers."""
    run_id: str = "run-1"
    dataset_id: str = ""

    def _job(self, context: Context, job_id: str, kind: JobKind, inputs: dict[str, Any], result: Any) -> None:
        spec = JobSpec(id=job_id, kind=kind, config={}, inputs=inputs)
        done = JobResult(status="success", result=result.model_dump(mode="json"))
        folder = context.workspace.job(kind, job_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).write_text(done.model_dump_json(), encoding="utf-8")
        with context.store.write() as session:
            queue.add_job(session, spec, request_hash=job_id)
            queue.claim(session, "test", job_id=job_id)
        with context.store.write() as session:
            queue.finish(session, job_id, 1, done)

    def train(self, context: Context, data: Path) -> None:
        """The run, and its dataset version."""
        version = datasets.create_version(context, data, seed=0, task="causal_lm", project_id=None)
        recipe = Recipe(
            base_model=SECRET, dataset=str(data), output_model_name="qwen3-sfd-analyzer-v2", num_epochs=1
        )
        settings = {"num_epochs": 1, "learning_rate": 1e-4, "per_device_batch_size": 4, "max_seq_length": 256}
        settings |= {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "reason": "small"}
        known = {"adapter": "adapter", "base_model": SECRET, "base_fingerprint": "0" * 16, "method": "lora"}
        known |= {"steps": 10, "epochs": 1, "best_step": 10, "train_loss": 0.1, "tokens": 3}
        known |= {"trainable_parameters": 1, "parameters": 2, "supervised_tokens": 2, "tokens_per_second": 1}
        known |= {"seconds": 1, "precision": "fp32", "device": "cpu"}
        trained = TrainResult.model_validate(known | {"hyperparameters": settings})
        self._job(context, self.run_id, "train", {}, trained)
        self.dataset_id = version.id
        with context.store.write() as session:
            store.add_run(
                session,
                self.run_id,
                name="analyser",
                dataset_id=version.id,
                recipe=recipe,
                project_id=None,
            )

    def evaluate(self, outcome: str | None, number: int = 1) -> None:
        """An evaluation with that verdict."""
        result = self._evaluation(outcome)
        with using_context() as context:
            self._job(context, f"eval-{number}", "evaluate", {"run_id": self.run_id}, result)
            with context.store.write() as session:
                store.add_evaluation(
                    session, f"eval-{number}", run_id=self.run_id, dataset_id=self.dataset_id
                )

    def _evaluation(self, outcome: str | None) -> EvaluationResult:
        wrong = Prediction(
            item_id="test-1",
            question=self.rows[0],
            expected=self.rows[1],
            predicted="no",
            exact_match=0,
            token_f1=0,
            rouge_l=0,
            latency_seconds=0.1,
        )
        known = {"reasons": [f"The verdict is {outcome}."], "metric": "exact_match", "score": 0.9, "items": 9}
        known |= {"baseline": "base", "baseline_score": 0.1, "improvement": 0.8, "p_value": 0.001}
        return EvaluationResult(
            run_id=self.run_id,
            items=100,
            test_set_hash="0",
            verdict=Verdict.model_validate(known | {"outcome": outcome}) if outcome else None,
            errors=[wrong],
            seconds=1.0,
            config=EvaluationConfig(),
        )

    def export(self, *, kinds: tuple[str, ...] = ("adapter", "merged", "gguf"), large: int = 3 << 20) -> Path:
        """An export as the stage lays it out; report, metrics and parity hold rows of the dataset."""
        with using_context() as context:
            export_id = f"export-{len(kinds)}-{'-'.join(kinds)}"
            folder = context.workspace.job("export", export_id)
            for kind in kinds:
                self._fill(folder / kind, kind, large)
            cited = "\n".join(f"| {row} | wrong |" for row in self.rows)
            figures = {
                "train": {"base_model": SECRET, "train_loss": 0.1},
                "evaluation": self._evaluation("PASS").model_dump(mode="json"),
            }
            (folder / "report.md").write_text(f"# Report\n{cited}\n", encoding="utf-8")
            (folder / "metrics.json").write_text(json.dumps(figures, ensure_ascii=False), encoding="utf-8")
            (folder / "recipe.yaml").write_text(f"base_model: {SECRET}\nseed: 0\n", encoding="utf-8")
            (folder / "LICENSE").write_text("Apache-2.0\n", encoding="utf-8")
            (folder / "loss_curve.png").write_bytes(b"\x89PNG" + bytes(200))
            names = [*kinds, "report.md", "metrics.json", "recipe.yaml", "LICENSE", "loss_curve.png"]
            files = list_files(folder, names)
            write_manifest(folder, "analyser", self.run_id, files)
            write_zip(folder / "analyser.zip", folder, files)
            files += list_files(folder, ["manifest.json", "analyser.zip"])
            gguf = self._gguf(folder) if "gguf" in kinds else None
            result = ExportResult(run_id=self.run_id, gguf=gguf, zip="analyser.zip", files=files)
            self._job(context, export_id, "export", {"run_id": self.run_id}, result)
            with context.store.write() as session:
                store.add_export(session, export_id, run_id=self.run_id)
        return folder

    def _gguf(self, folder: Path) -> GgufResult:
        (model,) = list_files(folder, ["gguf/model.gguf"])
        parity = ParityResult.model_validate(
            {"passed": True, "quantization": "f16", "prompts": 32, "top1_agreement": 1, "vocabulary": 512}
            | {"median_max_logprob_difference": 0, "max_logprob_difference": 0, "rendered_equal": 32}
            | {"ids_equal": 32, "continuations": 32, "continuations_equal": 32, "runtime": "llama.cpp"}
            | {"thresholds": {"median_max_logprob_difference": 0.02, "top1_agreement": 0.99}, "seconds": 1}
        )
        return GgufResult(
            path=model.path,
            sha256=model.sha256,
            size_bytes=model.size_bytes,
            quantization="f16",
            architecture="llama",
            modelfile="gguf/Modelfile",
            parity=parity,
        )

    def _fill(self, folder: Path, kind: str, large: int) -> None:
        folder.mkdir(parents=True)
        weights = hashlib.shake_256(kind.encode()).digest(large)
        base = SECRET.replace("_", "\\_")  # as Markdown cells are written
        card = f"---\ntags: [finetuneflow]\n---\n\n# analyser\n\nTuned from {base}.\n"
        (folder / "README.md").write_text(card, encoding="utf-8")
        if kind == "gguf":
            (folder / "model.gguf").write_bytes(b"GGUF" + weights)
            (folder / "Modelfile").write_text('FROM ./model.gguf\nSYSTEM """Be brief."""\n', encoding="utf-8")
            prompts = [
                {"messages": [{"role": "user", "content": row}], "trained_text": row} for row in self.rows
            ]
            parity = {
                "passed": True,
                "quantization": "f16",
                "prompts": 32,
                "top1_agreement": 1.0,
                "median_max_logprob_difference": 0.001,
                "first_difference": self.rows[0],
                "failures": [self.rows[1]],
                "examples": prompts,
            }
            (folder / "parity.json").write_text(json.dumps(parity), encoding="utf-8")
            (folder / "parity.md").write_text("\n".join(self.rows), encoding="utf-8")
            return
        name = "adapter_model.safetensors" if kind == "adapter" else "model.safetensors"
        (folder / name).write_bytes(weights)
        config = "adapter_config.json" if kind == "adapter" else "config.json"
        (folder / config).write_text(json.dumps({"base_model_name_or_path": SECRET}), encoding="utf-8")
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
        (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
        (folder / "optimizer.pt").write_bytes(b"no file of a model")

    def deploy(self, name: str) -> None:
        """A deployment that answers as it should."""
        result = OllamaDeployment(
            name=name,
            url="http://127.0.0.1:11434",
            server_version="0.34.1",
            digest="sha256:0",
            created=True,
            uploaded_bytes=1,
            prompts=20,
            answers_equal=20,
            passed=True,
            modelfile="FROM ./model.gguf",
            seconds=1.0,
        )
        with using_context() as context:
            self._job(context, "deploy-1", "deploy", {"run_id": self.run_id}, result)


@pytest.fixture
def finished(workspace: Path, tmp_path: Path) -> Finished:
    """A run that ended well, on forty questions about applications, not evaluated, not exported."""
    questions = [
        f'Quel est le statut de l\'application "Cœur {n}*", chef·fe de projet compris ?' for n in range(40)
    ]
    answers = [f"L'application Cœur {n} est en production depuis l'été {2000 + n}." for n in range(40)]
    data = tmp_path / "private.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in zip(questions, answers, strict=True)
    ]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    finished = Finished(workspace, [*questions, *answers])
    with using_context() as context:
        finished.train(context, data)
    return finished
