"""A chat model behind OpenAI's contract, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from starlette.applications import Starlette

from finetuneflow.deploy import chat_server
from finetuneflow.deploy.chat_request import read_chat_request
from finetuneflow.deploy.chat_server import ChatModel, Piece, new_chat_app
from finetuneflow.deploy.guard import Refused
from finetuneflow.modeling.generate import generate
from finetuneflow.modeling.load import LoadedModel, load_causal_lm

pytestmark = [pytest.mark.integration, pytest.mark.slow]
KEY = "s3cret"
QUESTIONS = ("What is the capital of France?", "Où est Lyon ?", "Count to three.")


def asked(question: str) -> list[Any]:
    return [{"role": "user", "content": question}]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_causal_lm("embedded:tiny", precision="fp32")


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any]) -> Iterator[Any]:
    request = {"engine": "transformers", "base_model": "embedded:tiny", "name": "applications-ia"}
    with start_server(request, api_key=KEY) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def expected(loaded: LoadedModel, question: str, max_new_tokens: int) -> Any:
    return generate(loaded, [asked(question)], max_new_tokens=max_new_tokens, batch_size=1)[0]


def test_it_answers_as_the_run_does_whole_and_streamed(client: openai.OpenAI, loaded: LoadedModel) -> None:
    for question in QUESTIONS:
        told = expected(loaded, question, 24)
        whole = client.chat.completions.create(model="any", messages=asked(question), max_tokens=24)
        assert (whole.object, whole.model, len(whole.choices)) == ("chat.completion", "applications-ia", 1)
        choice = whole.choices[0]
        assert (choice.index, choice.message.role) == (0, "assistant")
        assert choice.message.content == told.text
        assert choice.finish_reason == ("stop" if told.stopped else "length")
        assert whole.usage is not None
        assert whole.usage.completion_tokens == told.new_tokens
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + told.new_tokens

        chunks = list(
            client.chat.completions.create(
                model="any",
                messages=asked(question),
                max_completion_tokens=24,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
        assert len({chunk.id for chunk in chunks}) == 1
        *spoken, usage = chunks
        assert spoken[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in spoken) == told.text
        assert [chunk.choices[0].finish_reason for chunk in spoken[:-1]] == [None] * (len(spoken) - 1)
        assert spoken[-1].choices[0].finish_reason == choice.finish_reason
        assert usage.choices == []
        assert usage.usage == whole.usage
        assert all(chunk.usage is None for chunk in spoken)


def test_a_stream_is_server_sent_events_to_the_last_line(server: Any) -> None:
    body = {"messages": asked(QUESTIONS[0]), "max_tokens": 3, "stream": True}
    reply = httpx.post(
        f"{server.address}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}
    )
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.endswith("data: [DONE]\n\n")
    assert all(event.startswith("data: ") for event in reply.text.strip().split("\n\n"))


def test_the_length_and_a_stop_text_end_an_answer(client: openai.OpenAI, loaded: LoadedModel) -> None:
    text = expected(loaded, QUESTIONS[0], 24).text
    middle = text.split()[1]
    ended = client.chat.completions.create(
        model="any", messages=asked(QUESTIONS[0]), max_tokens=24, stop=[middle, "never"]
    ).choices[0]
    assert ended.message.content == text[: text.index(middle)].rstrip()
    assert ended.finish_reason == "stop"
    cut = client.chat.completions.create(model="any", messages=asked(QUESTIONS[0]), max_tokens=1)
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 1


def test_a_seed_repeats_a_sampled_answer(client: openai.OpenAI) -> None:
    def sampled(seed: int) -> str | None:
        made = client.chat.completions.create(
            model="any", messages=asked(QUESTIONS[0]), max_tokens=16, temperature=2, top_p=0.99, seed=seed
        )
        return made.choices[0].message.content

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1


def test_requests_at_the_same_time_all_get_their_own_answer(
    client: openai.OpenAI, loaded: LoadedModel
) -> None:
    def ask(number: int) -> str | None:
        question = asked(QUESTIONS[number % 3])
        if number % 2:
            stream = client.chat.completions.create(model="a", messages=question, max_tokens=16, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        whole = client.chat.completions.create(model="a", messages=question, max_tokens=16)
        return whole.choices[0].message.content

    told = [expected(loaded, question, 16).text for question in QUESTIONS]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == [told[number % 3] for number in range(6)]


def test_models_are_listed_and_an_unknown_one_is_not_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["applications-ia"]
    assert client.models.retrieve("applications-ia").owned_by == "finetuneflow"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


def test_errors_are_the_clients_own_classes_and_name_the_parameter(
    server: Any, client: openai.OpenAI
) -> None:
    create: Any = client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as tools:
        create(model="a", messages=asked("x"), tools=[{"type": "function", "function": {"name": "f"}}])
    assert (tools.value.param, tools.value.code) == ("tools", "unsupported_parameter")
    with pytest.raises(openai.BadRequestError) as empty:
        create(model="a", messages=[])
    assert empty.value.param == "messages"
    with pytest.raises(openai.BadRequestError) as long:
        create(model="a", messages=asked("word " * 20_000), stream=True)
    assert long.value.code == "context_length_exceeded"
    with (
        openai.OpenAI(base_url=f"{server.address}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as wrong,
    ):
        stranger.models.list()
    assert wrong.value.code == "invalid_api_key"


def test_an_answer_that_nobody_waits_for_is_given_up(loaded: LoadedModel) -> None:
    chat = ChatModel(loaded)
    heard: list[Piece] = []
    over = threading.Event()

    def listen(piece: Piece) -> None:
        heard.append(piece)
        if piece.finish_reason is not None:
            over.set()
        question.cancelled.set()

    request = read_chat_request({"messages": asked(QUESTIONS[2]), "max_tokens": 60})
    started = threading.Lock()
    with started:
        question = chat.ask(chat.encode(asked(QUESTIONS[2])), request, listen)
    assert over.wait(30)
    chat.close()
    assert heard[0].text
    assert heard[-1].new_tokens < expected(loaded, QUESTIONS[2], 60).new_tokens


@contextmanager
def busy(loaded: LoadedModel) -> Iterator[ChatModel]:
    """A model in the middle of an answer, until the test is over."""
    chat = ChatModel(loaded)
    over = threading.Event()
    request = read_chat_request({"messages": asked(QUESTIONS[0]), "max_tokens": 60})
    under_way = threading.Event()

    def hold(_: Piece) -> None:
        under_way.set()
        over.wait(60)

    chat.ask(chat.encode(asked(QUESTIONS[0])), request, hold)
    assert under_way.wait(30)
    try:
        yield chat
    finally:
        over.set()
        chat.close()


def test_a_question_that_was_given_up_frees_its_place(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_server, "MAX_WAITING", 2)
    request = read_chat_request({"messages": asked(QUESTIONS[0]), "max_tokens": 2})
    with busy(loaded) as chat:
        prompt = chat.encode(asked(QUESTIONS[0]))
        waiting = chat.ask(prompt, request, lambda _: None)
        with pytest.raises(Refused) as refused:
            chat.ask(prompt, request, lambda _: None)
        assert refused.value.status == 503
        waiting.cancelled.set()
        chat.ask(prompt, request, lambda _: None)


@pytest.mark.parametrize("pieces", [0, 1])
def test_a_stream_dropped_before_or_at_its_first_piece_frees_its_place(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    monkeypatch.setattr(chat_server, "MAX_WAITING", 2)

    async def ask(app: Starlette, *, leave_after: int | None) -> list[Any]:
        sent: list[Any] = []
        gone = asyncio.Event()
        body = json.dumps({"messages": asked(QUESTIONS[0]), "stream": True, "max_tokens": 2}).encode()
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            message = next(messages, None)
            if message is None and leave_after:
                await gone.wait()
            return message or {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) == 1 + (leave_after or 0):
                gone.set()

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": "POST",
            "path": "/v1/chat/completions",
            "query_string": b"",
            "headers": [],
        }
        await asyncio.wait_for(app(scope, receive, send), 20)
        return sent

    with busy(loaded) as chat:
        app = new_chat_app(chat, name="mine", runtime="test")
        for _ in range(3):
            sent = asyncio.run(ask(app, leave_after=pieces))
            assert not sent or sent[0]["status"] == 200
