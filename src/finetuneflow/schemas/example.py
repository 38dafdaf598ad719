"""Examples: chat messages, or text and label; each knows where it comes from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from finetuneflow.schemas.base import Schema

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "validation", "test"]


class Message(Schema):
    """One turn of a conversation."""

    role: Role
    content: str


class Provenance(Schema):
    """Where an example comes from. All optional: an imported dataset may know nothing."""

    source_id: str | None = None
    source_name: str | None = None
    record_ids: list[str] = Field(default_factory=list)
    """Ids of the records that the answer is built from."""
    page: int | None = None
    line: int | None = None
    """1-based line in the imported file, or of the record in its source."""
    start: int | None = None
    """Character span of the answer in the source text: `text[start:end]`."""
    end: int | None = None
    question_type: str | None = None
    """definition, status, domain, actors, sites, comparative, listing, negative, document …"""
    wording: str | None = None
    """Id of the question template, such as `fr.status.3`; the same id is the same wording."""
    fact: str | None = None
    """Key of the fact asked about, such as `42:status`: paraphrases of one question share it."""
    wording_held_out: bool = False
    """True when the wording is kept out of training altogether."""
    generator: str | None = None
    """Name and version of what made the example, such as `records-template/1`."""
    model: str | None = None
    parent: str | None = None
    """Id of the prediction or example that this one was derived from."""


class Example(Schema):
    """Either `messages`, or `text` and `label`."""

    messages: list[Message] = Field(default_factory=list)
    text: str | None = None
    label: str | None = None
    provenance: Provenance = Field(default_factory=Provenance)

    @model_validator(mode="after")
    def _one_shape(self) -> Example:
        if bool(self.messages) == (self.text is not None):
            raise ValueError("an example has either messages, or text and label")
        return self

    @property
    def question(self) -> str:
        """The last user turn, or the text."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.content
        return self.text or ""

    @property
    def answer(self) -> str:
        """The last assistant turn, or the label."""
        for message in reversed(self.messages):
            if message.role == "assistant":
                return message.content
        return self.label or ""
