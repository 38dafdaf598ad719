"""The chat client against a server that follows the published contract, and one that does not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from finetuneflow.errors import UsageError
from finetuneflow.providers.openai_compatible import ChatClient, EndpointError

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
MESSAGES = [{"role": "user", "content": "Question ?"}]


@pytest.fixture
def client(chat_server: Any, sleep: Callable[[float], None]) -> Iterator[ChatClient]:
    with ChatClient(chat_server.url, "small", api_key="s3cret", max_retries=2, sleep=sleep) as made:
        yield made


def ask(client: ChatClient) -> dict[str, Any]:
    return client.complete_json(MESSAGES, schema=SCHEMA, name="answer", seed=7)


def test_the_request_follows_the_contract(chat_server: Any, client: ChatClient) -> None:
    chat_server.says('{"a": 1}')
    assert ask(client) == {"a": 1}
    (request,) = chat_server.requests
    assert request["_path"] == "/v1/chat/completions"
    assert (request["model"], request["messages"], request["seed"]) == ("small", MESSAGES, 7)
    assert request["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    }
    assert chat_server.headers[0]["Authorization"] == "Bearer s3cret"


def test_busy_servers_are_asked_again_after_the_time_they_name(
    chat_server: Any, client: ChatClient, waits: list[float]
) -> None:
    chat_server.fails(429, retry_after="3")
    chat_server.fails(503)
    chat_server.says('{"a": 2}')
    assert ask(client) == {"a": 2}
    assert waits[0] == 3.0
    assert 0.5 <= waits[1] <= 2.0


def test_a_server_that_stays_busy_is_one_clear_error(
    chat_server: Any, client: ChatClient, waits: list[float]
) -> None:
    chat_server.fails(429, "quota\n exceeded")
    with pytest.raises(EndpointError, match="429: quota exceeded") as caught:
        ask(client)
    assert caught.value.code == "endpoint_rate_limited"
    assert len(waits) == 2
    assert len(chat_server.requests) == 3


@pytest.mark.parametrize(("status", "hint"), [(401, "API key"), (404, "`small`"), (418, "address")])
def test_refusals_are_not_retried_and_never_tell_the_key(
    chat_server: Any, client: ChatClient, waits: list[float], status: int, hint: str
) -> None:
    chat_server.fails(status, "nope")
    with pytest.raises(EndpointError) as caught:
        ask(client)
    assert caught.value.code == "endpoint_refused"
    assert hint in caught.value.hint
    assert waits == []
    assert "s3cret" not in caught.value.message + caught.value.hint


def test_a_server_without_schemas_is_asked_for_plain_json_from_then_on(
    chat_server: Any, client: ChatClient
) -> None:
    chat_server.fails(400, "response_format json_schema is not supported")
    chat_server.says('Here it is:\n```json\n{"a": 3}\n```')
    assert ask(client) == {"a": 3}
    assert ask(client) == {"a": 3}
    kinds = [request["response_format"]["type"] for request in chat_server.requests]
    assert kinds == ["json_schema", "json_object", "json_object"]


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        ("I am sorry", "stop", "did not answer with JSON"),
        ('{"a": ', "stop", "did not answer with JSON"),
        ('{"a": 1}', "length", "cut off"),
    ],
)
def test_unusable_answers_are_named(
    chat_server: Any, client: ChatClient, content: str, reason: str, words: str
) -> None:
    chat_server.says(content, finish_reason=reason)
    with pytest.raises(EndpointError, match=words) as caught:
        ask(client)
    assert caught.value.code == "endpoint_bad_answer"


@pytest.mark.parametrize("body", [b"<html>", {"choices": []}, [], {"choices": [{"message": None}]}])
def test_something_else_than_a_completion_is_named(chat_server: Any, client: ChatClient, body: Any) -> None:
    chat_server.replies.append((200, {}, body))
    with pytest.raises(EndpointError, match="did not answer with a chat completion"):
        ask(client)


def test_nobody_there_is_one_clear_error(sleep: Callable[[float], None], waits: list[float]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        ChatClient(f"http://user:pass@127.0.0.1:{port}/v1", "m", max_retries=1, sleep=sleep) as client,
        pytest.raises(EndpointError, match="cannot be reached") as caught,
    ):
        ask(client)
    assert caught.value.code == "endpoint_unreachable"
    assert "pass" not in caught.value.message
    assert len(waits) == 1


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "http://", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="not the address"):
        ChatClient(url, "m")
