"""Reading source files: documents (TXT, Markdown, PDF, DOCX) and records (CSV, JSON, JSONL)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from finetuneflow.errors import InputError, NotFoundError
from finetuneflow.ingest.assemble import assemble, prose
from finetuneflow.ingest.encoding import decode
from finetuneflow.ingest.language import detect_language
from finetuneflow.ingest.limited import read_limited
from finetuneflow.ingest.readers.csv import read_csv
from finetuneflow.ingest.readers.json import read_json
from finetuneflow.ingest.readers.markdown import read_markdown
from finetuneflow.ingest.readers.text import read_text
from finetuneflow.schemas.source import Document, FieldValue, Record, RecordSource

MAX_BYTES = 50 * 1024 * 1024
TEXT_SUFFIXES = {".txt": read_text, ".text": read_text, ".md": read_markdown, ".markdown": read_markdown}
BINARY_SUFFIXES = (".pdf", ".docx")
RECORD_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
_ID_FIELDS = ("id", "identifiant", "identifier", "uuid", "uid", "_id")


def read_document(path: Path, *, max_bytes: int = MAX_BYTES) -> Document:
    """A document as text with headings, lists, tables, code, pages and exact offsets.

    PDF and DOCX are parsed in a child process with limits of time and memory.
    Errors: NotFoundError; InputError with a `code` for everything that can be wrong with the file.
    """
    suffix = path.suffix.lower()
    data = _bytes(path, max_bytes, (*TEXT_SUFFIXES, *BINARY_SUFFIXES), "a document")
    source_id = hashlib.sha256(data).hexdigest()[:16]
    if suffix in BINARY_SUFFIXES:
        document = read_limited(data, path, source_id=source_id)
    else:
        text, notes = decode(data, path)
        document = assemble(TEXT_SUFFIXES[suffix](text), source_id=source_id, name=path.name, notes=notes)
    if not document.text:
        raise InputError("there is no text in it", "give a file with text", path=path, code="empty_file")
    return document.model_copy(update={"language": detect_language(prose(document))})


def read_records(path: Path, *, max_bytes: int = MAX_BYTES) -> RecordSource:
    """Records of any schema: values as text, lists kept, empty values left out.

    Errors: NotFoundError; InputError with a `code` for everything that can be wrong with the file.
    """
    suffix = path.suffix.lower()
    data = _bytes(path, max_bytes, RECORD_SUFFIXES, "records")
    text, notes = decode(data, path)
    if suffix in (".csv", ".tsv"):
        fields, rows = read_csv(text, path)
        read = [
            (line, {name: cell for name, cell in zip(fields, cells, strict=True) if cell})
            for line, cells in rows
        ]
        entries: list[tuple[int, dict[str, FieldValue]]] = [(line, dict(row)) for line, row in read]
    else:
        entries = read_json(text, path, lines=_is_jsonl(suffix, text))
        fields = list(dict.fromkeys(name for _, record in entries for name in record))
    id_field = _id_field(fields, entries)
    records = [
        Record(id=str(record[id_field]) if id_field else str(number), line=line, fields=record)
        for number, (line, record) in enumerate(entries, 1)
    ]
    sample = "\n".join([" ".join(fields), *(_words(record) for record in records)])
    return RecordSource(
        source_id=hashlib.sha256(data).hexdigest()[:16],
        name=path.name,
        fields=fields,
        records=records,
        language=detect_language(sample, default="fr"),
        notes=notes,
    )


def _bytes(path: Path, max_bytes: int, suffixes: tuple[str, ...], what: str) -> bytes:
    if path.is_dir():
        raise InputError(
            "this is a folder, not a file", "name the file inside it", path=path, code="is_folder"
        )
    if not path.exists():
        raise NotFoundError(
            f"{path}: no such file", "check the path and the spelling of the name", code="file_missing"
        )
    if path.suffix.lower() not in suffixes:
        raise InputError(
            f"files of type `{path.suffix or 'without suffix'}` cannot be read as {what}",
            _suffix_hint(path.suffix.lower(), suffixes, what),
            path=path,
            code="suffix_unknown",
        )
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(
            f"the file cannot be opened: {error.strerror}",
            "check its permissions",
            path=path,
            code="unreadable",
        ) from error
    if len(data) > max_bytes:
        raise InputError(
            f"the file is larger than {max_bytes / (1 << 20):.0f} MB",
            "split it, or raise the limit with FTF_MAX_UPLOAD_BYTES",
            path=path,
            code="file_too_large",
        )
    if not data:
        raise InputError(
            "the file is empty",
            "check that it was saved or downloaded completely",
            path=path,
            code="empty_file",
        )
    return data


def _suffix_hint(suffix: str, suffixes: tuple[str, ...], what: str) -> str:
    if suffix in (".doc", ".odt", ".rtf"):
        return "open it in a word processor and save it as .docx or .pdf"
    if suffix in (".xls", ".xlsx", ".ods"):
        return "open it in a spreadsheet program and save it as .csv (UTF-8)"
    known = f"{what} can be {', '.join(suffixes)}"
    if suffix in RECORD_SUFFIXES:
        return f"this is a file of records: use `dataset from-records`; {known}"
    if suffix in (*TEXT_SUFFIXES, *BINARY_SUFFIXES):
        return f"this is a document: use `dataset from-documents`; {known}"
    return known


def _is_jsonl(suffix: str, text: str) -> bool:
    """By suffix, or because a `.json` file holds one object a line."""
    if suffix in (".jsonl", ".ndjson"):
        return True
    lines = [line.strip() for line in text.split("\n") if line.strip()][:2]
    return len(lines) == 2 and all(line.startswith("{") and line.endswith("}") for line in lines)


def _id_field(fields: list[str], entries: list[tuple[int, dict[str, FieldValue]]]) -> str | None:
    """The field that identifies a record: named so, filled in and different everywhere."""
    for field in fields:
        if field.strip().lower() in _ID_FIELDS:
            values = [record.get(field) for _, record in entries]
            if all(isinstance(value, str) for value in values) and len(set(map(str, values))) == len(values):
                return field
    return None


def _words(record: Record) -> str:
    return " ".join(value if isinstance(value, str) else " ".join(value) for value in record.fields.values())
