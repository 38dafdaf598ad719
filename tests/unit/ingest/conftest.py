"""Small PDF and DOCX files, made of bytes written by hand."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

_PAD = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
CONTENT_TYPES = (
    '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/word/document.xml" ContentType='
    '"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
)
RELATIONSHIPS = (
    '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Target="word/document.xml" Type='
    '"http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"/></Relationships>'
)


def pdf_bytes(pages: list[str], *, encrypt: bytes = b"") -> bytes:
    """A PDF whose pages have the given content streams; text in Helvetica is `/F1`."""
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[%s]/Count %d>>"
        % (b" ".join(b"%d 0 R" % (4 + 2 * i) for i in range(len(pages))), len(pages)),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    for i, content in enumerate(pages):
        stream = content.encode("cp1252")
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]"
            b"/Resources<</Font<</F1 3 0 R>>>>/Contents %d 0 R>>" % (5 + 2 * i)
        )
        objects.append(b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream))
    trailer = b"/Root 1 0 R"
    if encrypt:
        objects.append(encrypt)
        trailer += b"/Encrypt %d 0 R/ID[<%s><%s>]" % (len(objects), b"00" * 16, b"00" * 16)
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<</Size %d%s>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, trailer, start)
    return bytes(out)


def pdf_text(lines: list[tuple[int, int, str]], *, size: int = 11) -> str:
    """Content stream with each text at its place (points from the bottom left)."""
    return "\n".join(f"BT /F1 {size} Tf {x} {y} Td ({text}) Tj ET" for x, y, text in lines)


def locked_pdf() -> bytes:
    """A PDF that opens only with the password `secret` (the 40-bit cipher of PDF 1.4)."""
    password = (b"secret" + _PAD)[:32]
    owner = _rc4(hashlib.md5(password, usedforsecurity=False).digest()[:5], password)
    permissions = (0xFFFFFFFC).to_bytes(4, "little")
    key = hashlib.md5(password + owner + permissions + bytes(16), usedforsecurity=False).digest()[:5]
    user = _rc4(key, _PAD)
    encrypt = b"<</Filter/Standard/V 1/R 2/P -4/O<%s>/U<%s>>>" % (owner.hex().encode(), user.hex().encode())
    return pdf_bytes([""], encrypt=encrypt)


def _rc4(key: bytes, data: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out = bytearray()
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def docx_bytes(
    body: str, *, styles: str = "", document: str = "", extra: dict[str, bytes] | None = None
) -> bytes:
    """A DOCX with the given XML in its body."""
    namespaces = (
        f'xmlns:w="{_W}" xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
        ' xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape"'
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", CONTENT_TYPES)
        archive.writestr("_rels/.rels", RELATIONSHIPS)
        xml = document or f"<w:document {namespaces}><w:body>{body}</w:body></w:document>"
        archive.writestr("word/document.xml", xml)
        if styles:
            archive.writestr("word/styles.xml", f"<w:styles {namespaces}>{styles}</w:styles>")
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return buffer.getvalue()


def paragraph(text: str, style: str = "") -> str:
    """XML of a paragraph."""
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f'<w:p>{properties}<w:r><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The builders of this module."""
    return SimpleNamespace(
        pdf=pdf_bytes, pdf_text=pdf_text, locked_pdf=locked_pdf, docx=docx_bytes, paragraph=paragraph
    )


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes | str], Path]:
    """Writes a file and gives its path."""

    def write_file(name: str, content: bytes | str) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file
