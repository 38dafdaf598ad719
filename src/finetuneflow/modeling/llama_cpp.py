"""A GGUF file asked through llama.cpp, which runs in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import httpx
import msgspec
import numpy as np

from finetuneflow.errors import DependencyError, ModelError

MODULE = "finetuneflow.modeling.llama_cpp_server"
API_KEY_VARIABLE = "FTF_SERVE_API_KEY"
ANSWER_SECONDS = 600.0
"""Longest wait for one answer; a slow machine may need minutes for a long one."""
END_SECONDS = 5.0
GREEDY = {"temperature": 0.0, "samplers": ["temperature"]}
ANY_TEXT = 'root ::= "a"'
"""Grammar of one printable letter.

A token that ends the turn, or half a character, comes back without probabilities. With a grammar the chosen
token is always printable, and the probabilities reported are still those of the model, before the grammar.
"""


@dataclass(frozen=True)
class Completion:
    """One greedy answer."""

    text: str
    ids: list[int]
    """Its tokens, where the server says them (`complete`); empty from `chat`."""
    seconds: float
    prompt_tokens: int
    """Tokens that the server read before it answered."""
    new_tokens: int
    stopped: bool
    """True when the model ended its turn, False when it was cut at the limit."""


class _Token(msgspec.Struct):
    id: int
    logprob: float


class _Position(msgspec.Struct):
    top_logprobs: list[_Token]


class _Scored(msgspec.Struct):
    completion_probabilities: list[_Position] = []


class Llama:
    """A llama.cpp server that has a model loaded."""

    def __init__(
        self, address: str, runtime: str, process: subprocess.Popen[str], log: IO[str], key: str
    ) -> None:
        self.address = address
        """`http://127.0.0.1:port`."""
        self.runtime = runtime
        """Name and version."""
        self._process = process
        self._log = log
        self._client = httpx.Client(
            base_url=address,
            timeout=ANSWER_SECONDS,
            headers={"Authorization": f"Bearer {key}"},
            trust_env=False,  # a proxy has no business between this process and its child
        )
        self.vocabulary: int = self._get("/v1/models")["data"][0]["meta"]["n_vocab"]
        """Number of tokens, those without a text included."""
        self.context_tokens: int = self._get("/props")["default_generation_settings"]["n_ctx"]
        """Longest conversation."""

    def close(self) -> None:
        """Drops the connections."""
        self._client.close()

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        """Token ids of a text; what looks like a special token is one.

        Args:
            text: Any text.
            add_special: Put the tokens around it that the file asks for, as the chat path does.
        """
        body = {"content": text, "add_special": add_special, "parse_special": True}
        tokens: list[int] = self._post("/tokenize", body).json()["tokens"]
        return tokens

    def render(self, messages: list[dict[str, str]]) -> str:
        """The conversation through the file's chat template, ending with the opening of the answer.

        A beginning-of-sequence token that the server adds by itself is not in it.
        """
        prompt: str = self._post("/apply-template", {"messages": messages}).json()["prompt"]
        return prompt

    def log_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        """Natural logarithm of each token's probability to come next, by token id: float32 (vocabulary,)."""
        body = GREEDY | {
            "prompt": list(ids),
            "n_predict": 1,
            "n_probs": self.vocabulary,
            "grammar": ANY_TEXT,
            "cache_prompt": False,
        }
        try:
            scored = msgspec.json.decode(self._post("/completion", body).content, type=_Scored)
        except msgspec.DecodeError as error:
            raise ModelError(
                f"llama.cpp gave probabilities that are no numbers ({error})", "export the model again"
            ) from error
        if not scored.completion_probabilities:
            raise ModelError("llama.cpp gave no probabilities", "report the model and the prompt")
        row = np.full(self.vocabulary, -np.inf, dtype=np.float32)
        for token in scored.completion_probabilities[0].top_logprobs:
            row[token.id] = token.logprob
        return row

    def complete(self, ids: Sequence[int], *, max_new_tokens: int) -> Completion:
        """The most likely continuation of a row of tokens, with the end token when it came to one."""
        return self._complete(ids, max_new_tokens)

    def ends_answer(self, token: int) -> bool:
        """Whether generation stops once this token is generated."""
        forced = {"logit_bias": [[token, 1e6]]}
        return self._complete([token], 2, **forced).new_tokens == 1

    def _complete(self, ids: Sequence[int], max_new_tokens: int, **more: Any) -> Completion:
        body = GREEDY | {"prompt": list(ids), "n_predict": max_new_tokens, "return_tokens": True} | more
        started = time.perf_counter()
        reply = self._post("/completion", body | {"cache_prompt": False}).json()
        return Completion(
            text=reply["content"],
            ids=reply["tokens"],
            seconds=time.perf_counter() - started,
            prompt_tokens=reply["tokens_evaluated"],
            new_tokens=reply["tokens_predicted"],
            stopped=reply["stop_type"] in ("eos", "word"),
        )

    def chat(self, messages: list[dict[str, str]], *, max_new_tokens: int, reuse: bool = True) -> Completion:
        """The greedy answer to a conversation, by the road that applications take.

        Args:
            messages: Role and content of each turn, the last one from the user.
            max_new_tokens: Longest answer.
            reuse: Keep what was computed for the turns before; False repeats to the last bit.
        """
        body = GREEDY | {
            "messages": messages,
            "max_tokens": max_new_tokens,
            "cache_prompt": reuse,
            # What the model thinks aloud stays in the text, where training had it.
            "reasoning_format": "none",
        }
        started = time.perf_counter()
        reply = self._post("/v1/chat/completions", body).json()
        choice, usage = reply["choices"][0], reply["usage"]
        return Completion(
            text=choice["message"]["content"] or "",
            ids=[],
            seconds=time.perf_counter() - started,
            prompt_tokens=usage["prompt_tokens"],
            new_tokens=usage["completion_tokens"],
            stopped=choice["finish_reason"] == "stop",
        )

    def _get(self, path: str) -> dict[str, Any]:
        reply: dict[str, Any] = self._send("GET", path).json()
        return reply

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self._send("POST", path, json=body)

    def _send(self, method: str, path: str, **body: Any) -> httpx.Response:
        try:
            response = self._client.request(method, path, **body)
        except httpx.HTTPError as error:
            if self._process.poll() is None and not isinstance(error, httpx.RemoteProtocolError):
                raise ModelError(f"llama.cpp does not answer: {error}", "try again") from error
            raise died(self._process, self._log) from error
        if response.is_error:
            raise ModelError(
                f"llama.cpp refused `{path}`: {reason(response)}",
                "the prompt, the chat template or the file may be at fault",
            )
        return response


def reason(response: httpx.Response) -> str:
    """What the server said was wrong."""
    try:
        said: str = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = response.text[:200]
    return said


@contextmanager
def open_llama(
    path: Path,
    *,
    context_tokens: int | None = None,
    parallel: int = 1,
    adapter: Path | None = None,
    threads: int | None = None,
) -> Iterator[Llama]:
    """A GGUF model in a process of its own, which ends with this one.

    Args:
        path: The model.
        context_tokens: Longest conversation; None: the model's own limit, up to 8,192.
        parallel: Conversations answered at the same time.
        adapter: A LoRA adapter as GGUF.
        threads: None: `FTF_THREADS`, else one per core.

    Raises:
        DependencyError: xllamacpp is not installed.
        ModelError: llama.cpp cannot load the file, with what it said.
    """
    arguments = ["--parallel", str(parallel), "--context", str(context_tokens or 0)]
    arguments += ["--threads", str(threads or 0)]
    if adapter is not None:
        arguments += ["--adapter", str(adapter)]
    with start_llama(path, arguments, reason="to run a GGUF model") as started:
        llama = Llama(started.address, started.runtime, started.process, started.log, started.key)
        try:
            yield llama
        finally:
            llama.close()


class Started(NamedTuple):
    """A llama.cpp server that has its model loaded."""

    address: str
    runtime: str
    key: str
    """Whoever asks must send it."""
    process: subprocess.Popen[str]
    log: IO[str]


@contextmanager
def start_llama(path: Path, arguments: Sequence[str], *, reason: str) -> Iterator[Started]:
    """llama.cpp's server in a process of its own, on a free port, with a key that nobody else knows.

    Args:
        path: The model.
        arguments: More of `llama_cpp_server`'s.
        reason: Why it is needed, in words, for when it is not installed.

    Raises:
        DependencyError: xllamacpp is not installed.
        ModelError: llama.cpp cannot load the file, with what it said.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise DependencyError("xllamacpp", "export", reason)
    command = [sys.executable, "-P", "-m", MODULE, f"--model={path}", "--end-with-stdin", *arguments]
    key = secrets.token_hex(16)
    # Without the second variable llama.cpp calls a debugger when it aborts, which may hang.
    environment = os.environ | {API_KEY_VARIABLE: key, "GGML_NO_BACKTRACE": "1"}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise died(process, log, path)
            ready = json.loads(line)
            yield Started(ready["address"], ready["runtime"], key, process, log)
        finally:
            process.terminate()
            process.communicate()


def died(process: subprocess.Popen[str], log: IO[str], path: Path | None = None) -> ModelError:
    """The error of a llama.cpp that ended by itself, with its last words."""
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
    log.seek(0)
    what = f"llama.cpp cannot load `{path}`" if path else "llama.cpp ended while it answered"
    return ModelError(
        f"{what}: {last_words(log.read(), process.returncode)}",
        "the file is damaged, or this llama.cpp does not know its architecture or tokenizer: export it again",
    )


def last_words(log: str, returncode: int | None) -> str:
    """The line of llama.cpp's log that says why it ended."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    told = [line for line in lines if "GGML_ASSERT" in line] or [line for line in lines if " E " in line]
    if told:
        # Without time and level, `0.00.006.768 E `: the first complaint is the cause of the others.
        return told[0].split(" E ", 1)[-1].strip()[:400]
    return lines[-1][:400] if lines else f"it ended with code {returncode} and said nothing"
