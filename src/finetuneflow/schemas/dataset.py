"""Datasets: field mappings, versions, ledgers and the reports about them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.example import Split

QuestionType = Literal["definition", "status", "domain", "actors", "sites", "comparative", "listing"]
DatasetFormat = Literal["openai", "alpaca", "sharegpt", "prompt_completion", "text_label"]
SplitStrategy = Literal["group", "paraphrase"]


class FieldMapping(Schema):
    """Which fields of a record answer which type of question (a YAML file, guessed then edited)."""

    language: Literal["fr", "en"] = "fr"
    entity: str = "application"
    """What a record is, singular noun in the language of the questions: application, logiciel, service."""
    entity_gender: Literal["f", "m"] = "f"
    """Grammatical gender of `entity`, for articles and agreement in French."""
    id: str | None = None
    """Field with the record's identifier."""
    name: str
    """Field with the record's name."""
    long_name: str | None = None
    definition: list[str] = Field(default_factory=list)
    status: list[str] = Field(default_factory=list)
    domain: list[str] = Field(default_factory=list)
    actors: list[str] = Field(default_factory=list)
    sites: list[str] = Field(default_factory=list)
    value_labels: dict[str, dict[str, str]] = Field(default_factory=dict)
    """field → code → words to say instead, such as `statut: {R: recommandé}`."""
    separators: str = ";,|"
    """Characters that separate several values in one cell (for multi-valued fields)."""


class Dropped(Schema):
    """A row that did not make it, and why: rows in = rows kept + rows dropped."""

    line: int
    """1-based line or position in the source."""
    reason: str
    """One word: invalid_json, missing_role, empty_answer, duplicate, conflict …"""
    message: str
    """What is wrong, for people."""
    remedy: str = ""


class ValidationReport(Schema):
    """What was read, kept and dropped, line by line."""

    path: str
    format: str
    rows: int
    valid: int
    dropped: list[Dropped] = Field(default_factory=list)
    warnings: list[Dropped] = Field(default_factory=list)
    """Rows that stay, with something to look at (conflicting answers, very long, repaired text)."""


class SplitCounts(Schema):
    """Number of examples per split."""

    train: int = 0
    validation: int = 0
    test: int = 0


class Statistics(Schema):
    """Figures about a dataset; lengths in characters."""

    examples: int
    splits: SplitCounts
    question_types: dict[str, int] = Field(default_factory=dict)
    labels: dict[str, int] = Field(default_factory=dict)
    question_characters_mean: float = 0.0
    answer_characters_mean: float = 0.0
    answer_characters_max: int = 0
    answer_words_mean: float = 0.0
    exact_duplicates: int = 0
    negatives: int = 0
    held_out_wordings: int = 0


class CoverageReport(Schema):
    """Which records a dataset speaks of."""

    records: int
    covered: int
    uncovered: list[str] = Field(default_factory=list)
    """Names (or ids) of the records that no example speaks of."""
    coverage: float
    """covered / records, 0 to 1."""
    question_types: dict[str, int] = Field(default_factory=dict)
    by_record: dict[str, int] = Field(default_factory=dict)
    """Record name → number of examples."""
    recommendations: list[str] = Field(default_factory=list)


class DatasetVersion(Schema):
    """An immutable set of examples, named by the hash of its content."""

    id: str
    """`ds-` and the first 12 hex digits of `content_hash`."""
    name: str
    content_hash: str
    """SHA-256 over the canonical examples and their splits."""
    task: Literal["causal_lm", "sequence_classification"] = "causal_lm"
    counts: SplitCounts
    split_strategy: str = "group"
    seed: int = 0
    parent: str | None = None
    frozen: bool = False
    """True once a run used it."""
    labels: list[str] = Field(default_factory=list)
    path: str = ""
    """Folder of the version."""
    created_at: str = ""
    ledger: dict[str, int] = Field(default_factory=dict)
    """rows in, kept, dropped by reason."""


class SplitFile(Schema):
    """One split on disk."""

    split: Split
    path: str
    examples: int
