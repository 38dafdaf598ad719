"""Whoever answers: one interface; here those that answer one conversation per request. No torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from finetuneflow.artifacts import sha256_file
from finetuneflow.errors import FineTuneFlowError, InputError
from finetuneflow.modeling.llama_cpp import Llama, open_llama
from finetuneflow.providers.chat import ChatText, OllamaText, TextClient, has_no_room
from finetuneflow.providers.ollama import check_place, server_url
from finetuneflow.schemas.answerer import Answered, AnswererSpec
from finetuneflow.schemas.deployment import DEFAULT_OLLAMA_URL

Conversation = list[dict[str, str]]
"""Role and content of each turn, the last one from the user."""
API_KEY_VARIABLE = "FTF_ENDPOINT_API_KEY"
OPENAI_HOST = "api.openai.com"
OLLAMA_CONTEXT_STEP = 2048
OLLAMA_CONTEXT_MOST = 32768


class Generation(NamedTuple):
    """How answers are made: greedily, and with this seed where a server draws lots all the same."""

    max_new_tokens: int = 96
    seed: int = 0
    batch_size: int = 16
    """Conversations that a local model reads together."""


class Answerer(Protocol):
    """A model that answers conversations, greedily."""

    identity: str
    """What exactly answers, content hashes included: equal identities give equal answers."""
    batch: int | None
    """Conversations computed together; None: each by itself, in any number."""
    limit: int | None
    """Longest conversation with its answer, in the unit of `size`; None: only asking will tell."""

    def prompt(self, messages: Conversation) -> str:
        """What the model is given, or what decides it: equal prompts have equal answers."""

    def size(self, messages: Conversation) -> int:
        """Length of a conversation: tokens where they are known, else characters."""

    def answer(self, conversations: Sequence[Conversation]) -> Iterator[Mapping[int, Answered]]:
        """Positions to answers as they come, those of a batch together."""


class Requests:
    """Answers by one request per conversation, several at once."""

    batch: int | None = None
    limit: int | None = None

    def __init__(self, identity: str, ask: Callable[[Conversation], ChatText], parallel: int) -> None:
        self.identity = identity
        self._ask = ask
        self._parallel = parallel

    def prompt(self, messages: Conversation) -> str:
        """The conversation itself: the template is the server's, and part of its identity."""
        return json.dumps(messages, ensure_ascii=False, sort_keys=True)

    def size(self, messages: Conversation) -> int:
        """Characters."""
        return sum(len(turn["content"]) for turn in messages)

    def answer(self, conversations: Sequence[Conversation]) -> Iterator[Mapping[int, Answered]]:
        """Positions to answers as they come. Raises what the server's client raises."""
        waiting: dict[Future[Answered], int] = {}
        queue = iter(enumerate(conversations))
        last = time.perf_counter()
        with ThreadPoolExecutor(self._parallel) as pool:
            while True:
                for position, messages in queue:
                    waiting[pool.submit(self._answered, messages)] = position
                    if len(waiting) >= self._parallel:
                        break
                if not waiting:
                    return
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                now = time.perf_counter()
                share, last = (now - last) / len(done), now
                failed = [future for future in done if future.exception() is not None]
                yield {
                    waiting.pop(future): future.result().model_copy(update={"busy_seconds": share})
                    for future in done
                    if future not in failed
                }
                for future in failed:
                    future.result()  # raises, after what came with it was kept

    def _answered(self, messages: Conversation) -> Answered:
        try:
            made = self._ask(messages)
        except FineTuneFlowError as error:
            if not has_no_room(error):
                raise
            return Answered(text="", seconds=0, busy_seconds=0, stopped=False, refused=error.message)
        return Answered(
            text=made.text.strip(),
            seconds=made.seconds,
            busy_seconds=made.seconds,
            new_tokens=made.new_tokens,
            stopped=made.stopped,
        )


@contextmanager
def open_requests(
    spec: AnswererSpec, how: Generation, conversations: Sequence[Conversation] = ()
) -> Iterator[Requests]:
    """A GGUF file through llama.cpp, a model of an Ollama server, or of an OpenAI-compatible endpoint.

    Args:
        spec: Who answers; `local` is not for here.
        how: Settings.
        conversations: What will be asked, as far as it is known: Ollama's context is made to hold it.

    Raises:
        UsageError, NotFoundError, DependencyError, ModelError, OllamaError, EndpointError.
    """
    opened = {"gguf": _gguf, "ollama": _ollama, "endpoint": _endpoint}[spec.kind]
    with ExitStack() as stack:
        yield opened(spec, how, conversations, stack)


def _gguf(
    spec: AnswererSpec, how: Generation, conversations: Sequence[Conversation], stack: ExitStack
) -> Requests:
    path = Path(spec.model)
    if not path.is_file():
        raise InputError(f"there is no file `{path}`", "export the run again", path=path)
    opened: list[Llama] = []

    def ask(messages: Conversation) -> ChatText:
        made = opened[0].chat(messages, max_new_tokens=how.max_new_tokens, reuse=False)
        if not made.stopped and made.new_tokens < how.max_new_tokens:
            raise InputError("the answer does not fit: it would exceed the context", "ask a shorter question")
        return ChatText(made.text, made.seconds, made.new_tokens, made.stopped)

    class Started(Requests):
        """llama.cpp is started by the first question, for there may be none."""

        def answer(self, conversations: Sequence[Conversation]) -> Iterator[Mapping[int, Answered]]:
            if not opened and conversations:
                opened.append(stack.enter_context(open_llama(path, parallel=spec.parallel)))
            return super().answer(conversations)

    try:
        version = importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        version = "none"  # `open_llama` says what to install
    return Started(f"gguf {sha256_file(path)[:16]} by xllamacpp {version}", ask, spec.parallel)


def _ollama(
    spec: AnswererSpec, how: Generation, conversations: Sequence[Conversation], stack: ExitStack
) -> Requests:
    url = server_url(spec.url or DEFAULT_OLLAMA_URL)
    check_place(url, allow_remote=False)
    client = OllamaText(url)
    stack.enter_context(client)
    shown = json.dumps(client.show(spec.model), sort_keys=True)
    options = {
        "temperature": 0,
        "seed": how.seed,
        "num_predict": how.max_new_tokens,
        "num_ctx": context_for(conversations, how.max_new_tokens),
    }
    content = hashlib.sha256(shown.encode()).hexdigest()[:16]

    def ask(messages: Conversation) -> ChatText:
        return client.complete(spec.model, messages, options=options)

    return Requests(f"ollama {spec.model} {content} at {url}", ask, spec.parallel)


def context_for(conversations: Sequence[Conversation], max_new_tokens: int) -> int:
    """`num_ctx` that holds the longest conversation and its answer; another number makes Ollama reload.

    No server says how many tokens a text has before it is asked: two characters a token, and one byte a token
    outside Latin script, is more than usual.
    """
    longest = max(
        (sum(len(turn["content"].encode()) // 2 + 16 for turn in messages) for messages in conversations),
        default=0,
    )
    steps = -(-(longest + max_new_tokens + 64) // OLLAMA_CONTEXT_STEP)
    return min(max(steps, 1) * OLLAMA_CONTEXT_STEP, OLLAMA_CONTEXT_MOST)


def _endpoint(
    spec: AnswererSpec, how: Generation, conversations: Sequence[Conversation], stack: ExitStack
) -> Requests:
    url = spec.url or ""
    client = TextClient(url, spec.model, api_key=api_key(url))
    stack.enter_context(client)

    def ask(messages: Conversation) -> ChatText:
        return client.complete(messages, max_new_tokens=how.max_new_tokens, seed=how.seed)

    return Requests(f"endpoint {spec.model} at {url}", ask, spec.parallel)


def api_key(url: str) -> str | None:
    """The key for an endpoint, from the environment: ours, or OpenAI's for OpenAI's own server alone."""
    if key := os.environ.get(API_KEY_VARIABLE):
        return key
    return os.environ.get("OPENAI_API_KEY") if urlsplit(url).hostname == OPENAI_HOST else None
