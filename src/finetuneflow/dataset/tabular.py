"""Dataset files to raw rows and back: JSON Lines, JSON, CSV, TSV and Parquet, chosen by suffix."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from finetuneflow.artifacts import atomic_write
from finetuneflow.dataset.rows import RowProblem, detect_format
from finetuneflow.errors import InputError, NotFoundError, UsageError

if TYPE_CHECKING:
    from _csv import Reader

RawRow = tuple[int, object]
"""Line (JSON Lines, CSV) or position (JSON, Parquet), 1-based, and the decoded row or its `RowProblem`."""

Kind = TypeVar("Kind")

_PROBE_BYTES = 64 * 1024
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_GUARDED = re.compile(r"'+[=+\-@\t\r]")


def read_rows(path: Path) -> list[RawRow]:
    """Every row of the file but blank lines, in order; a row that cannot be decoded is its `RowProblem`.

    Raises:
        NotFoundError: no such file.
        InputError: empty, binary, not UTF-8, not of the kind that its suffix says, or of an unknown kind.
    """
    _kind(path, _READERS)
    if path.is_dir():
        raise InputError("is a folder, a dataset file was expected", "name one of its files", path=path)
    if not path.exists():
        raise NotFoundError(f"no such file: {path}", "check the path")
    if path.stat().st_size == 0:
        raise InputError("the file is empty", "export the dataset again", path=path)
    return _kind(path, _READERS)(path)


def write_rows(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Writes rows whole or not at all, in the kind that the suffix says; `columns` are those of a table."""
    _kind(path, _WRITERS)(path, rows, columns)


def check_suffix(path: Path) -> None:
    """Refuses a suffix that we do not write.

    Raises:
        UsageError: the suffix is unknown; the hint lists the known ones.
    """
    _kind(path, _WRITERS)


def _kind(path: Path, table: dict[str, Kind]) -> Kind:
    try:
        return table[path.suffix.lower()]
    except KeyError:
        known = ", ".join(sorted(table))
        message = f"`{path.name}` is not a dataset file: its suffix says nothing we know"
        raise UsageError(message, f"use one of {known}") from None


def read_text(path: Path) -> str:
    """The file as text: UTF-8 with or without a mark, or UTF-16 with one.

    Raises:
        InputError: empty, binary or in another encoding; names line and offset.
    """
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    else:
        encoding = "utf-8-sig"
        probe = data[:_PROBE_BYTES]
        if probe.count(0) * 10 > len(probe):
            message = "the file is full of NUL bytes: it is binary, or UTF-16 without a mark"
            raise InputError(message, "save it as UTF-8 text", path=path)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        name = "UTF-16" if encoding == "utf-16" else "UTF-8"
        message = f"byte 0x{data[error.start]:02x} at offset {error.start} is not {name}"
        hint = f"save it as UTF-8, for instance: iconv -f WINDOWS-1252 -t UTF-8 {path.name}"
        raise InputError(message, hint, path=path, line=line) from error
    if not text.strip():
        raise InputError("the file has no rows, only blank lines", "export the dataset again", path=path)
    return text


def _decode_line(line: str) -> object:
    if "\0" in line:
        return RowProblem("nul_bytes", "there is a NUL byte in the line")
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        return RowProblem("invalid_json", f"not valid JSON: {error}")


def _json_lines(text: str) -> list[RawRow]:
    # on \n alone: str.splitlines would also cut at U+2028 and the like, which JSON allows inside strings
    lines = enumerate(text.split("\n"), start=1)
    return [(number, _decode_line(line)) for number, line in lines if line and not line.isspace()]


def _read_json_lines(path: Path) -> list[RawRow]:
    text = read_text(path)
    if text.lstrip().startswith("["):
        whole = _decode_line(text)
        if isinstance(whole, list) and any(isinstance(row, dict) for row in whole):
            return list(enumerate(whole, start=1))
    return _json_lines(text)


def _read_json(path: Path) -> list[RawRow]:
    text = read_text(path)
    whole = _decode_line(text)
    if isinstance(whole, RowProblem):
        rows = _json_lines(text)
        if any(isinstance(row, dict) for _, row in rows):
            return rows
        raise InputError(whole.message, whole.remedy, path=path)
    if isinstance(whole, dict) and not detect_format(whole):
        lists = [value for value in whole.values() if isinstance(value, list)]
        whole = whole.get("data", lists[0] if len(lists) == 1 else whole)
    if isinstance(whole, dict):
        whole = [whole]
    if not isinstance(whole, list) or not whole:
        hint = 'give a list of objects, or {"data": [...]}'
        raise InputError("the file has no rows: no list of objects was found", hint, path=path)
    return list(enumerate(whole, start=1))


def _delimiter(header: str) -> str:
    """The separator with which the header makes sense: French spreadsheets write semicolons."""
    for candidate in ",;\t":
        if detect_format(_cells(header, candidate)):
            return candidate
    return max(",;\t", key=header.count)


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def _read_csv(path: Path) -> list[RawRow]:
    text = read_text(path)
    # the limit of 128 KiB a cell is the csv module's, per process, and real answers exceed it
    csv.field_size_limit(sys.maxsize)
    first = text.lstrip("\r\n").split("\n", 1)[0].rstrip("\r")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(first), strict=True)
    rows = list(_csv_rows(reader))
    header_line, header = rows[0]
    if isinstance(header, RowProblem):
        raise InputError(header.message, header.remedy, path=path, line=header_line)
    names = [name.strip() for name in header]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        message = f"the header names {', '.join(sorted(repeated))!r} twice"
        raise InputError(message, "rename or remove one of the columns", path=path, line=header_line)
    return [(line, _csv_row(cells, names)) for line, cells in rows[1:]]


def _csv_rows(reader: Reader) -> Iterator[tuple[int, list[str] | RowProblem]]:
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            upto = f" (up to line {reader.line_num})" if reader.line_num > line else ""
            yield line, RowProblem("invalid_csv", f"not valid CSV{upto}: {error}")
            continue
        if cells:
            yield line, cells


def _csv_row(cells: list[str] | RowProblem, names: list[str]) -> dict[str, str] | RowProblem:
    if isinstance(cells, RowProblem):
        return cells
    if len(cells) != len(names):
        return RowProblem("ragged_row", f"{len(cells)} cells under a header of {len(names)}")
    return {name: cell[1:] if _GUARDED.match(cell) else cell for name, cell in zip(names, cells, strict=True)}


def _read_parquet(path: Path) -> list[RawRow]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"not a Parquet file: {reason}", "export it again", path=path) from error
    return list(enumerate(table.to_pylist(), start=1))


def _write_json_lines(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    encoder = msgspec.json.Encoder()
    with atomic_write(path, binary=True) as file:
        for row in rows:
            file.write(encoder.encode(row) + b"\n")


def _write_json(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    with atomic_write(path, binary=True) as file:
        file.write(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")


def _csv_cell(value: object) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe before it, which reading takes away."""
    text = value if isinstance(value, str) else "" if value is None else msgspec.json.encode(value).decode()
    return f"'{text}" if _FORMULA.match(text) else text


def _write_csv(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    buffer = io.StringIO(newline="")
    # \r\n as RFC 4180 says; it also makes the writer quote a lone \r
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_csv_cell(row.get(name)) for name in columns] for row in rows)
    with atomic_write(path, binary=True) as file:
        file.write(buffer.getvalue().encode())


_TURNS = {
    "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    "conversations": pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())])),
    "history": pa.list_(pa.list_(pa.string())),
}


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    schema = pa.schema([(name, _TURNS.get(name, pa.string())) for name in columns])
    table = pa.Table.from_pylist(list(rows), schema=schema)
    with atomic_write(path, binary=True) as file:
        pq.write_table(table, file, compression="zstd")


_READERS: dict[str, Callable[[Path], list[RawRow]]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
_WRITERS: dict[str, Callable[[Path, Sequence[dict[str, Any]], Sequence[str]], None]] = {
    ".jsonl": _write_json_lines,
    ".ndjson": _write_json_lines,
    ".json": _write_json,
    ".csv": _write_csv,
    ".tsv": _write_csv,
    ".parquet": _write_parquet,
}
SUFFIXES = tuple(_READERS)
"""Suffixes of dataset files, most common first."""
