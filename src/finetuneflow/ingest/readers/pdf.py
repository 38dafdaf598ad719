"""PDF: text, headings, lists and tables by page. No OCR; a scan is refused with the way out."""

from __future__ import annotations

import re
from collections import Counter

import pypdfium2
from liteparse import LayoutBlock, LiteParse, ParsedPage, ParseError, ParseResult

from finetuneflow.errors import InputError
from finetuneflow.ingest.assemble import Piece, assemble, one_line
from finetuneflow.ingest.readers.ruled_table import (
    RuledTable,
    Segment,
    Word,
    continue_table,
    ruled_tables,
    without_glued_marks,
)
from finetuneflow.ingest.readers.text import key_value_lines, read_text
from finetuneflow.schemas.source import Document

_FPDF_ERR_PASSWORD = 4
_PAGE_NUMBER = re.compile(
    r"[-–—\s]*(?:page\s*)?\d{1,4}(?:\s*(?:/|sur|of|de)\s*\d{1,4})?[-–—\s]*", re.IGNORECASE
)
_WORD = re.compile(r"[^\W\d_]+")
_ENDS = re.compile(r"[.!?:;…»”\")\]]$")
_BULLET = re.compile(r"^(?:[-*+•‣–—◦▪]|\(?\w{1,3}[.)])\s")


def read_pdf(data: bytes, name: str, source_id: str) -> Document:
    """The document in the bytes of a PDF.

    Errors: InputError `pdf_invalid`, `pdf_password`, `pdf_no_text`.
    """
    if b"%PDF-" not in data[:1024]:
        raise _invalid()
    notes: list[str] = []
    try:
        parsed = _parse(data)
    except ParseError as error:
        if "password" in str(error).lower():
            raise _password() from error
        pieces, num_pages = _plain_pieces(data)
        notes.append("The layout could not be read: the text has no headings, lists or tables.")
    else:
        pieces, num_pages = _pieces(parsed, notes), parsed.num_pages
    on = "its page" if num_pages == 1 else f"its {num_pages} pages"
    if sum(len(_WORD.findall(piece.text)) + len(piece.rows) for piece in pieces) < 2:
        raise InputError(
            f"there is no text on {on}: it is a scan, or made of pictures",
            "run text recognition first (for example `ocrmypdf -l fra in.pdf out.pdf`) and give the result",
            code="pdf_no_text",
        )
    with_text = {piece.page for piece in pieces}
    without = [str(page) for page in range(1, num_pages + 1) if page not in with_text]
    if without:
        notes.append(f"No text on page {', '.join(without[:10])}{' …' if len(without) > 10 else ''}.")
    return assemble(pieces, source_id=source_id, name=name, num_pages=num_pages, notes=notes)


def _parse(data: bytes) -> ParseResult:
    parser = LiteParse(
        ocr_enabled=False,  # on by default, and then it downloads
        quiet=True,
        extract_links=False,
        extract_blocks=True,
        extract_vector_graphics=True,
        emit_word_boxes=True,
        continue_on_page_error=True,
        num_workers=1,
    )
    return parser.parse(data)


def _invalid() -> InputError:
    return InputError(
        "this is not a PDF, or it is damaged",
        "open it in a PDF reader; if that works, print it to a new PDF, else get it again",
        code="pdf_invalid",
    )


def _password() -> InputError:
    return InputError(
        "the PDF is protected by a password",
        "save it without a password (`qpdf --decrypt --password=… in.pdf out.pdf`) and give the result",
        code="pdf_password",
    )


def _plain_pieces(data: bytes) -> tuple[list[Piece], int]:
    """Text only, by pdfium."""
    try:
        document = pypdfium2.PdfDocument(data)
        pieces = []
        for number in range(len(document)):
            text = document[number].get_textpage().get_text_range()
            for piece in read_text(text.replace("\r\n", "\n").replace("\0", "")):
                piece.page = number + 1
                pieces.append(piece)
        return pieces, len(document)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == _FPDF_ERR_PASSWORD:
            raise _password() from error
        raise _invalid() from error


def _pieces(parsed: ParseResult, notes: list[str]) -> list[Piece]:
    vocabulary = Counter(word.lower() for page in parsed.pages for word in _WORD.findall(page.text))
    pieces: list[Piece] = []
    last_table: list[list[str]] = []
    for page in parsed.pages:
        tables = ruled_tables(_segments(page), _words(page), vocabulary)
        for table in tables:
            continue_table(last_table, table)
            last_table = table.rows
        pieces.extend(_page_pieces(page, tables))
    for error in parsed.page_errors or []:
        notes.append(f"Page {error.page_num} could not be read: {one_line(error.message)}.")
    return _joined(_without_repeats(pieces, parsed.num_pages, notes))


def _page_pieces(page: ParsedPage, tables: list[RuledTable]) -> list[Piece]:
    number = page.page_num
    pieces: list[Piece] = []
    waiting = list(tables)
    placed: list[RuledTable] = []
    for block in page.blocks or []:
        inside = _table_of(block, [*waiting, *placed])
        while waiting and (inside in waiting):
            table = waiting.pop(0)
            placed.append(table)
            pieces.append(Piece("table", rows=table.rows, page=number))
        if inside is None:
            pieces.extend(_block_pieces(block, page))
    pieces.extend(Piece("table", rows=table.rows, page=number) for table in waiting)
    footnotes = any(re.match(r"\d\s+\w", piece.text) for piece in pieces if piece.kind == "paragraph")
    for piece in pieces:
        if footnotes and piece.kind == "table":
            without_glued_marks(piece.rows)
    return pieces


def _table_of(block: LayoutBlock, tables: list[RuledTable]) -> RuledTable | None:
    """The ruled table in which a block lies."""
    if block.bbox is None:
        return None
    x, y = block.bbox.x + block.bbox.width / 2, block.bbox.y + block.bbox.height / 2
    return next((table for table in tables if table.holds(x, y)), None)


def _block_pieces(block: LayoutBlock, page: ParsedPage) -> list[Piece]:
    number = page.page_num
    text = one_line(block.text or "")
    if block.kind == "table":
        rows = [
            [one_line(cell.text) for cell in row] for row in [block.header or [], *(block.rows or [])] if row
        ]
        return [Piece("table", rows=rows, page=number)]
    if block.kind in ("code", "grid_fallback"):
        return [Piece("code", "\n".join(block.lines or []), page=number)]
    if not text or _PAGE_NUMBER.fullmatch(text):
        return []
    if block.kind == "heading":
        return [Piece("heading", text, level=block.level or 1, page=number)]
    if block.kind == "list_item":
        marker = block.marker or "-"
        return [Piece("list_item", f"{marker} {text}", level=block.level or 0, page=number)]
    lines = _lines(block, page)
    if key_value_lines(lines) and one_line(" ".join(lines)) == text:
        return [Piece("paragraph", line, page=number) for line in lines]
    return [Piece("paragraph", text, page=number)]


def _lines(block: LayoutBlock, page: ParsedPage) -> list[str]:
    """The lines of a paragraph as they stand on the page."""
    box = block.bbox
    if box is None:
        return []
    items = [
        item
        for item in page.text_items
        if box.x - 1 <= item.x + item.width / 2 <= box.x + box.width + 1
        and box.y - 1 <= item.y + item.height / 2 <= box.y + box.height + 1
    ]
    lines: list[tuple[float, list[str]]] = []
    for item in sorted(items, key=lambda item: (item.y, item.x)):
        if lines and abs(lines[-1][0] - item.y) < item.height / 2:
            lines[-1][1].append(item.text)
        else:
            lines.append((item.y, [item.text]))
    return [one_line(" ".join(parts)) for _, parts in lines]


def _segments(page: ParsedPage) -> list[Segment]:
    graphics = page.vector_graphics
    if graphics is None:
        return []
    return [Segment(line.x1, line.y1, line.x2, line.y2) for line in graphics.lines]


def _words(page: ParsedPage) -> list[Word]:
    words = []
    for item in page.text_items:
        for box in item.words or [item]:
            words.append(Word(box.text, box.x, box.y, box.width, box.height))
    return words


def _without_repeats(pieces: list[Piece], num_pages: int, notes: list[str]) -> list[Piece]:
    """Pieces without the headers, footers and legends that come back on most pages; the first one stays."""
    pages: dict[str, set[int]] = {}
    for piece in pieces:
        if piece.page is not None and piece.kind != "table":
            pages.setdefault(re.sub(r"\d+", "#", piece.text), set()).add(piece.page)
    often = {text for text, found in pages.items() if len(found) >= max(3, num_pages // 2)}
    seen: set[str] = set()
    kept = []
    for piece in pieces:
        key = re.sub(r"\d+", "#", piece.text)
        if piece.kind != "table" and key in often:
            if key in seen:
                continue
            seen.add(key)
        kept.append(piece)
    if len(kept) < len(pieces):
        notes.append(f"{len(pieces) - len(kept)} repeated headers, footers or legends were left out.")
    return kept


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Pieces with the paragraphs whole that a page or column break cut in two."""
    result: list[Piece] = []
    for piece in pieces:
        before = result[-1] if result else None
        if (
            before is not None
            and piece.kind == before.kind == "paragraph"
            and piece.text[:1].islower()
            and not _BULLET.match(piece.text)
            and not _ENDS.search(before.text)
        ):
            before.text = f"{before.text} {piece.text}"
        else:
            result.append(piece)
    return result
