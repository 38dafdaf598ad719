"""llama.cpp in a process of its own: what it answers, how it ends, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from finetuneflow.errors import ModelError
from finetuneflow.export.gguf.file import write_gguf
from finetuneflow.modeling.llama_cpp import MODULE, Llama, last_words, open_llama
from finetuneflow.modeling.locate import embedded_folder

pytestmark = pytest.mark.integration

QUESTION = [{"role": "user", "content": "Où est l'été ?"}]
PROMPT = "<|im_start|>user\nOù est l'été ?<|im_end|>\n<|im_start|>assistant\n"
END = 2


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, embedded_folder("embedded:tiny"), name="tiny")
    return path


@pytest.fixture(scope="module")
def llama(gguf: Path) -> Iterator[Llama]:
    """It, loaded."""
    with open_llama(gguf, threads=1) as loaded:
        yield loaded


def test_it_says_what_it_is(llama: Llama) -> None:
    assert llama.runtime.startswith("llama.cpp via xllamacpp 20")
    assert llama.vocabulary == 8192
    assert llama.context_tokens == 1024


def test_prompt_and_tokens(llama: Llama) -> None:
    assert llama.render(QUESTION) == PROMPT
    ids = llama.tokenize(PROMPT)
    assert ids[0] == llama.tokenize("<|im_start|>")[0]
    assert llama.tokenize(PROMPT, add_special=True) == ids  # this model has no token to begin with


def test_probabilities_of_the_whole_vocabulary(llama: Llama) -> None:
    row = llama.log_probabilities(llama.tokenize(PROMPT))

    assert row.shape == (8192,)
    assert np.exp(row, dtype=np.float64).sum() == pytest.approx(1, abs=1e-4)


def test_probabilities_where_the_answer_ends_or_a_character_is_half(llama: Llama) -> None:
    for prompt in ([1, 5, 6], llama.tokenize("<|im_start|>user\n👋")):
        assert np.isfinite(llama.log_probabilities(prompt)).all()


def test_the_greedy_answer_follows_the_probabilities(llama: Llama) -> None:
    ids = llama.tokenize(PROMPT)
    answer = llama.complete(ids, max_new_tokens=6)

    assert answer.ids[0] == int(llama.log_probabilities(ids).argmax())
    assert len(answer.ids) == answer.new_tokens
    assert answer.prompt_tokens == len(ids)


def test_the_chat_reads_the_same_prompt(llama: Llama) -> None:
    answer = llama.chat(QUESTION, max_new_tokens=24, reuse=False)

    assert answer.prompt_tokens == len(llama.tokenize(PROMPT))
    assert answer.text == llama.complete(llama.tokenize(PROMPT), max_new_tokens=24).text
    assert answer.seconds > 0


def test_an_answer_cut_short_did_not_stop(llama: Llama) -> None:
    long = [{"role": "user", "content": "Calcule 12 345,67 + 89 012,33"}]

    assert not llama.chat(long, max_new_tokens=1).stopped
    assert llama.chat(long, max_new_tokens=1).new_tokens == 1


def test_which_tokens_end_an_answer(llama: Llama) -> None:
    assert llama.ends_answer(END)
    assert not llama.ends_answer(llama.tokenize("a")[0])


def test_what_the_server_refuses_is_a_clear_error(llama: Llama) -> None:
    with pytest.raises(ModelError, match="exceeds the available context"):
        llama.complete([5] * 2000, max_new_tokens=1)
    assert llama.complete([5], max_new_tokens=1).new_tokens == 1


def test_strangers_are_refused(llama: Llama) -> None:
    reply = httpx.post(f"{llama.address}/completion", json={"prompt": "a", "n_predict": 1})

    assert reply.status_code == 401


@pytest.mark.parametrize("fault", ["cut", "other", "absent"])
def test_a_file_that_cannot_be_loaded(fault: str, gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    if fault == "cut":
        path.write_bytes(gguf.read_bytes()[:1_000_000])
    if fault == "other":
        path.write_bytes(b"this is no model" * 100)

    with (
        pytest.raises(ModelError, match=r"llama.cpp cannot load .*model.gguf.: \S+") as caught,
        open_llama(path),
    ):
        pytest.fail("it was loaded")
    assert "ended with code" not in caught.value.message


def test_llama_cpp_ending_under_way_is_an_error(gguf: Path) -> None:
    with open_llama(gguf, threads=1) as llama:
        for child in psutil.Process().children():
            if MODULE in child.cmdline():
                child.kill()
                child.wait(10)
        with pytest.raises(ModelError, match="ended while it answered"):
            llama.complete([5], max_new_tokens=1)


def test_the_line_that_says_why() -> None:
    aborted = "0.00.1 E load: bad\n/src/ggml.c:1: GGML_ASSERT(a == b) failed\nAborted"
    refused = "0.00.1 I hello\n0.00.2 E load: missing tensor 'x'\n0.00.3 E srv: exiting due to error"

    assert last_words(aborted, -6) == "/src/ggml.c:1: GGML_ASSERT(a == b) failed"
    assert last_words(refused, 1) == "load: missing tensor 'x'"
    assert last_words("Traceback\nImportError: no such thing", 1) == "ImportError: no such thing"
    assert last_words("", -9) == "it ended with code -9 and said nothing"


def test_it_ends_with_the_one_who_asked(gguf: Path) -> None:
    program = (
        "import sys, time, pathlib, psutil\n"
        "from finetuneflow.modeling.llama_cpp import open_llama\n"
        "with open_llama(pathlib.Path(sys.argv[1]), threads=1):\n"
        "    print(psutil.Process().children()[0].pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(gguf)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()

    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@contextmanager
def serving(gguf: Path, *more: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """The program as it is started to serve, and the line that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE, "--model", str(gguf), "--threads", "1", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline() or "null")
    finally:
        process.kill()
        process.communicate()


def test_served_to_applications(gguf: Path) -> None:
    with serving(gguf, "--alias", "applications-ia", FTF_SERVE_API_KEY="k3y") as (process, ready):
        assert set(ready) == {"address", "runtime"}
        headers = {"Authorization": "Bearer k3y", "Origin": "https://elsewhere.example"}
        with httpx.Client(base_url=ready["address"], headers=headers) as client:
            assert client.get("/v1/models").json()["data"][0]["id"] == "applications-ia"
            body = {"messages": QUESTION, "max_tokens": 4, "model": "applications-ia"}
            reply = client.post("/v1/chat/completions", json=body)
            assert reply.status_code == 200
            assert reply.headers.get("access-control-allow-origin", "") == ""
            assert client.get("/").status_code == 404  # no page of its own
            assert client.get("/slots").is_error  # what others ask is nobody's business
        assert httpx.post(f"{ready['address']}/v1/chat/completions", json=body).status_code == 401
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT


def test_several_at_a_time_have_a_whole_context_each(gguf: Path) -> None:
    with open_llama(gguf, context_tokens=512, parallel=3, threads=1) as llama:
        assert llama.context_tokens == 512


def test_a_port_that_is_taken(gguf: Path) -> None:
    with serving(gguf) as (_, ready):
        port = ready["address"].rpartition(":")[2]
        with serving(gguf, "--port", port) as (process, second):
            assert second is None
            assert process.wait(10) == 1
            assert process.stderr is not None
            assert "couldn't bind" in process.stderr.read()
