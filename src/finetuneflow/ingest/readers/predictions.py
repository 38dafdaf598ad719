"""Files of predictions to raw rows: JSON Lines (streamed), JSON, CSV. An unreadable row is a `Fault`."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from finetuneflow.errors import InputError, NotFoundError
from finetuneflow.ingest.encoding import decode

WHOLE_BYTES = 256 << 20
"""Up to this size a file is looked at whole for its encoding; a larger one must be UTF-8."""
PIECE_BYTES = 16 << 20
JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
DELIMITERS = (",", ";", "\t", "|")
UTF8_MARK = b"\xef\xbb\xbf"
_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTE = re.compile(r" \(byte (\d+)\)")
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Fault(NamedTuple):
    """Why a row cannot be read: `reason` is a key of `dropped` in `assets/predictions.yaml`."""

    reason: str
    detail: str = ""
    field: str = ""


RawRow = tuple[int, dict[str, Any] | Fault]
"""Line, 1-based, and the row or what is wrong with it."""


class RawRows(NamedTuple):
    """The rows of a file, to be read once."""

    rows: Iterable[RawRow]
    notes: list[str]
    """What was repaired, one sentence each."""


def read_prediction_rows(path: Path, known: set[str], list_keys: list[str]) -> RawRows:
    """Every row of the file but blank lines, in order; a million JSON lines take about 4 s.

    Args:
        path: `.jsonl`, `.json` (a list, an object that holds one, or one object a line) or `.csv`.
        known: Field names that tell the delimiter of a CSV file.
        list_keys: Names under which a JSON object holds its list of rows, first choice first.

    Raises:
        NotFoundError: no such file.
        InputError: the file as a whole cannot be read.
    """
    suffix = _suffix(path)
    if suffix == ".json" or path.stat().st_size <= WHOLE_BYTES:
        data, notes = _utf8(path, suffix)
        if suffix == ".json":
            return RawRows(_json_rows(data, path, list_keys), notes)
        source: IO[bytes] = io.BytesIO(data)
    else:
        source, notes = path.open("rb"), []
    if suffix in (".csv", ".tsv"):
        return RawRows(_csv_rows(source, path, known), notes)
    return RawRows(_json_lines(source), notes)


def _suffix(path: Path) -> str:
    if path.is_dir():
        raise InputError(
            "this is a folder, not a file", "name the file inside it", path=path, code="is_folder"
        )
    if not path.exists():
        hint = "check the path and the spelling of the name"
        raise NotFoundError(f"{path}: no such file", hint, code="file_missing")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"files of type `{path.suffix or 'without suffix'}` cannot be read as predictions",
            f"predictions can be {', '.join(SUFFIXES)}",
            path=path,
            code="suffix_unknown",
        )
    if path.stat().st_size == 0:
        hint = "check that it was saved or downloaded completely"
        raise InputError("the file is empty", hint, path=path, code="empty_file")
    return suffix


def _utf8(path: Path, suffix: str) -> tuple[bytes, list[str]]:
    """The file as UTF-8 without its mark. Damaged lines stay in JSON Lines: each is named later."""
    data = path.read_bytes()
    if not data.startswith(_WIDE_MARKS) and _all_utf8(data):
        return data.removeprefix(UTF8_MARK), []
    if suffix in JSON_LINES and any(map(_is_utf8, data.split(b"\n"))):
        return data, []
    text, notes = decode(data, path)
    return text.encode("utf-8", "replace"), notes


def _all_utf8(data: bytes) -> bool:
    """True for UTF-8; looked at in pieces, since the text of a large file would take four times its bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), PIECE_BYTES):
            decoder.decode(data[start : start + PIECE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _is_utf8(line: bytes) -> bool:
    """True for a line that is UTF-8 and nothing else."""
    if line.isascii():
        return False
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _json_lines(source: Iterable[bytes]) -> Iterator[RawRow]:
    decoder = msgspec.json.Decoder()
    for number, line in enumerate(source, 1):
        try:
            row = decoder.decode(line)
        except _REFUSED:
            stripped = line.removeprefix(UTF8_MARK).strip() if number == 1 else line.strip()
            if stripped:
                yield number, patient_row(stripped)
            continue
        yield number, row if type(row) is dict else Fault("not_an_object", _kind(row))


def patient_row(data: bytes) -> dict[str, Any] | Fault:
    """A row that the strict decoder refused: NaN and lone surrogates are read, anything else is a fault."""
    try:
        row = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        return Fault("not_utf8")
    except json.JSONDecodeError as error:
        return Fault("json_invalid", f"{error.msg} at column {error.colno}")
    except (RecursionError, ValueError) as error:
        return Fault("json_invalid", str(error) or "nested too deep")
    return whole_characters(row) if isinstance(row, dict) else Fault("not_an_object", _kind(row))


def whole_characters(value: Any) -> Any:
    """The JSON value with � for lone surrogates, which no file can hold."""
    text = json.dumps(value, ensure_ascii=False)
    mended = _SURROGATE.sub("\ufffd", text)
    return value if mended == text else json.loads(mended)


def _json_rows(data: bytes, path: Path, list_keys: list[str]) -> Iterator[RawRow]:
    start = data.lstrip()[:1]
    if start == b"{":
        try:
            held = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        except _REFUSED:
            yield from _json_lines(io.BytesIO(data))
            return
        data = _inner_list(held, path, list_keys)
        whole = False
    else:
        whole = True
    try:
        raws = msgspec.json.decode(data, type=list[msgspec.Raw])
    except _REFUSED as error:
        yield from _patient_list(data, path, error)
        return
    decoder = msgspec.json.Decoder()
    # a list on one line: positions say more
    whole = whole and data.count(b"\n") >= len(raws)
    line, position = 1, 0
    for number, raw in enumerate(raws, 1):
        part = bytes(raw)
        if whole:
            found = data.find(part, position)
            line += data.count(b"\n", position, found)
            position = found
        try:
            row = decoder.decode(part)
        except _REFUSED:
            row = patient_row(part)
        place = line if whole else number
        yield place, row if isinstance(row, dict | Fault) else Fault("not_an_object", _kind(row))


def _inner_list(held: dict[str, msgspec.Raw], path: Path, list_keys: list[str]) -> bytes:
    lists = {name: bytes(raw) for name, raw in held.items() if bytes(raw).lstrip()[:1] == b"["}
    for name in list_keys:
        if name in lists:
            return lists[name]
    if len(lists) == 1:
        return next(iter(lists.values()))
    if lists:
        names = ", ".join(f"`{name}`" for name in lists)
        hint = f"put the list of predictions into a file of its own, or name it `{list_keys[0]}`"
        raise InputError(f"it holds several lists: {names}", hint, path=path, code="several_lists")
    return b"[" + msgspec.json.encode(held) + b"]"  # one row


def _patient_list(data: bytes, path: Path, error: Exception) -> Iterator[RawRow]:
    """A list that the strict decoder refused, by the standard library (NaN); lines become positions."""
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError):
        at = _BYTE.search(str(error))
        line = data.count(b"\n", 0, int(at[1])) + 1 if at else None
        raise InputError(
            f"not valid JSON: {_BYTE.sub('', str(error))}",
            "correct the syntax there (a missing comma, quote or bracket is often just before), or give one"
            " object a line (.jsonl): then a bad row costs only itself",
            path=path,
            line=line,
            code="json_invalid",
        ) from error
    if not isinstance(rows, list):
        hint = "give a list of objects, an object with such a list, or one object a line"
        raise InputError(f"it holds {_kind(rows)}, not rows", hint, path=path, code="record_not_object")
    for number, row in enumerate(rows, 1):
        yield number, whole_characters(row) if isinstance(row, dict) else Fault("not_an_object", _kind(row))


def _csv_rows(source: IO[bytes], path: Path, known: set[str]) -> Iterator[RawRow]:
    csv.field_size_limit(10_000_000)
    text = io.TextIOWrapper(source, encoding="utf-8-sig", newline="")
    try:
        first = text.readline()
        delimiter = max(DELIMITERS, key=lambda mark: _recognised(first, mark, known))
        header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
        if not any(header):
            hint = "put the names of the fields in the first row"
            raise InputError("the first row names no fields", hint, path=path, line=1, code="no_header")
        yield from _cells(csv.reader(text, delimiter=delimiter, strict=True), header)
    except UnicodeDecodeError as error:
        hint = "save the file as UTF-8 in the program that wrote it"
        raise InputError("the file is not UTF-8", hint, path=path, code="encoding_unknown") from error


def _recognised(line: str, delimiter: str, known: set[str]) -> tuple[int, int]:
    cells = next(csv.reader([line], delimiter=delimiter), [])
    return sum(cell.strip() in known for cell in cells), len(cells)


def _cells(reader: Any, header: list[str]) -> Iterator[RawRow]:
    line = 2
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, Fault("csv_invalid", str(error))
            line = int(reader.line_num) + 2
            continue
        while len(cells) > len(header) and not cells[-1].strip():
            cells.pop()
        if len(cells) == len(header):
            yield line, {name: cell.strip() or None for name, cell in zip(header, cells, strict=True) if name}
        elif any(cell.strip() for cell in cells):
            yield line, Fault("ragged_row", f"{len(cells)} cells, the header has {len(header)}")
        line = int(reader.line_num) + 2


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    for type_, name in ((bool, "true or false"), (str, "text"), (list, "a list"), (dict, "an object")):
        if isinstance(value, type_):
            return name
    return "a number"
