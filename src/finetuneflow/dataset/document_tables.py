"""Facts of tables: a row has a name, a column a title, a cell is the answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from finetuneflow.dataset.document_facts import Fact, clean_phrase, key_forms, word_set
from finetuneflow.schemas.source import Block

_NUMBER = re.compile(r"[-+≈~<>]?\s?[$€£]?\s?\d[\d\s.,/:%-]*\s?(?:[%€$£°]|[A-Za-zµ]{1,4}\d?)?")
_LONGEST_NAME = 60
_LONGEST_CELL = 300
_Place = tuple[int, int]


def table_facts(block: Block, language: str) -> Iterator[Fact]:
    """A fact for each cell whose row and column both have a name."""
    rows = block.rows
    if len(rows) < 2 or len(rows[0]) < 2 or not _is_header(rows[0]):
        return
    places = _places(block)
    if not rows[0][0] and _attributes_are_rows(rows):
        rows = [list(column) for column in zip(*rows, strict=True)]
        places = [list(column) for column in zip(*places, strict=True)]
    names = _name_column(rows, language)
    if names is None:
        return
    repeated = Counter(row[names] for row in rows[1:])
    for column, title in enumerate(rows[0]):
        cells = [row[column] for row in rows[1:]]
        if column == names or not _good_title(title) or not _tells(cells, language):
            continue
        numeric = sum(bool(_NUMBER.fullmatch(cell)) for cell in cells) * 2 > sum(map(bool, cells))
        for number, row in enumerate(rows[1:], 1):
            name, cell, place = row[names], row[column], places[number][column]
            if place is None or repeated[name] > 1 or not _good_name(name) or name == cell:
                continue
            if _is_empty(cell, language) or len(cell) > _LONGEST_CELL or re.search(r"[{};\\]", cell):
                continue
            articled, forms = key_forms(title, name, language, numeric=numeric)
            yield Fact(
                "table",
                "table" if articled else "table_plain",
                block.start + place[0],
                block.start + place[1],
                forms,
                block.page,
            )


def _places(block: Block) -> list[list[_Place | None]]:
    """Where each cell stands in the block's text."""
    cursor = 0
    places: list[list[_Place | None]] = []
    for row in block.rows:
        line: list[_Place | None] = []
        for cell in row:
            start = block.text.find(cell, cursor) if cell else -1
            if start < 0:
                line.append(None)
                continue
            cursor = start + len(cell)
            line.append((start, cursor))
        places.append(line)
    return places


def _is_header(row: list[str]) -> bool:
    """Titles: different, hardly ever numbers, short."""
    named = [cell for cell in row if cell]
    return (
        len(named) >= max(2, len(row) - 1)
        and len(set(named)) == len(named)
        and sum(bool(_NUMBER.fullmatch(cell)) for cell in named) * 3 < len(named)
        and all(len(cell) <= _LONGEST_NAME for cell in named)
    )


def _attributes_are_rows(rows: list[list[str]]) -> bool:
    """True when each row holds values of one kind and the columns do not: a table that lies on its side."""
    body = [row[1:] for row in rows[1:]]
    columns = [list(column) for column in zip(*body, strict=True)]
    return _mixed(columns) > _mixed(body)


def _mixed(lines: list[list[str]]) -> float:
    """Share of lines that hold numbers and words."""
    mixed = 0
    for line in lines:
        kinds = [bool(_NUMBER.fullmatch(cell)) for cell in line if any(c.isalnum() for c in cell)]
        mixed += 0 < sum(kinds) < len(kinds)
    return mixed / max(1, len(lines))


def _name_column(rows: list[list[str]], language: str) -> int | None:
    """The column that names the rows: titled so, or the first whose values differ and are words."""
    body = rows[1:]

    def distinct(column: int) -> float:
        cells = [row[column] for row in body if row[column]]
        good = [cell for cell in cells if _good_name(cell)]
        if len(cells) * 4 < len(body) * 3 or len(good) * 5 < len(cells) * 4:
            return 0.0
        return len(set(cells)) / len(cells)

    scores = [distinct(column) for column in range(len(rows[0]))]
    for column, title in enumerate(rows[0]):
        if title.lower() in word_set(language, "name_columns") and scores[column] >= 0.85:
            return column
    return next((column for column, score in enumerate(scores) if score >= 0.9), None)


def _good_title(title: str) -> bool:
    return (
        clean_phrase(title)
        and len(title) <= 40
        and not re.search(r"[/:;!?=]|\d", re.sub(r"\([^()]*\)", "", title))
        and len(title.split()) <= 5
        and sum(c.isalpha() for c in title) >= 3
    )


def _good_name(name: str) -> bool:
    return (
        clean_phrase(name)
        and 2 <= len(name) <= _LONGEST_NAME
        and not _NUMBER.fullmatch(name)
        and len(name.split()) <= 8
        and not name.endswith((".", ":", ",", ";"))
        and name.count("(") == name.count(")")
    )


def _is_empty(cell: str, language: str) -> bool:
    return not any(c.isalnum() for c in cell) or cell.lower() in word_set(language, "empty_values")


def _tells(cells: list[str], language: str) -> bool:
    """False for a column of ticks or codes of one letter that are all the same."""
    full = [cell for cell in cells if not _is_empty(cell, language)]
    if not full:
        return False
    short = [cell for cell in full if len(cell) < 2 and not cell.isdigit()]
    if len(short) * 2 < len(full):
        return True
    codes = {cell for cell in full if cell.isupper() and cell.isalpha() and len(cell) <= 3}
    return len(codes) >= 2 and all(cell in codes for cell in full)
