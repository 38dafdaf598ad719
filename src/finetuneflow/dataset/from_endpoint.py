"""Questions on documents by a language model; only answers that quote the source are kept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any, Protocol

from jinja2 import Template
from jinja2.sandbox import SandboxedEnvironment
from rapidfuzz import fuzz

from finetuneflow.dataset.french import fold
from finetuneflow.providers.openai_compatible import EndpointError
from finetuneflow.schemas.dataset import Dropped
from finetuneflow.schemas.example import Example, Message, Provenance
from finetuneflow.schemas.source import Document

GENERATOR = "documents-endpoint/1"
MIN_ALIGNMENT = 95.0
"""Similarity, 0 to 100, from which a quote with slips counts as found; the source's own words are stored."""
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "pairs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"question": {"type": "string"}, "quote": {"type": "string"}},
                "required": ["question", "quote"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["pairs"],
    "additionalProperties": False,
}
_FATAL = ("endpoint_unreachable", "endpoint_refused", "endpoint_rate_limited", "endpoint_failed")


class JsonModel(Protocol):
    """What is asked: see `providers.openai_compatible.ChatClient`."""

    model: str

    def complete_json(
        self, messages: Sequence[Mapping[str, str]], *, schema: Mapping[str, Any], name: str
    ) -> dict[str, Any]:
        """The answer as an object."""
        ...


class EndpointGenerator:
    """A `Generator` that asks a model for questions with verbatim quotes, passage by passage.

    `dropped` tells after `generate` what was refused and why; its `line` is the number of the passage.
    """

    def __init__(
        self, client: JsonModel, *, questions_per_passage: int = 5, max_characters: int = 4000
    ) -> None:
        self.dropped: list[Dropped] = []
        self._client = client
        self._number = questions_per_passage
        self._max_characters = max_characters

    def generate(self, document: Document) -> list[Example]:
        """Grounded examples. A passage whose answer is unusable twice is left out and told in `dropped`.

        Errors: EndpointError when the server cannot be used at all.
        """
        self.dropped = []
        examples: list[Example] = []
        asked: set[str] = set()
        for number, (start, end, headings) in enumerate(_passages(document, self._max_characters), 1):
            for pair in self._ask(document, start, end, headings, number):
                example = self._example(document, start, end, pair, number)
                if example is None:
                    continue
                if fold(example.question) in asked:
                    self._drop(number, "duplicate", f"asked before: {example.question}")
                    continue
                asked.add(fold(example.question))
                examples.append(example)
        return examples

    def _ask(self, document: Document, start: int, end: int, headings: list[str], number: int) -> list[Any]:
        prompt = _prompt(document.language).render(
            passage=document.text[start:end], headings=headings, number=self._number
        )
        messages = [{"role": "user", "content": prompt}]
        for attempt in range(2):
            try:
                pairs = self._client.complete_json(messages, schema=SCHEMA, name="pairs").get("pairs")
            except EndpointError as error:
                if error.code in _FATAL:
                    raise
                problem = error.message
            else:
                if isinstance(pairs, list):
                    return pairs
                problem = "the answer has no list `pairs`"
            if attempt == 0:
                messages.append(
                    {"role": "user", "content": f"{problem}. Answer again, with the JSON object alone."}
                )
        self._drop(number, "invalid_json", problem, "run it again, or use a larger model")
        return []

    def _example(self, document: Document, start: int, end: int, pair: Any, number: int) -> Example | None:
        question = pair.get("question") if isinstance(pair, dict) else None
        quote = pair.get("quote") if isinstance(pair, dict) else None
        if (
            not isinstance(question, str)
            or not isinstance(quote, str)
            or len(fold(question)) < 3
            or not fold(quote)
        ):
            self._drop(number, "invalid_pair", "a pair without a question or a quote")
            return None
        span = locate(quote, document.text, start, end)
        if span is None:
            self._drop(number, "not_grounded", f"the quote is not in the source: {quote[:120]}")
            return None
        answer = document.text[slice(*span)]
        page = next((b.page for b in document.blocks if b.start <= span[0] < b.end), None)
        return Example(
            messages=[
                Message(role="user", content=" ".join(question.split())),
                Message(role="assistant", content=answer),
            ],
            provenance=Provenance(
                source_id=document.source_id,
                source_name=document.name,
                page=page,
                start=span[0],
                end=span[1],
                question_type="document.model",
                fact=f"{document.source_id}:{span[0]}-{span[1]}:model",
                generator=GENERATOR,
                model=self._client.model,
            ),
        )

    def _drop(self, passage: int, reason: str, message: str, remedy: str = "") -> None:
        self.dropped.append(Dropped(line=passage, reason=reason, message=message, remedy=remedy))


def locate(quote: str, text: str, start: int, end: int) -> tuple[int, int] | None:
    """Where `quote` stands in `text[start:end]`: exactly, else up to blanks, else nearly (whole words)."""
    quote = quote.strip()
    found = text.find(quote, start, end)
    if found >= 0:
        return found, found + len(quote)
    loose = r"\s+".join(re.escape(part) for part in quote.split())
    match = re.compile(loose).search(text, start, end)
    if match:
        return match.span()
    if len(quote) < 20:
        return None
    near = fuzz.partial_ratio_alignment(quote, text[start:end], score_cutoff=MIN_ALIGNMENT)
    if near is None or len(quote) > end - start:
        return None
    return _best_edges(quote, text, (start, end), (start + near.dest_start, start + near.dest_end))


def _best_edges(
    quote: str, text: str, inside: tuple[int, int], near: tuple[int, int]
) -> tuple[int, int] | None:
    """The span of whole words around `near` that is most like `quote`.

    The alignment is as long as the quote, so slips in the quote move its edges.
    """
    slack = 2 + len(quote) // 20
    lows = [
        p for p in range(near[0] - slack, near[0] + slack + 1) if inside[0] <= p and _starts_word(text, p)
    ]
    highs = [p for p in range(near[1] - slack, near[1] + slack + 1) if p <= inside[1] and _ends_word(text, p)]
    spans = [(low, high) for low in lows for high in highs if low < high]
    if not spans:
        return None
    best = max(spans, key=lambda span: fuzz.ratio(quote, text[slice(*span)]))
    return best if fuzz.ratio(quote, text[slice(*best)]) >= MIN_ALIGNMENT else None


def _starts_word(text: str, place: int) -> bool:
    inner = place > 0 and text[place - 1 : place].isalnum()
    return place < len(text) and not text[place].isspace() and not (inner and text[place].isalnum())


def _ends_word(text: str, place: int) -> bool:
    inner = place < len(text) and text[place].isalnum()
    return place > 0 and not text[place - 1].isspace() and not (inner and text[place - 1].isalnum())


def _passages(document: Document, limit: int) -> Iterator[tuple[int, int, list[str]]]:
    """Runs of blocks of at most `limit` characters (a longer block stands alone), with the titles above."""
    start = end = -1
    titles: list[tuple[int, str]] = []
    above: list[str] = []
    for block in document.blocks:
        if block.kind == "heading":
            while titles and titles[-1][0] >= block.level:
                titles.pop()
            titles.append((block.level, block.text))
        if start >= 0 and block.end - start > limit:
            yield start, end, above
            start = -1
        if start < 0:
            start, above = block.start, [title for _, title in titles]
        end = block.end
    if start >= 0:
        yield start, end, above


@lru_cache(maxsize=4)
def _prompt(language: str) -> Template:
    name = f"document_questions.{language}.jinja"
    source = resources.files("finetuneflow").joinpath("assets", "prompts", name).read_text(encoding="utf-8")
    return SandboxedEnvironment(autoescape=False).from_string(source)
