"""Building a document's text from its pieces, so that every block knows its exact place in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from finetuneflow.schemas.source import Block, BlockKind, Document

CELL_SEPARATOR = " | "
_BLANKS = re.compile(r"[^\S\n]+")


@dataclass
class Piece:
    """A block that has no place yet."""

    kind: BlockKind
    text: str = ""
    level: int = 0
    page: int | None = None
    rows: list[list[str]] = field(default_factory=list)


def one_line(text: str) -> str:
    """Text on one line, blanks (also non-breaking ones next to others) reduced to one."""
    return " ".join(text.split())


def table_text(rows: list[list[str]]) -> str:
    """Rows as lines, cells parted by ` | `."""
    return "\n".join(CELL_SEPARATOR.join(row).strip() for row in rows)


def assemble(
    pieces: list[Piece],
    *,
    source_id: str,
    name: str,
    num_pages: int | None = None,
    notes: list[str] | None = None,
) -> Document:
    """The document made of `pieces`: a blank line between blocks, none between the items of a list.

    Its language is left for the caller to find (`prose`).
    """
    parts: list[str] = []
    blocks: list[Block] = []
    offset = 0
    before: Piece | None = None
    for piece in pieces:
        text = _clean(piece)
        if not text:
            continue
        if before is not None:
            together = piece.kind == before.kind == "list_item"
            parts.append("\n" if together else "\n\n")
            offset += len(parts[-1])
        parts.append(text)
        blocks.append(
            Block(
                kind=piece.kind,
                text=text,
                start=offset,
                end=offset + len(text),
                level=piece.level,
                page=piece.page,
                rows=piece.rows,
            )
        )
        offset += len(text)
        before = piece
    text = "".join(parts)
    return Document(
        source_id=source_id,
        name=name,
        text=text,
        blocks=blocks,
        num_pages=num_pages,
        notes=notes or [],
    )


def prose(document: Document) -> str:
    """The text of a document without code; the whole text where it has nothing else."""
    return "\n".join(block.text for block in document.blocks if block.kind != "code") or document.text


def _clean(piece: Piece) -> str:
    if piece.kind == "code":
        return piece.text.strip("\n").rstrip()
    if piece.kind == "table":
        width = max((len(row) for row in piece.rows), default=0)
        piece.rows = [[one_line(cell) for cell in row] + [""] * (width - len(row)) for row in piece.rows]
        piece.rows = [row for row in piece.rows if any(row)]
        return table_text(piece.rows)
    return one_line(piece.text)
