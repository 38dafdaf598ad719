"""DOCX: headings, lists, tables and code by mammoth; text boxes and the like from the raw XML."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from html.parser import HTMLParser
from xml.etree import ElementTree

import mammoth

from finetuneflow.errors import InputError
from finetuneflow.ingest.assemble import Piece, assemble, one_line
from finetuneflow.ingest.readers.docx_styles import style_map
from finetuneflow.schemas.source import Document

MAX_UNPACKED_BYTES = 400 * 1024 * 1024
MAX_XML_BYTES = 60 * 1024 * 1024
_OLE = b"\xd0\xcf\x11\xe0"
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_STRICT = b"http://purl.oclc.org/ooxml/wordprocessingml/main"
_TRANSITIONAL = b"http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_MC_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_HEADING = re.compile(r"h([1-6])")


def read_docx(data: bytes, name: str, source_id: str) -> Document:
    """The document in the bytes of a DOCX.

    Errors: InputError `docx_invalid`, `docx_password`, `docx_too_large`, `docx_no_text`.
    """
    parts = _unpack(data)
    body = parts["word/document.xml"].replace(_STRICT, _TRANSITIONAL)
    try:
        paragraphs = _paragraphs(body)
        styles = style_map(parts.get("word/styles.xml", b"").replace(_STRICT, _TRANSITIONAL))
    except ElementTree.ParseError as error:
        raise _invalid() from error
    notes: list[str] = []
    try:
        html = mammoth.convert_to_html(
            io.BytesIO(data), style_map=styles, convert_image=mammoth.images.img_element(lambda image: {})
        ).value
        pieces = html_pieces(html)
    except (OSError, KeyError, ValueError, AttributeError, IndexError, TypeError):
        # It gives up on pictures that lie elsewhere, among others; the text is still there.
        pieces = []
        notes.append("The layout could not be read: the text has no headings, lists or tables.")
    left_out = _left_out(paragraphs, pieces)
    if left_out and pieces:
        notes.append(f"{len(left_out)} paragraphs of text boxes and shapes were put at the end.")
    pieces.extend(Piece("paragraph", text) for text in left_out)
    document = assemble(pieces, source_id=source_id, name=name, notes=notes)
    if not document.text:
        raise InputError(
            "there is no text in it",
            "if it holds pictures of text, run text recognition first",
            code="docx_no_text",
        )
    return document


def _unpack(data: bytes) -> dict[str, bytes]:
    """The XML parts that are read here, after bounding what the archive unpacks to."""
    if data.startswith(_OLE):
        raise InputError(
            "this is an old .doc or a DOCX protected by a password",
            "open it in a word processor and save it as .docx without a password",
            code="docx_password",
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = _parts(archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError) as error:
        raise _invalid() from error
    if "word/document.xml" not in parts:
        raise _invalid()
    return parts


def _parts(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """The XML parts that are read here."""
    total = 0
    for info in archive.infolist():
        # The sizes in the directory are only claims: unpack and count.
        with archive.open(info) as part:
            while block := part.read(1 << 20):
                total += len(block)
                if total > MAX_UNPACKED_BYTES:
                    raise _too_large()
    parts: dict[str, bytes] = {}
    for name in ("word/document.xml", "word/styles.xml"):
        if name in archive.namelist():
            if archive.getinfo(name).file_size > MAX_XML_BYTES:
                raise _too_large()
            parts[name] = archive.read(name)
    return parts


def _invalid() -> InputError:
    return InputError(
        "this is not a DOCX, or it is damaged",
        "open it in a word processor; if that works, save it again as .docx, else get it again",
        code="docx_invalid",
    )


def _too_large() -> InputError:
    return InputError(
        f"it unpacks to more than {MAX_UNPACKED_BYTES >> 20} MB, far beyond a text document",
        "remove its pictures, or split it",
        code="docx_too_large",
    )


def _paragraphs(body: bytes) -> list[str]:
    """Text of every paragraph, in document order, with those of text boxes; alternative copies left out."""
    found: list[str] = []

    def texts(element: ElementTree.Element, own: list[str]) -> None:
        for child in element:
            if child.tag == _MC_FALLBACK:
                continue
            if child.tag == f"{_W}p":
                inner: list[str] = []
                place = len(found)
                texts(child, inner)
                if text := one_line("".join(inner)):
                    found.insert(place, text)
            elif child.tag == f"{_W}t":
                own.append(child.text or "")
            elif child.tag in (f"{_W}tab", f"{_W}br", f"{_W}cr"):
                own.append(" ")
            elif child.tag == f"{_W}noBreakHyphen":
                own.append("-")
            else:
                texts(child, own)

    texts(ElementTree.fromstring(body), [])  # noqa: S314
    return found


def _left_out(paragraphs: list[str], pieces: list[Piece]) -> list[str]:
    """Paragraphs that the pieces do not hold."""
    cells = " ".join(" ".join(row) for piece in pieces for row in piece.rows)
    squeezed = re.sub(r"\W+", "", " ".join(piece.text for piece in pieces) + cells)
    result: list[str] = []
    for text in paragraphs:
        key = re.sub(r"\W+", "", text)
        if key and key not in squeezed and text not in result:
            result.append(text)
    return result


class _Pieces(HTMLParser):
    """Collects pieces from the plain HTML that mammoth writes."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[Piece] = []
        self._text: list[str] = []
        self._kind: str = "p"
        self._lists: list[list[int]] = []  # per open list: ordered (1 or 0), items so far
        self._fresh_item = False
        self._rows: list[list[str]] | None = None
        self._depth = 0  # tables inside tables
        self._spans: dict[tuple[int, int], str] = {}
        self._cell_spans = (1, 1)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "br":
            self._text.append("\n" if self._kind == "pre" else " ")
        elif tag == "table":
            self._depth += 1
            if self._depth == 1:
                self._flush()
                self._rows, self._spans = [], {}
        elif self._rows is not None:
            self._start_in_table(tag, dict(attrs))
        elif tag in ("ul", "ol"):
            self._flush()
            self._lists.append([int(tag == "ol"), 0])
        elif tag == "li":
            self._flush()
            if self._lists:
                self._lists[-1][1] += 1
            self._fresh_item = True
        elif tag in ("p", "pre") or _HEADING.fullmatch(tag):
            self._flush()
            self._kind = tag

    def _start_in_table(self, tag: str, attrs: dict[str, str | None]) -> None:
        if tag == "tr" and self._depth == 1 and self._rows is not None:
            self._rows.append([])
        elif tag in ("td", "th") and self._depth == 1:
            self._text = []
            self._cell_spans = (int(attrs.get("rowspan") or 1), int(attrs.get("colspan") or 1))
        elif tag == "p":
            self._text.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._depth -= 1
            if self._depth == 0 and self._rows is not None:
                self.pieces.append(Piece("table", rows=self._rows))
                self._rows, self._text = None, []
        elif self._rows is not None:
            if tag in ("td", "th") and self._depth == 1:
                self._cell(self._rows)
        elif tag in ("ul", "ol"):
            self._flush()
            if self._lists:
                self._lists.pop()
        elif tag in ("p", "pre", "li") or _HEADING.fullmatch(tag):
            self._flush()

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def _cell(self, rows: list[list[str]]) -> None:
        """Ends a cell; merged cells stand in every row and column that they cover."""
        row, number = rows[-1], len(rows) - 1
        self._fill(row, number)
        text = one_line("".join(self._text))
        down, across = self._cell_spans
        for column in range(len(row), len(row) + min(across, 100)):
            row.append(text)
            for below in range(number + 1, number + min(down, 1000)):
                self._spans[below, column] = text
        self._fill(row, number)
        self._text = []

    def _fill(self, row: list[str], number: int) -> None:
        while (number, len(row)) in self._spans:
            row.append(self._spans[number, len(row)])

    def _flush(self) -> None:
        """Ends the block whose text was collected so far."""
        text, self._text = "".join(self._text), []
        kind, self._kind = self._kind, "p"
        heading = _HEADING.fullmatch(kind)
        if not text.strip():
            return
        if kind == "pre":
            self.pieces.append(Piece("code", text))
        elif heading:
            self.pieces.append(Piece("heading", text, level=int(heading[1])))
        elif self._lists:
            ordered, number = self._lists[-1]
            marker = f"{number}. " if ordered else "- "
            self.pieces.append(
                Piece("list_item", (marker if self._fresh_item else "") + text, level=len(self._lists) - 1)
            )
            self._fresh_item = False
        else:
            self.pieces.append(Piece("paragraph", text))


def html_pieces(html: str) -> list[Piece]:
    """Pieces of an HTML fragment made of paragraphs, headings, lists, tables and `pre`."""
    parser = _Pieces()
    parser.feed(html)
    parser.close()
    parser._flush()
    return parser.pieces
