"""Sources and what is read out of them: documents with blocks, chunks, records."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetuneflow.schemas.base import Schema

SourceKind = Literal["document", "records", "dataset", "predictions"]
BlockKind = Literal["heading", "paragraph", "list_item", "table", "code"]
FieldValue = str | list[str]


class Block(Schema):
    """One structural piece of a document. `text == document.text[start:end]`."""

    kind: BlockKind
    text: str
    start: int
    """Character offset in the document's text."""
    end: int
    level: int = 0
    """Heading level 1-6, list nesting, else 0."""
    page: int | None = None
    """1-based page, where the format has pages."""
    rows: list[list[str]] = Field(default_factory=list)
    """Cells of a table, header first; empty for other kinds."""


class Document(Schema):
    """A document as text with structure."""

    source_id: str
    """SHA-256 of the file's bytes, first 16 hex digits."""
    name: str
    """File name."""
    text: str
    blocks: list[Block]
    num_pages: int | None = None
    language: str = "en"
    """`fr` or `en` (what the generator speaks), detected."""
    notes: list[str] = Field(default_factory=list)
    """What was repaired or left out while reading, one sentence each."""


class Chunk(Schema):
    """A retrievable passage. `text == document.text[start:end]`."""

    id: str
    source_id: str
    source_name: str
    text: str
    start: int
    end: int
    headings: list[str] = Field(default_factory=list)
    """Titles above the passage, outermost first."""
    page: int | None = None


class Record(Schema):
    """One row or object of a record source, values as text (lists kept as lists), empty values left out."""

    id: str
    """Stable id: the record's own id field when it has one, else its position, 1-based."""
    line: int
    """1-based line (CSV) or position (JSON) in the source file, for messages."""
    fields: dict[str, FieldValue]


class RecordSource(Schema):
    """All records of one file."""

    source_id: str
    name: str
    fields: list[str]
    """Every field name, in file order."""
    records: list[Record]
    language: str = "fr"
    """`fr` or `en`, detected from names and values."""
    notes: list[str] = Field(default_factory=list)
