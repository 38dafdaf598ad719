"""A chat model behind OpenAI's HTTP contract: `/v1/chat/completions` (also streamed), `/v1/models`.

Requests wait in line and are answered one at a time, so an answer never depends on who else asks: without a
`temperature` it is the one that the run's evaluation saw.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from jinja2 import TemplateError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from transformers.generation.streamers import BaseStreamer

from finetuneflow.deploy.chat_request import ChatRequest, read_chat_request
from finetuneflow.deploy.chat_text import GrowingText
from finetuneflow.deploy.connection import EventStream, client_gone
from finetuneflow.deploy.guard import HEALTH, Refused, error_body, new_app, read_json
from finetuneflow.deploy.serve_request import ServeRequest
from finetuneflow.modeling.device import describe, prepare
from finetuneflow.modeling.load import LoadedModel, load_causal_lm
from finetuneflow.modeling.tokenize import encode_prompt, end_token_ids

LOG = logging.getLogger(__name__)
MAX_BODY_BYTES = 4 << 20
MAX_WAITING = 64
"""Requests in line; one more is sent away for now."""
LONGEST_ANSWER = 1024
"""Tokens, when the client does not say."""


class Piece(NamedTuple):
    """A part of an answer."""

    text: str
    finish_reason: str | None = None
    """stop or length, in the last piece."""
    new_tokens: int = 0
    """In the last piece; the end token counts."""
    error: Exception | None = None


@dataclass
class Question:
    """A request in line."""

    prompt: list[int]
    request: ChatRequest
    max_new_tokens: int
    send: Callable[[Piece], None]
    """Called from the model's thread."""
    cancelled: threading.Event = field(default_factory=threading.Event)


class _Enough(Exception):
    """Ends a generation from inside."""


class _Listener(BaseStreamer):
    """Hears every token of a generation and sends what can be read of them."""

    def __init__(self, chat: ChatModel, question: Question) -> None:
        self.tokens: list[int] = []
        self.text = GrowingText(question.request.stop_texts)
        self._chat = chat
        self._question = question
        self._prompt_heard = False

    def put(self, value: torch.Tensor) -> None:
        """The prompt first, then token by token."""
        if not self._prompt_heard:
            self._prompt_heard = True
            return
        if self._question.cancelled.is_set():
            raise _Enough
        self.tokens += value.flatten().tolist()
        if self.tokens[-1] in self._chat.ends:
            return
        piece = self.text.grow(self._chat.decode(self.tokens))
        if piece:
            self._question.send(Piece(piece))
        if self.text.stopped:
            raise _Enough

    def end(self) -> None:
        """The generation ended by itself."""

    def close(self) -> None:
        """Sends the last piece."""
        ended = bool(self.tokens) and self.tokens[-1] in self._chat.ends
        words = self.tokens[:-1] if ended else self.tokens
        piece = "" if self.text.stopped else self.text.grow(self._chat.decode(words), last=True)
        reason = "stop" if ended or self.text.stopped else "length"
        self._question.send(Piece(piece, reason, len(self.tokens)))


class ChatModel:
    """A causal language model that answers one question after the other."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._tokenizer = threading.Lock()  # fast tokenizers do not like two threads
        self.ends = end_token_ids(loaded.tokenizer)
        self._limit: int | None = getattr(loaded.model.config, "max_position_embeddings", None)
        self._thread = ThreadPoolExecutor(1, "model", initializer=prepare, initargs=(0,))
        self._questions: dict[int, Question] = {}

    def decode(self, tokens: list[int]) -> str:
        """Text of the tokens, special ones left out."""
        with self._tokenizer:
            text: str = self._loaded.tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def encode(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of a conversation. Raises Refused for one that the chat template refuses."""
        try:
            with self._tokenizer:
                return encode_prompt(self._loaded.tokenizer, messages)
        except TemplateError as error:
            message = f"the model's chat template refuses these messages: {error}"
            raise Refused(400, message, param="messages", code="invalid_value") from error

    def ask(self, prompt: list[int], request: ChatRequest, send: Callable[[Piece], None]) -> Question:
        """Puts a question in line.

        Raises:
            Refused: it does not fit the context, or the line is too long.
        """
        room = self._limit - len(prompt) if self._limit else LONGEST_ANSWER
        if room < 1:
            message = f"the messages are {len(prompt)} tokens, the model reads {self._limit} with the answer"
            raise Refused(400, message, param="messages", code="context_length_exceeded")
        if sum(not waiting.cancelled.is_set() for waiting in self._questions.values()) >= MAX_WAITING:
            raise Refused(503, "too many requests are waiting: try again in a moment", code="overloaded")
        longest = request.longest_answer or LONGEST_ANSWER
        question = Question(prompt, request, min(longest, room) if self._limit else longest, send)
        self._questions[id(question)] = question
        self._thread.submit(self._answer, question)
        return question

    def _answer(self, question: Question) -> None:
        listener = _Listener(self, question)
        try:
            if not question.cancelled.is_set():
                self._generate(question, listener)
            listener.close()
        except Exception as error:  # whoever waits must hear of it
            LOG.exception("an answer failed")
            question.send(Piece("", error=error))
        finally:
            self._questions.pop(id(question), None)

    @torch.inference_mode()
    def _generate(self, question: Question, listener: _Listener) -> None:
        temperature = question.request.temperature or 0.0
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature > 0:
            seed = question.request.seed
            torch.manual_seed(secrets.randbits(63) if seed is None else seed % (1 << 63))
            top_p = question.request.top_p or 1.0
            sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        input_ids = torch.tensor([question.prompt], device=self._loaded.device)
        try:
            self._loaded.model.generate(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=question.max_new_tokens,
                eos_token_id=self.ends,
                pad_token_id=self._loaded.tokenizer.pad_token_id,
                streamer=listener,
                **sampling,
            )
        except _Enough:
            pass

    def close(self) -> None:
        """Ends the answer under way at its next token, and all that wait."""
        for question in list(self._questions.values()):
            question.cancelled.set()
        self._thread.shutdown()


class Conversation:
    """One request being answered: the pieces as they come, and the shapes they are sent in."""

    def __init__(self, chat: ChatModel, name: str, prompt: list[int], request: ChatRequest) -> None:
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": name,
        }
        self._prompt_tokens = len(prompt)
        self._include_usage = request.include_usage
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def send(piece: Piece) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        self._question = chat.ask(prompt, request, send)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Every piece, the last one with a finish reason; who stops listening stops the generation."""
        try:
            while True:
                piece = await self._pieces.get()
                if piece.error is not None:
                    raise Refused(500, "the model failed on this request") from piece.error
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            self._question.cancelled.set()

    def cancel(self) -> None:
        """Stops the generation at its next token."""
        self._question.cancelled.set()

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        text, last = "", Piece("")
        async for piece in self.pieces():
            text, last = text + piece.text, piece
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish_reason}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self._usage(last.new_tokens),
        }

    async def events(self) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        yield self._chunk({"role": "assistant", "content": ""})
        try:
            async for piece in self.pieces():
                if piece.text:
                    yield self._chunk({"content": piece.text})
                if piece.finish_reason is not None:
                    yield self._chunk({}, piece.finish_reason)
                    if self._include_usage:
                        yield self._event(choices=[], usage=self._usage(piece.new_tokens))
        except Refused as refused:
            yield f"data: {json.dumps(error_body(refused))}\n\n"
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._event(choices=[choice], **({"usage": None} if self._include_usage else {}))

    def _event(self, **content: Any) -> str:
        event = {**self._head, "object": "chat.completion.chunk", **content}
        return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"

    def _usage(self, new_tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": new_tokens,
            "total_tokens": self._prompt_tokens + new_tokens,
        }


async def _watch(request: Request, conversation: Conversation) -> None:
    """Stops the generation when the client goes away."""
    await client_gone(request)
    conversation.cancel()


def new_chat_app(chat: ChatModel, *, name: str, runtime: str) -> Starlette:
    """The application over a chat model."""
    created = int(time.time())

    def described() -> dict[str, Any]:
        return {"id": name, "object": "model", "created": created, "owned_by": "finetuneflow"}

    async def complete(request: Request) -> Response:
        asked = read_chat_request(await read_json(request, max_bytes=MAX_BODY_BYTES))
        prompt = await asyncio.to_thread(chat.encode, [turn.message() for turn in asked.messages])
        conversation = Conversation(chat, name, prompt, asked)
        if asked.stream:
            return EventStream(conversation.events(), on_end=conversation.cancel)
        watch = asyncio.create_task(_watch(request, conversation))
        try:
            return JSONResponse(await conversation.whole())
        finally:
            watch.cancel()

    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [described()]})

    async def model(request: Request) -> JSONResponse:
        asked = request.path_params["name"]
        if asked != name:
            message = f"the model `{asked}` does not exist; this server has `{name}`"
            raise Refused(404, message, param="model", code="model_not_found")
        return JSONResponse(described())

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "model": name, "runtime": runtime})

    return new_app(
        [
            Route("/v1/chat/completions", complete, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route(HEALTH, health),
        ]
    )


@contextmanager
def open_app(request: ServeRequest) -> Iterator[tuple[Starlette, str]]:
    """Application and runtime of a chat model.

    Raises:
        NotFoundError, ModelError: the model cannot be loaded.
    """
    prepare(0)
    loaded = load_causal_lm(
        request.model or request.base_model,
        precision="fp32" if request.precision == "fp32" else "auto",
        adapter=Path(request.adapter) if request.adapter else None,
    )
    number_format = "bf16" if loaded.dtype == torch.bfloat16 else "fp32"
    runtime = f"transformers {transformers.__version__}, {describe(loaded.device)}, {number_format}"
    chat = ChatModel(loaded)
    try:
        yield new_chat_app(chat, name=request.name, runtime=runtime), runtime
    finally:
        chat.close()
