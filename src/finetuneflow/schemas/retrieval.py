"""Passages that can be looked up, what was found for a question, and how often it was the right one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.interval import Interval

Kind = Literal["bm25", "embeddings", "hybrid"]
"""By shared words, by meaning, or both lists merged."""


class Passage(Schema):
    """A piece of a source, with the way back to it."""

    id: str
    """Of the chunk, or `<source>#<record>`."""
    text: str
    source_id: str
    """SHA-256 of the file's bytes, first 16 hex digits."""
    source_name: str
    """File name."""
    record_id: str | None = None
    chunk_id: str | None = None
    page: int | None = None
    """1-based, where the format has pages."""
    line: int | None = None
    """1-based line of the record in its file."""
    start: int | None = None
    """Character span in the document's text."""
    end: int | None = None
    headings: list[str] = Field(default_factory=list)
    """Titles above the passage, outermost first."""

    @property
    def source(self) -> str:
        """Where the passage stands, for people: file, record and line, or page and title."""
        parts = [self.source_name]
        if self.record_id is not None:
            parts.append(f"record {self.record_id}")
        if self.line is not None and str(self.line) != self.record_id:
            parts.append(f"line {self.line}")
        if self.page is not None:
            parts.append(f"page {self.page}")
        elif self.chunk_id is not None:
            parts.append(f"passage {self.chunk_id.rpartition('-')[2]}")
        if self.headings:
            parts.append(f"“{self.headings[-1]}”")
        return ", ".join(parts)


class Found(Schema):
    """A passage found for a question."""

    rank: int
    """1 is the best."""
    score: float
    """BM25 score, cosine, or reciprocal rank sum: comparable within one search only."""
    passage: Passage


class RetrievalConfig(Schema):
    """How passages are looked up."""

    kind: Kind = "bm25"
    encoder: str = "embedded:minilm"
    """`embedded:minilm`, the folder of an encoder, a hub id; with `url`, the name of a model there."""
    url: str | None = None
    """Address of a server with OpenAI's `/embeddings`, such as `http://localhost:11434/v1` (Ollama)."""
    query_prefix: str | None = None
    """What the encoder wants before a question; null: known by its name (`assets/encoders.yaml`)."""
    passage_prefix: str | None = None
    """What it wants before a passage."""


class SourcedQuestion(Schema):
    """A question whose source is known."""

    text: str
    relevant: list[int]
    """Positions of the passages that it was made from."""


class Miss(Schema):
    """A question whose source was not among the first ten passages."""

    question: str
    expected: str
    """Source of the passage that answers it."""
    found: str | None
    """Source of the passage that came first; null when nothing was found."""


class KindFigures(Schema):
    """How well one kind finds the sources of questions."""

    kind: Kind
    recall: dict[int, Interval]
    """k → mean share of a question's sources among the first k passages (of at most k of them)."""
    mrr: Interval
    """Mean of 1/rank of the first source, 0 beyond rank 100."""
    index_seconds: float
    """Until the index stood: made, or read from the cache."""
    milliseconds_per_question: float
    misses: list[Miss]
    """The first fifty."""


class RetrievalDifference(Schema):
    """One kind against the first one on the same questions."""

    kind: Kind
    baseline: Kind
    k: int
    difference: Interval
    """recall@k, kind minus baseline, paired."""


class RetrievalReport(Schema):
    """What `retrieval measure` gives."""

    passages: int
    questions: int
    """Those measured."""
    sources: int
    """Different passages that they were made from; intervals resample these."""
    left_out: dict[str, int]
    """Reason → questions that cannot be measured."""
    encoder: str | None
    """The encoder that gave the vectors; null without one."""
    kinds: list[KindFigures]
    differences: list[RetrievalDifference]
    notes: list[str]
    seconds: float
