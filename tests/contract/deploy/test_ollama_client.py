"""The client against a server that keeps the published contract, and one that breaks half-way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.errors import JobCancelled
from finetuneflow.providers.modelfile import Modelfile, create_body
from finetuneflow.providers.ollama import OllamaClient
from finetuneflow.providers.ollama_server import OllamaError

MESSAGES = [{"role": "user", "content": "Qu'est-ce que 6tzen ?"}]
SIZE = 5 << 20


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + b"\x07" * SIZE)
    return path


@pytest.fixture
def digest(gguf: Path) -> str:
    return "sha256:" + hashlib.sha256(gguf.read_bytes()).hexdigest()


@pytest.fixture
def client(ollama: Any) -> Iterator[OllamaClient]:
    with OllamaClient(ollama.url, answer_seconds=20) as made:
        yield made


def test_upload_create_show_list_chat_delete(
    ollama: Any, client: OllamaClient, gguf: Path, digest: str, reply: Any
) -> None:
    assert client.version() == "0.34.1"
    assert not client.has_blob(digest)
    seen: list[tuple[int, int]] = []
    assert client.upload_blob(gguf, digest, on_progress=lambda *step: seen.append(step)) == SIZE + 4
    assert seen[-1] == (SIZE + 4, SIZE + 4)
    assert len(seen) == 6
    assert client.has_blob(digest)
    statuses: list[str] = []
    model = Modelfile(system="Tu réponds en bref.", parameters={"temperature": 0.7})
    client.create(create_body(model, "applications-ia", {"model.gguf": digest}), on_status=statuses.append)
    assert (statuses[0], statuses[-1]) == ("parsing GGUF", "success")
    assert client.names() == ["applications-ia:latest"]
    assert client.show("applications-ia")["system"] == "Tu réponds en bref."
    asked: list[Any] = []
    ollama.answer = lambda question: asked.append(question) or reply("Une application.", True, "Hm.")
    answer = client.chat("applications-ia", MESSAGES, options={"num_predict": 5})
    assert answer == ("Une application.", "Hm.", True)
    assert asked[0].messages[0] == {"role": "system", "content": "Tu réponds en bref."}
    assert asked[0].options == {"temperature": 0.7, "repeat_penalty": 1.0, "num_predict": 5}
    (body,) = ollama.bodies("/api/chat")
    assert (body["stream"], body["truncate"], body["shift"]) == (False, False, False)
    client.delete("applications-ia")
    assert client.names() == []


@pytest.mark.parametrize(
    ("version", "body", "said"),
    [
        ("0.34.1", {"adapters": {"adapter.gguf": "sha256:" + "0" * 64}}, "adapters are no longer supported"),
        ("0.35.0", {"parameters": {"typical_p": 0.5}}, "typical_p"),
        ("0.33.0", {"model": "a b"}, "invalid model name"),
        ("0.34.1", {"files": {}}, "neither 'from' or 'files'"),
        ("0.34.1", {"files": {"/model.gguf": "sha256:" + "0" * 64}}, "must be relative"),
        ("0.34.1", {}, "blob not found"),
    ],
)
def test_refusals_are_told_in_the_servers_words(
    ollama: Any, client: OllamaClient, version: str, body: dict[str, Any], said: str
) -> None:
    ollama.version = version
    whole = {"model": "a", "files": {"model.gguf": "sha256:" + "0" * 64}} | body
    with pytest.raises(OllamaError, match=said) as caught:
        client.create(whole)
    assert caught.value.code == "ollama_refused"
    assert ollama.models == {}


def test_a_late_error_line_is_a_failure_in_spite_of_status_200(
    ollama: Any, client: OllamaClient, gguf: Path, digest: str
) -> None:
    client.upload_blob(gguf, digest)
    ollama.fails_late_for = "a"
    statuses: list[str] = []
    with pytest.raises(OllamaError, match="could not create `a`: write manifest: no space left") as caught:
        client.create(create_body(Modelfile(), "a", {"model.gguf": digest}), on_status=statuses.append)
    assert statuses == ["parsing GGUF", f"using existing layer {digest}"]
    assert caught.value.code == "ollama_failed"


def test_a_stream_without_a_last_word_is_a_failure(
    ollama: Any, client: OllamaClient, gguf: Path, digest: str
) -> None:
    client.upload_blob(gguf, digest)
    ollama.stops_half_way = True
    with pytest.raises(OllamaError, match="stopped half-way"):
        client.create(create_body(Modelfile(), "a", {"model.gguf": digest}))


def test_a_full_disk_in_the_middle_of_an_upload(
    ollama: Any, client: OllamaClient, gguf: Path, digest: str
) -> None:
    ollama.disk_full_after = 1 << 20
    with pytest.raises(OllamaError) as caught:
        client.upload_blob(gguf, digest)
    assert "disk may be full" in caught.value.hint
    assert not ollama.blob(digest).exists()
    ollama.disk_full_after = None
    assert client.upload_blob(gguf, digest) == SIZE + 4


def test_a_file_that_changed_since_its_export_is_refused(
    ollama: Any, client: OllamaClient, gguf: Path, digest: str
) -> None:
    data = bytearray(gguf.read_bytes())
    data[1000] ^= 1
    gguf.write_bytes(data)
    with pytest.raises(OllamaError, match="is not the file that was exported") as caught:
        client.upload_blob(gguf, digest)
    assert caught.value.code == "ollama_digest"
    assert not client.has_blob(digest)


def test_what_the_progress_raises_ends_the_upload(
    ollama: Any, client: OllamaClient, gguf: Path, digest: str
) -> None:
    def stop(done: int, total: int) -> None:
        raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        client.upload_blob(gguf, digest, on_progress=stop)
    assert not ollama.blob(digest).exists()


def test_a_file_that_is_no_gguf_fails_late(ollama: Any, client: OllamaClient, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04")
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    client.upload_blob(path, digest)
    with pytest.raises(OllamaError, match="not in GGUF format"):
        client.create(create_body(Modelfile(), "a", {"model.gguf": digest}))


def test_a_model_that_is_not_there(client: OllamaClient) -> None:
    with pytest.raises(OllamaError, match="model 'nobody' not found") as caught:
        client.chat("nobody", MESSAGES, options={})
    assert caught.value.code == "ollama_not_found"


def test_another_server_at_that_address(ollama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with OllamaClient(ollama.url + "/elsewhere") as client, pytest.raises(OllamaError) as caught:
        client.version()
    assert "is not an Ollama server" in caught.value.message


def test_a_proxy_of_the_environment_never_sees_a_local_server(
    ollama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with OllamaClient(ollama.url) as client:
        assert client.version() == "0.34.1"
