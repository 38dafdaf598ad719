"""What clients of OpenAI's chat completions send, read strictly: what is not offered is refused by name."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from finetuneflow.deploy.guard import Refused

NOTHING: tuple[Any, ...] = (None, False, 0, [], {})
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": NOTHING,
    "frequency_penalty": NOTHING,
    "function_call": (*NOTHING, "none"),
    "functions": NOTHING,
    "logit_bias": NOTHING,
    "logprobs": NOTHING,
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "presence_penalty": NOTHING,
    "response_format": (None, {"type": "text"}),
    "tool_choice": (*NOTHING, "none", "auto"),
    "tools": NOTHING,
    "top_logprobs": NOTHING,
}
"""Options of the published contract that are not offered here, with the values that ask for nothing."""


class _Read(BaseModel):
    """Unknown keys are passed over, as clients send their own; types are not bent."""

    model_config = ConfigDict(strict=True, extra="ignore")


class TextPart(_Read):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Turn(_Read):
    """A message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def message(self) -> dict[str, str]:
        """Role and content as chat templates want them."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(_Read):
    """How to stream."""

    include_usage: bool | None = None


class ChatRequest(_Read):
    """A request for an answer."""

    messages: list[Turn] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, gt=0)
    max_completion_tokens: int | None = Field(None, gt=0)
    temperature: float | None = Field(None, ge=0, le=2)
    """Null: greedy, as the model was evaluated."""
    top_p: float | None = Field(None, gt=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def longest_answer(self) -> int | None:
        """Tokens; null when the client leaves it to the server."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stop_texts(self) -> list[str]:
        """Texts that end the answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


def read_chat_request(body: dict[str, Any]) -> ChatRequest:
    """The request in a body.

    Raises:
        Refused: a missing or wrong value, or an option that is not offered, by name.
    """
    for name, harmless in UNSUPPORTED.items():
        if name in body and body[name] not in harmless:
            message = f"`{name}` is not supported by this server"
            raise Refused(400, message, param=name, code="unsupported_parameter")
    try:
        return ChatRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if not str(part).startswith("list["))
        raise Refused(400, f"`{place}`: {first['msg']}", param=place, code="invalid_value") from error
