"""Everything that can be wrong with a file: one clear error each, with its place and the way out."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePath
from types import SimpleNamespace

import pytest

from finetuneflow.errors import InputError, NotFoundError
from finetuneflow.ingest import child, limited
from finetuneflow.ingest.read import read_document, read_records
from finetuneflow.ingest.readers import docx
from finetuneflow.schemas.source import Document

Write = Callable[[str, bytes | str], Path]

UTF8_BROKEN = "Été à la mairie.\nL'".encode() + b"\xe9\xff" + "tat, déjà là, où ?".encode()

RECORD_CASES = [
    ("empty.csv", b"", "empty_file", None, "empty"),
    ("blank.csv", b" \n\n", "empty_file", None, "empty"),
    ("header.csv", b"nom,statut\n", "no_records", None, "no row"),
    ("ragged.csv", b"nom,statut\nGestor,actif\nOndivia\n", "ragged_row", 3, "1 cell, the header has 2"),
    ("wide.csv", b"nom,statut\nGestor,actif,oui,non\n", "ragged_row", 2, "4 cells, the header has 2"),
    ("quote.csv", b'nom,statut\nGestor,actif\n"Ondivia,actif\n', "csv_invalid", 3, "cannot be read as CSV"),
    ("twice.csv", b"nom,statut,nom\na,b,c\n", "duplicate_header", 1, "`nom`"),
    ("noheader.csv", b"1,2.5,3\n4,5,6\n", "no_header", 1, "not a header"),
    ("unnamed.csv", b"nom,,statut\na,b,c\n", "no_header", 1, "column 2"),
    ("nul.csv", b"nom,statut\nGestor,ac\x00tif\n", "nul_bytes", 2, "NUL"),
    ("broken.csv", b"nom,statut\n" + UTF8_BROKEN, "encoding_unknown", 3, "0xE9 is not valid UTF-8"),
    ("object.json", b'[{"nom": "a"}, "b"]', "record_not_object", None, "record 2 is a text"),
    ("object.jsonl", b'{"nom": "a"}\n[1]\n', "record_not_object", 2, "line 2 is a list"),
    ("syntax.json", b'[{"nom": "a"},\n {"nom" "b"}]', "json_invalid", 2, "column 9"),
    ("syntax.jsonl", b'{"nom": "a"}\n{"nom":}\n', "json_invalid", 2, "column 8"),
    ("scalar.json", b"3", "record_not_object", None, "a number"),
    ("none.json", b"[]", "no_records", None, "no record"),
    ("deep.json", b"[" * 100_000, "json_invalid", None, "nested"),
    ("key.json", b'[{"nom": "a", "nom": "b"}]', "duplicate_key", None, "`nom` stands twice"),
    ("lists.json", b'{"a": [{"x": 1}], "b": [{"x": 2}]}', "several_lists", None, "`a`, `b`"),
    ("table.xlsx", b"PK", "suffix_unknown", None, ".xlsx"),
    ("text.txt", b"bonjour", "suffix_unknown", None, ".txt"),
]


@pytest.mark.parametrize(
    ("name", "content", "code", "line", "words"), RECORD_CASES, ids=lambda v: str(v)[:12]
)
def test_bad_records_are_refused_with_their_place(
    write: Write, name: str, content: bytes, code: str, line: int | None, words: str
) -> None:
    path = write(name, content)
    with pytest.raises(InputError) as caught:
        read_records(path)
    error = caught.value
    assert (error.code, error.line) == (code, line)
    assert words in error.message
    assert error.message.startswith(str(path))
    assert error.hint


DOCUMENT_CASES = [
    ("empty.txt", b"", "empty_file", None),
    ("blank.md", b"\n \n", "empty_file", None),
    ("nul.txt", b"a\nb\x00c", "nul_bytes", 2),
    ("broken.txt", UTF8_BROKEN, "encoding_unknown", 2),
    ("broken16.txt", "é à".encode("utf-16") + b"\x00\xd8", "encoding_unknown", 1),
    ("binary.md", bytes(range(1, 32)) * 20, "encoding_unknown", None),
    ("old.doc", b"\xd0\xcf\x11\xe0", "suffix_unknown", None),
    ("data.csv", b"a,b", "suffix_unknown", None),
    ("bare", b"text", "suffix_unknown", None),
]


@pytest.mark.parametrize(("name", "content", "code", "line"), DOCUMENT_CASES, ids=lambda v: str(v)[:12])
def test_bad_documents_are_refused_with_their_place(
    write: Write, name: str, content: bytes, code: str, line: int | None
) -> None:
    path = write(name, content)
    with pytest.raises(InputError) as caught:
        read_document(path)
    assert (caught.value.code, caught.value.line) == (code, line)
    assert caught.value.message.startswith(str(path))
    assert caught.value.hint


def test_a_missing_file_a_folder_and_a_large_file_are_refused(tmp_path: Path, write: Write) -> None:
    with pytest.raises(NotFoundError, match="no such file") as missing:
        read_document(tmp_path / "nowhere.txt")
    assert missing.value.code == "file_missing"
    with pytest.raises(InputError, match="folder") as folder:
        read_records(tmp_path)
    assert folder.value.code == "is_folder"
    with pytest.raises(InputError, match="larger than") as large:
        read_document(write("large.txt", "a" * 2000), max_bytes=1999)
    assert large.value.code == "file_too_large"
    assert read_document(write("fits.txt", "a" * 1999), max_bytes=1999).text == "a" * 1999


def parse(name: str, data: bytes) -> Document:
    """What the child process does, in this one: starting a process for each file takes long."""
    return child.read(data, PurePath(name), "0123456789abcdef")


def refusal(name: str, data: bytes) -> InputError:
    with pytest.raises(InputError) as caught:
        parse(name, data)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("fake.pdf", b"hello", "pdf_invalid"),
        ("cut.pdf", b"%PDF-1.4\n1 0 obj\n<<", "pdf_invalid"),
        ("fake.docx", b"hello", "docx_invalid"),
        ("cut.docx", b"PK\x03\x04" + bytes(40), "docx_invalid"),
        ("old.docx", b"\xd0\xcf\x11\xe0" + bytes(600), "docx_password"),
    ],
)
def test_damaged_files_are_refused(name: str, data: bytes, code: str) -> None:
    assert refusal(name, data).code == code


def test_what_the_child_process_refuses_reaches_the_caller_with_the_path(
    write: Write, make: SimpleNamespace
) -> None:
    path = write("locked.pdf", make.locked_pdf())
    with pytest.raises(InputError, match="protected by a password") as caught:
        read_document(path)
    assert caught.value.code == "pdf_password"
    assert caught.value.message.startswith(f"{path}: ")
    assert "qpdf" in caught.value.hint


def test_a_pdf_without_text_is_refused_as_a_scan(make: SimpleNamespace) -> None:
    error = refusal("scan.pdf", make.pdf(["0 0 100 100 re f", ""]))
    assert error.code == "pdf_no_text"
    assert "2 pages: it is a scan" in error.message
    assert "text recognition" in error.hint


def test_a_docx_that_unpacks_to_far_more_than_it_weighs_is_refused(
    make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docx, "MAX_UNPACKED_BYTES", 8 << 20)
    bomb = make.docx(make.paragraph("Bonjour"), extra={"word/media/a.bin": bytes(9 << 20)})
    assert len(bomb) < 1 << 15
    assert refusal("bomb.docx", bomb).code == "docx_too_large"
    assert (
        parse("ok.docx", make.docx(make.paragraph("Bonjour"), extra={"a.bin": bytes(7 << 20)})).text
        == "Bonjour"
    )


def test_a_docx_with_broken_xml_or_without_a_body_is_refused(make: SimpleNamespace) -> None:
    assert refusal("xml.docx", make.docx("<w:p>")).code == "docx_invalid"
    assert refusal("empty.docx", make.docx("")).code == "docx_no_text"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as other:
        other.writestr("hello.txt", "hello")
    assert refusal("zip.docx", archive.getvalue()).code == "docx_invalid"


def test_entity_bombs_in_a_docx_do_not_expand(make: SimpleNamespace) -> None:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    bomb = make.docx("", document=f'<!DOCTYPE d [<!ENTITY e0 "lol">{entities}]><d>&e11;</d>')
    assert refusal("bomb.docx", bomb).code == "docx_invalid"


def test_a_parser_that_takes_too_long_is_stopped(make: SimpleNamespace) -> None:
    data = make.docx(make.paragraph("Bonjour"))
    with pytest.raises(InputError, match="longer than") as caught:
        limited.read_limited(data, Path("slow.docx"), source_id="x", timeout_seconds=0.01)
    assert caught.value.code == "parser_timeout"


def test_a_parser_that_runs_out_of_memory_is_one_clear_error(make: SimpleNamespace) -> None:
    data = make.docx(make.paragraph("Bonjour"), extra={"word/media/a.bin": bytes(1000)})
    with pytest.raises(InputError, match="could not get through") as caught:
        limited.read_limited(data, Path("heavy.docx"), source_id="x", memory_bytes=32 << 20)
    assert caught.value.code == "parser_failed"
    assert "Traceback" not in caught.value.message
