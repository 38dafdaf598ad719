"""Passages for retrieval and generation, cut along the structure of a document."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetuneflow.schemas.source import Block, Chunk, Document

_SENTENCE_END = re.compile(r"[.!?…;:][»”\"')\]]*\s+|\n+")
_BLANK = re.compile(r"\s+")


def chunk_document(document: Document, *, max_characters: int = 1200) -> list[Chunk]:
    """Chunks in order; `text == document.text[start:end]`, and each non-blank character lies in exactly one.

    A chunk keeps to one section, begins with its title, and holds whole lists and tables where they fit into
    `max_characters`; longer blocks are cut between rows, lines or sentences, else between words. A word
    that is longer stays whole.
    """
    chunks: list[Chunk] = []
    for headings, blocks in _sections(document.blocks):
        for start, end, page in _pack(document.text, blocks, max_characters):
            chunks.append(
                Chunk(
                    id=f"{document.source_id}-{len(chunks) + 1}",
                    source_id=document.source_id,
                    source_name=document.name,
                    text=document.text[start:end],
                    start=start,
                    end=end,
                    headings=headings,
                    page=page,
                )
            )
    return chunks


def _sections(blocks: list[Block]) -> Iterator[tuple[list[str], list[Block]]]:
    """Titles above, and the blocks that a title heads; titles that follow one another stay together."""
    titles: list[tuple[int, str]] = []
    section: list[Block] = []
    for block in blocks:
        if block.kind == "heading":
            if section and section[-1].kind != "heading":
                yield [title for _, title in titles], section
                section = []
            while titles and titles[-1][0] >= block.level:
                titles.pop()
            titles.append((block.level, block.text))
        section.append(block)
    if section:
        yield [title for _, title in titles], section


def _pack(text: str, blocks: list[Block], limit: int) -> Iterator[tuple[int, int, int | None]]:
    """Spans of a section, each as full as can be."""
    start = end = -1
    page: int | None = None
    for unit_start, unit_end, unit_page in _units(blocks):
        if start >= 0 and unit_end - start <= limit:
            end = unit_end
            continue
        if start >= 0 and unit_end - unit_start <= limit and not _only_titles(blocks, start, end):
            yield start, end, page
            start, end, page = unit_start, unit_end, unit_page
            continue
        if start < 0:
            start, page = unit_start, unit_page
        *whole, (start, end) = _cut(text, start, unit_end, limit)
        for piece_start, piece_end in whole:
            yield piece_start, piece_end, page
            page = unit_page
    if start >= 0:
        yield start, end, page


def _units(blocks: list[Block]) -> Iterator[tuple[int, int, int | None]]:
    """Blocks, a run of list items as one, with the sentence that leads to it."""
    index = 0
    while index < len(blocks):
        last = index
        block = blocks[index]
        leads = block.kind == "paragraph" and block.text.endswith(":")
        while last + 1 < len(blocks) and blocks[last + 1].kind == "list_item":
            if not leads and blocks[last].kind != "list_item":
                break
            last += 1
        yield block.start, blocks[last].end, block.page
        index = last + 1


def _only_titles(blocks: list[Block], start: int, end: int) -> bool:
    """True when a span holds nothing but titles: they belong with what follows."""
    return all(block.kind == "heading" for block in blocks if start <= block.start < end)


def _cut(text: str, start: int, end: int, limit: int) -> list[tuple[int, int]]:
    """Spans of at most `limit` characters that together hold every non-blank character of a span."""
    spans = []
    while end - start > limit:
        cut = _place(text, start, end, limit)
        if cut is None:
            break
        spans.append((start, start + len(text[start:cut].rstrip())))
        start = cut
        while start < end and text[start].isspace():
            start += 1
    spans.append((start, end))
    return spans


def _place(text: str, start: int, end: int, limit: int) -> int | None:
    """Where to cut: after the last sentence or line that fits, else between words, else after a long word."""
    window = start + limit
    ends = [match.end() for match in _SENTENCE_END.finditer(text, start, min(window + 2, end))]
    good = [
        place for place in ends if start + limit // 3 <= place and len(text[start:place].rstrip()) <= limit
    ]
    if good:
        return good[-1]
    blanks = [match.start() for match in _BLANK.finditer(text, start, min(window + 1, end))]
    if blanks and blanks[-1] > start:
        return blanks[-1]
    after = _BLANK.search(text, window, end)
    return after.start() if after else None
