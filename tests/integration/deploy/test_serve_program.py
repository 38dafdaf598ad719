"""The program around a served model: addresses, keys, and its end. The GGUF engine, for it starts fastest."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import psutil
import pytest

from finetuneflow.artifacts import sha256_file
from finetuneflow.errors import FineTuneFlowError, UsageError
from finetuneflow.export.gguf.file import write_gguf
from finetuneflow.modeling.llama_cpp import open_llama
from finetuneflow.modeling.locate import embedded_folder
from finetuneflow.services import serving
from finetuneflow.services.context import Context

pytestmark = [pytest.mark.integration, pytest.mark.slow]
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(path, embedded_folder("embedded:tiny"), name="tiny")
    return path


@pytest.fixture(scope="module")
def request_(gguf: Path) -> dict[str, Any]:
    return {"engine": "llama.cpp", "gguf": str(gguf)}


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not alive


def test_a_gguf_is_served_in_openais_shape_greedily(
    gguf: Path, request_: dict[str, Any], start_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTF_THREADS", "1")
    with open_llama(gguf) as llama:
        expected = llama.chat(MESSAGES, max_new_tokens=12)
    with start_server(request_) as server:
        assert "llama.cpp" in server.said["runtime"]
        client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="any", max_retries=0)
        assert [model.id for model in client.models.list()] == ["mine"]
        asked: Any = {"model": "x", "messages": MESSAGES, "max_tokens": 12}
        whole = client.chat.completions.create(**asked)
        assert whole.choices[0].message.content == expected.text
        assert whole.usage is not None
        assert whole.usage.completion_tokens == expected.new_tokens
        streamed = [
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(**asked, stream=True)
            if chunk.choices
        ]
        assert "".join(streamed) == expected.text
        assert len(streamed) > 2
        client.close()
        health = httpx.get(f"{server.address}/health", headers={"Origin": "https://evil.example"})
        assert health.status_code == 403
        assert httpx.get(f"{server.address}/health").json()["status"] == "ok"
        assert httpx.get(f"{server.address}/health", headers={"Host": "evil.example"}).status_code == 403


def test_llama_cpp_itself_answers_nobody_else(request_: dict[str, Any], start_server: Start) -> None:
    with start_server(request_, api_key="s3cret") as server:
        (child,) = psutil.Process(server.process.pid).children()
        inner = [c.laddr.port for c in child.net_connections() if c.status == psutil.CONN_LISTEN]
        assert len(inner) == 1
        body = {"messages": MESSAGES, "max_tokens": 1}
        for key in ("s3cret", "any"):
            headers = {"Authorization": f"Bearer {key}"}
            address = f"http://127.0.0.1:{inner[0]}/v1/chat/completions"
            assert httpx.post(address, json=body, headers=headers).status_code == 401
        assert httpx.post(f"{server.address}/v1/chat/completions", json=body).status_code == 401
        assert "s3cret" not in " ".join(child.cmdline() + psutil.Process(server.process.pid).cmdline())


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "SIGKILL", "stdin"])
def test_it_ends_within_seconds_and_leaves_nothing(
    how: str, request_: dict[str, Any], start_server: Start
) -> None:
    with start_server(request_) as server:
        whole = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children()]
        assert len(whole) == 2
        with httpx.Client(base_url=server.address) as client:
            client.get("/health")  # an open connection must not hold it up
            started = time.monotonic()
            if how == "stdin":
                server.process.stdin.close()
                server.process.stdin = None
            else:
                server.process.send_signal(getattr(signal, how))
            code = server.process.wait(timeout=20)
        assert code == (-signal.SIGKILL if how == "SIGKILL" else 0)
        assert gone(whole)
        assert time.monotonic() - started < 10


def test_an_answer_under_way_does_not_hold_up_the_end(request_: dict[str, Any], start_server: Start) -> None:
    body = {"messages": MESSAGES, "max_tokens": 5000, "stream": True, "ignore_eos": True}
    with (
        start_server(request_) as server,
        httpx.stream("POST", f"{server.address}/v1/chat/completions", json=body, timeout=30) as reply,
    ):
        assert next(reply.iter_lines()).startswith("data:")
        started = time.monotonic()
        server.process.terminate()
        assert server.process.wait(timeout=20) == 0
        assert time.monotonic() - started < 10


def test_a_port_in_use_is_one_clear_error(request_: dict[str, Any], start_server: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with start_server(request_ | {"port": port}) as server:
            error = server.said["error"]
            assert server.process.wait(timeout=20) == 2
    assert error["code"] == "port_in_use"
    assert f"port {port} of 127.0.0.1 is in use" in error["message"]
    assert error["hint"]


def test_the_network_is_refused_without_a_key_and_an_unknown_address_is_named(
    request_: dict[str, Any], start_server: Start
) -> None:
    for host in ("0.0.0.0", "192.0.2.7"):  # noqa: S104 - refused
        with start_server(request_ | {"host": host}) as server:
            assert "no API key" in server.said["error"]["message"]
            assert server.process.wait(timeout=20) == 2
    with start_server(request_ | {"host": "192.0.2.7"}, api_key="s3cret") as server:
        assert "cannot listen" in server.said["error"]["message"]


def test_a_damaged_file_is_one_clear_error(tmp_path: Path, start_server: Start) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + os.urandom(1000))
    with start_server({"engine": "llama.cpp", "gguf": str(path)}) as server:
        error = server.said["error"]
        assert server.process.wait(timeout=20) == 1
    assert "llama.cpp cannot load" in error["message"]
    assert "Traceback" not in json.dumps(error)


def test_a_file_that_changed_since_its_check_is_not_served(
    gguf: Path, tmp_path: Path, start_server: Start
) -> None:
    checked = sha256_file(gguf)
    with start_server({"engine": "llama.cpp", "gguf": str(gguf), "sha256": checked}) as server:
        assert "address" in server.said
    changed = tmp_path / "model.gguf"
    data = bytearray(gguf.read_bytes())
    data[-1] ^= 1  # a weight: llama.cpp would load it
    changed.write_bytes(data)
    with start_server({"engine": "llama.cpp", "gguf": str(changed), "sha256": checked}) as server:
        assert "is not the file that was checked" in server.said["error"]["message"]
        assert "export again" in server.said["error"]["hint"]
        assert server.process.wait(timeout=20) == 1


def test_a_name_may_begin_with_a_dash(request_: dict[str, Any], start_server: Start) -> None:
    with start_server(request_ | {"name": "-v2"}) as server:
        models = httpx.get(f"{server.address}/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["-v2"]


def test_strangers_cannot_fill_the_log(request_: dict[str, Any], start_server: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as stderr, start_server(request_, api_key="s3cret", stderr=stderr) as server:
        port = int(server.address.rpartition(":")[2])
        for number in range(300):
            wrong = b"nonsense\r\n\r\n" if number % 2 else b"GET / HTTP/1.1\r\nHost: [\r\n\r\n"
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(wrong)
                assert connection.recv(100).split()[1] in (b"400", b"401")
    lines = log.read_text(encoding="utf-8").splitlines()
    assert 0 < len(lines) <= 100
    assert not [line for line in lines if "Traceback" in line]


def test_the_service_announces_serves_and_ends_like_an_interrupt(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTF_SERVE_API_KEY", "s3cret")
    monkeypatch.setenv("FTF_THREADS", "1")
    seen: list[psutil.Process] = []

    def ready(address: str) -> None:
        headers = {"Authorization": "Bearer s3cret"}
        assert httpx.get(f"{address}/v1/models").status_code == 401
        assert httpx.get(f"{address}/v1/models", headers=headers).json()["data"][0]["id"] == "model"
        seen.extend(psutil.Process().children(recursive=True))
        os.kill(os.getpid(), signal.SIGTERM)

    no_context = cast(Context, None)
    before = signal.getsignal(signal.SIGTERM)
    assert serving.serve(no_context, str(gguf), port=0, on_ready=ready) == 0
    assert len(seen) == 2
    assert gone(seen)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_service_tells_a_failure_as_its_own_kind(gguf: Path, tmp_path: Path) -> None:
    no_context = cast(Context, None)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="in use"):
        serving.serve(no_context, str(gguf), port=taken.getsockname()[1], on_ready=print)
    damaged = tmp_path / "model.gguf"
    damaged.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(FineTuneFlowError, match="cannot load"):
        serving.serve(no_context, str(damaged), port=0, on_ready=print)
