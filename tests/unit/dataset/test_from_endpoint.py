"""Questions by a model: only what quotes the source is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetuneflow.dataset.from_documents import generate
from finetuneflow.dataset.from_endpoint import SCHEMA, EndpointGenerator, locate
from finetuneflow.providers.openai_compatible import EndpointError
from finetuneflow.schemas.source import Block, Document

TEXT = (
    "Guide {x}\n\nGestor suit les dossiers des agents de la région depuis 2019."
    " Il remplace les fiches en papier."
)
DOCUMENT = Document(
    source_id="0123456789abcdef",
    name="guide.md",
    text=TEXT,
    blocks=[
        Block(kind="heading", text=TEXT[:9], start=0, end=9, level=1, page=1),
        Block(kind="paragraph", text=TEXT[11:], start=11, end=len(TEXT), page=2),
    ],
    language="fr",
)


class FakeModel:
    """Gives the answers in order; an exception is raised."""

    model = "small"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.prompts: list[str] = []

    def complete_json(
        self, messages: Sequence[Mapping[str, str]], *, schema: Mapping[str, Any], name: str
    ) -> dict[str, Any]:
        assert schema == SCHEMA
        self.prompts.append("\n".join(message["content"] for message in messages))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)


def pairs(*items: tuple[Any, Any]) -> dict[str, Any]:
    return {"pairs": [{"question": question, "quote": quote} for question, quote in items]}


def test_quotes_are_found_and_the_words_of_the_source_are_stored() -> None:
    model = FakeModel(
        pairs(
            ("Que suit Gestor ?", "les dossiers des agents de la région"),
            ("Que fait  Gestor\nen entier ?", "Gestor suit les dosiers des agents de la region depuis 2019."),
            ("Que remplace-t-il ?", "les fiches\n en papier"),
            ("Qui dirige Gestor ?", "Gestor est dirigé par la ministre de la culture."),
            ("Que suit gestor?", "les dossiers"),
            ("", "les dossiers"),
            (None, 3),
        )
    )
    generator = EndpointGenerator(model)
    examples = generate(DOCUMENT, generator=generator)
    assert [(e.question, e.answer) for e in examples] == [
        ("Que suit Gestor ?", "les dossiers des agents de la région"),
        ("Que fait Gestor en entier ?", "Gestor suit les dossiers des agents de la région depuis 2019."),
        ("Que remplace-t-il ?", "les fiches en papier"),
    ]
    for example in examples:
        assert TEXT[example.provenance.start : example.provenance.end] == example.answer
        assert (example.provenance.model, example.provenance.page) == ("small", 2)
    assert [dropped.reason for dropped in generator.dropped] == [
        "not_grounded",
        "duplicate",
        "invalid_pair",
        "invalid_pair",
    ]


def test_the_prompt_is_in_the_language_of_the_document_and_takes_braces() -> None:
    model = FakeModel(pairs())
    assert generate(DOCUMENT, generator=EndpointGenerator(model, questions_per_passage=3)) == []
    (prompt,) = model.prompts
    assert "jusqu'à 3 questions" in prompt
    assert TEXT in prompt
    assert "Guide {x}" in prompt


def test_a_bad_answer_is_asked_for_again_with_what_was_wrong_then_told() -> None:
    wrong = EndpointError("the model did not answer with JSON", code="endpoint_bad_answer")
    model = FakeModel(wrong, pairs(("Que suit Gestor ?", "les dossiers")))
    assert len(generate(DOCUMENT, generator=EndpointGenerator(model))) == 1
    assert "did not answer with JSON" in model.prompts[1]
    generator = EndpointGenerator(FakeModel(wrong, {"questions": []}))
    assert generate(DOCUMENT, generator=generator) == []
    assert [(d.line, d.reason) for d in generator.dropped] == [(1, "invalid_json")]


def test_a_server_that_cannot_be_used_stops_the_run() -> None:
    gone = EndpointError("gone", code="endpoint_unreachable")
    with pytest.raises(EndpointError, match="gone"):
        generate(DOCUMENT, generator=EndpointGenerator(FakeModel(gone)))


def test_long_documents_are_asked_passage_by_passage() -> None:
    parts = [f"Le paragraphe {number} parle de son sujet." for number in range(10)]
    text = "\n\n".join(parts)
    starts = [text.index(part) for part in parts]
    blocks = [
        Block(kind="paragraph", text=p, start=s, end=s + len(p)) for p, s in zip(parts, starts, strict=True)
    ]
    source = Document(source_id="x", name="x", text=text, blocks=blocks, language="fr")
    model = FakeModel(*[pairs((f"Question {n} ?", f"paragraphe {3 * n}")) for n in range(4)])
    examples = generate(source, generator=EndpointGenerator(model, max_characters=130))
    assert [e.answer for e in examples] == ["paragraphe 0", "paragraphe 3", "paragraphe 6", "paragraphe 9"]
    assert sum(json.dumps(prompt).count("parle de son sujet") for prompt in model.prompts) == 10


@given(text=st.text("abcé .,", min_size=1, max_size=80), quote=st.text("abcé .,\n", min_size=1, max_size=40))
def test_a_located_quote_lies_inside_and_reads_alike(text: str, quote: str) -> None:
    span = locate(quote, text, 0, len(text)) if quote.strip() else None
    if span is not None:
        assert 0 <= span[0] < span[1] <= len(text)
        if len(quote.strip()) < 20:
            assert text[slice(*span)].split() == quote.split()
