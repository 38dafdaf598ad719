"""CSV: a header and rows of the same width; the delimiter is found among comma, semicolon, tab and bar."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from finetuneflow.errors import InputError

DELIMITERS = (",", ";", "\t", "|")
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_SNIFFED_ROWS = 50
_NUMBER = re.compile(r"[-+]?[\d\s.,/%€$]+")
csv.field_size_limit(10_000_000)


def read_csv(text: str, path: Path | str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Field names, and each row as (line where it starts, cells). Blank rows are left out.

    Errors: InputError `no_header`, `duplicate_header`, `ragged_row`, `no_records`, `csv_invalid`.
    """
    delimiter = _delimiter(text)
    rows = _rows(text, delimiter, path)
    header_line, header = next(rows, (1, []))
    _check_header(header, header_line, path)
    while header and not header[-1]:  # spreadsheets leave empty columns at the end
        header.pop()
    records: list[tuple[int, list[str]]] = []
    for line, cells in rows:
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if len(cells) != len(header):
            raise InputError(
                f"this row has {len(cells)} cell{'s' if len(cells) > 1 else ''}, the header has {len(header)}"
                f" (delimiter: {_NAMES[delimiter]})",
                f'put cells that hold a {_NAMES[delimiter]} between double quotes ("…"), and give every row'
                f" {len(header)} cells",
                path=path,
                line=line,
                code="ragged_row",
            )
        records.append((line, cells))
    if not records:
        raise InputError(
            "there is a header but no row under it", "add the records", path=path, code="no_records"
        )
    return header, records


def _rows(text: str, delimiter: str, path: Path | str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            trimmed = [cell.strip() for cell in cells]
            if any(trimmed):
                yield line, trimmed
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"the row that starts here cannot be read as CSV: {error}",
            'close every opened double quote, and write a quote inside a quoted cell twice ("")',
            path=path,
            line=line,
            code="csv_invalid",
        ) from error


def _delimiter(text: str) -> str:
    """The delimiter that cuts the first rows into the most cells, as even as can be."""
    best, best_score = ",", (0.0, 0)
    for delimiter in DELIMITERS:
        widths = []
        try:
            for cells in csv.reader(text.splitlines(keepends=True)[: _SNIFFED_ROWS * 4], delimiter=delimiter):
                if any(cell.strip() for cell in cells):
                    widths.append(len(cells))
                if len(widths) == _SNIFFED_ROWS:
                    break
        except csv.Error:
            continue
        if widths and widths[0] > 1:
            score = (sum(width == widths[0] for width in widths) / len(widths), widths[0])
            # A clean majority first, then the most columns.
            score = (round(score[0], 1), score[1])
            if score > best_score:
                best, best_score = delimiter, score
    return best


def _check_header(header: list[str], line: int, path: Path | str) -> None:
    named = [name for name in header if name]
    numeric = [name for name in named if _NUMBER.fullmatch(name)]
    if not named or (numeric and 2 * len(numeric) >= len(named)):
        shown = ", ".join(named[:3])
        raise InputError(
            f"the first row is not a header of field names ({shown or 'it is empty'})",
            "put the names of the fields in the first row",
            path=path,
            line=line,
            code="no_header",
        )
    for position, name in enumerate(header, 1):
        if not name and any(header[position:]):
            raise InputError(
                f"column {position} has no name",
                "name every column in the first row",
                path=path,
                line=line,
                code="no_header",
            )
    seen: set[str] = set()
    for name in named:
        if name in seen:
            raise InputError(
                f"two columns are named `{name}`",
                "rename one of them: a field name stands once",
                path=path,
                line=line,
                code="duplicate_header",
            )
        seen.add(name)
