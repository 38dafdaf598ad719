"""Requests in OpenAI's shape, and answers that grow piece by piece."""

from __future__ import annotations

from typing import Any

import pytest

from finetuneflow.deploy.chat_request import read_chat_request
from finetuneflow.deploy.chat_text import GrowingText
from finetuneflow.deploy.guard import Refused

HELLO = [{"role": "user", "content": "Où ?"}]


def test_a_request_with_everything_is_read() -> None:
    request = read_chat_request(
        {
            "model": "whatever-the-application-says",
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Où "}, {"type": "text", "text": "?"}]},
                {"role": "assistant", "content": "Ici.", "name": "a"},
            ],
            "max_completion_tokens": 5,
            "temperature": 0.5,
            "top_p": 1,
            "stop": "fin",
            "seed": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
            "n": 1,
            "tools": [],
            "response_format": {"type": "text"},
            "user": "u",
            "x_vendor": {"any": "thing"},
        }
    )
    assert [turn.message() for turn in request.messages] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Où ?"},
        {"role": "assistant", "content": "Ici."},
    ]
    assert (request.longest_answer, request.stop_texts, request.include_usage) == (5, ["fin"], True)


def test_nulls_ask_for_nothing() -> None:
    names = ("max_tokens", "temperature", "top_p", "stop", "seed", "stream", "stream_options", "n", "tools")
    request = read_chat_request({"messages": HELLO, **dict.fromkeys(names)})
    assert (request.longest_answer, request.stop_texts, request.include_usage) == (None, [], False)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ],
)
def test_a_wrong_value_or_an_option_not_offered_is_refused_by_name(
    change: dict[str, Any], param: str
) -> None:
    with pytest.raises(Refused) as refused:
        read_chat_request({"messages": HELLO} | change)
    assert refused.value.status == 400
    assert refused.value.param == param
    assert param.split(".")[0] in refused.value.message


def test_a_missing_conversation_is_named() -> None:
    with pytest.raises(Refused, match="messages"):
        read_chat_request({})


def test_pictures_are_refused() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:"}}
    with pytest.raises(Refused) as refused:
        read_chat_request({"messages": [{"role": "user", "content": [picture]}]})
    assert (refused.value.status, refused.value.param or "") >= (400, "messages.0.content")


def pieces(texts: list[str], *stop: str) -> tuple[list[str], bool]:
    """What is shown of an answer that grew through `texts`."""
    text = GrowingText(stop)
    shown = []
    for number, whole in enumerate(texts, 1):
        shown.append(text.grow(whole, last=number == len(texts)))
        if text.stopped:
            break
    return shown, text.stopped


def test_white_space_around_an_answer_is_not_shown() -> None:
    assert pieces([" ", " Bon", " Bon ", " Bon jour", " Bon jour \n"])[0] == ["", "Bon", "", " jour", ""]


def test_half_a_character_waits_for_the_other_half() -> None:
    assert pieces(["Lyon \ufffd", "Lyon \ufffd\ufffd", "Lyon 🙂"])[0] == ["Lyon", "", " 🙂"]
    assert pieces(["a", "a\ufffd"])[0] == ["a", "\ufffd"]


def test_a_stop_text_ends_the_answer_and_is_never_shown() -> None:
    growing = ["un", "un E", "un EN", "un END", "un END deux"]
    assert pieces(growing, "END") == (["un", "", "", ""], True)
    assert pieces(["un E", "un EN", "un ENfin"], "END") == (["un", "", " ENfin"], False)
    assert pieces(["un deux trois"], "trois", "deux") == (["un"], True)


@pytest.mark.parametrize("stop", [(), ("b\n",), ("ab", "zz")])
def test_the_pieces_make_the_whole(stop: tuple[str, ...]) -> None:
    whole = " x a b\u00e9\n\n c \ufffd d  "
    growing = [whole[:end] for end in range(1, len(whole) + 1)]
    shown, stopped = pieces(growing, *stop)
    assert "".join(shown) == whole.strip()
    assert not stopped
