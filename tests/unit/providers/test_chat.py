"""Plain answers of other people's servers: what is asked, what is understood, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from finetuneflow.providers.chat import OllamaText, TextClient, has_no_room
from finetuneflow.providers.openai_compatible import EndpointError

MESSAGES = [{"role": "user", "content": "Question ?"}]


@pytest.fixture
def client(chat_server: Any, sleep: Callable[[float], None]) -> Iterator[TextClient]:
    with TextClient(chat_server.url, "small", max_retries=1, sleep=sleep) as made:
        assert isinstance(made, TextClient)
        yield made


def ask(client: TextClient) -> Any:
    return client.complete(MESSAGES, max_new_tokens=7, seed=3)


def test_the_question_is_asked_at_temperature_0_with_a_seed_and_no_schema(
    chat_server: Any, client: TextClient
) -> None:
    chat_server.says("Oui.")
    answer = ask(client)
    assert (answer.text, answer.stopped, answer.new_tokens) == ("Oui.", True, None)
    (request,) = chat_server.requests
    del request["_path"]
    assert request == {
        "model": "small",
        "messages": MESSAGES,
        "temperature": 0,
        "max_tokens": 7,
        "seed": 3,
    }


def test_an_answer_cut_at_the_limit_is_an_answer_and_says_so(chat_server: Any, client: TextClient) -> None:
    chat_server.says("Oui, mais", finish_reason="length")
    chat_server.replies[0][2]["usage"] = {"completion_tokens": 7}
    answer = ask(client)
    assert (answer.text, answer.stopped, answer.new_tokens) == ("Oui, mais", False, 7)


def test_a_model_that_refuses_a_parameter_is_asked_without_it_from_then_on(
    chat_server: Any, client: TextClient
) -> None:
    chat_server.fails(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    chat_server.fails(400, "Unsupported value: 'temperature' does not support 0 with this model.")
    chat_server.says("Oui.")
    assert ask(client).text == ask(client).text == "Oui."
    assert len(chat_server.requests) == 4
    for request in chat_server.requests[2:]:
        assert request["max_completion_tokens"] == 7
        assert "temperature" not in request
        assert "max_tokens" not in request
    assert client.left_out == {"temperature"}


def test_a_prompt_that_does_not_fit_is_told_from_other_refusals(chat_server: Any, client: TextClient) -> None:
    chat_server.fails(400, "This model's maximum context length is 4096 tokens, you requested 5000.")
    with pytest.raises(EndpointError) as caught:
        ask(client)
    assert has_no_room(caught.value)
    chat_server.replies.clear()
    chat_server.fails(401, "the key is no good")
    with pytest.raises(EndpointError) as caught:
        ask(client)
    assert not has_no_room(caught.value)


def test_what_is_no_chat_completion_is_one_clear_error(chat_server: Any, client: TextClient) -> None:
    chat_server.replies.append((200, {}, {"choices": []}))
    with pytest.raises(EndpointError, match="chat completion") as caught:
        ask(client)
    assert caught.value.code == "endpoint_bad_answer"


def test_ollama_counts_its_tokens_and_loading_is_no_time_of_an_answer(chat_server: Any) -> None:
    reply = {
        "message": {"role": "assistant", "content": "Oui."},
        "done_reason": "stop",
        "eval_count": 3,
        "load_duration": 10**12,
    }
    chat_server.replies.append((200, {}, reply))
    with OllamaText(chat_server.url.removesuffix("/v1")) as client:
        assert isinstance(client, OllamaText)
        answer = client.complete("small", MESSAGES, options={"num_ctx": 2048})
    assert answer == ("Oui.", 0.0, 3, True)
    (request,) = chat_server.requests
    assert request["_path"] == "/api/chat"
    assert (request["truncate"], request["shift"], request["options"]) == (False, False, {"num_ctx": 2048})
