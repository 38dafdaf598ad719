"""Tables drawn with lines on a PDF page: a grid, merged cells where a line is missing, words in cells.

Text-based table finders lose the columns of such tables, or mix the wrapped lines of neighbouring rows.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

_TOLERANCE = 2.5
"""Points within which two coordinates are the same line."""
_LONGEST_GRID = 400
_GLUED_MARK = re.compile(r"((?:\d{1,3})(?:[.,]\d{3})*[.,]\d{3})\s?(\d)")


@dataclass(frozen=True)
class Segment:
    """A horizontal or vertical line, coordinates in points from the top left."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def horizontal(self) -> bool:
        """True when it is wider than high."""
        return abs(self.x2 - self.x1) >= abs(self.y2 - self.y1)


@dataclass(frozen=True)
class Word:
    """A word and its box."""

    text: str
    x: float
    y: float
    width: float
    height: float

    @property
    def center(self) -> tuple[float, float]:
        """Middle of the box."""
        return self.x + self.width / 2, self.y + self.height / 2


@dataclass
class RuledTable:
    """Cells of a table; a merged cell stands in every row and column that it covers."""

    left: float
    top: float
    right: float
    bottom: float
    rows: list[list[str]]
    spans: dict[tuple[int, int], int] = field(default_factory=dict)
    """Rows that the cell at (row, column) covers, where more than one."""

    def holds(self, x: float, y: float) -> bool:
        """True for a point inside."""
        return (
            self.left - _TOLERANCE <= x <= self.right + _TOLERANCE
            and self.top - _TOLERANCE <= y <= self.bottom + _TOLERANCE
        )


def ruled_tables(
    segments: Iterable[Segment], words: list[Word], vocabulary: Counter[str]
) -> list[RuledTable]:
    """Tables of one page, top to bottom; `vocabulary` counts the words of the document (lower case)."""
    # Sorted ends and whole points: a border is often drawn twice, as a line and as the edge of a filled cell.
    lines = {
        Segment(
            *map(round, (min(s.x1, s.x2), min(s.y1, s.y2), max(s.x1, s.x2), max(s.y1, s.y2))),
        )
        for s in segments
        if max(abs(s.x2 - s.x1), abs(s.y2 - s.y1)) > 4
    }
    tables = []
    for group in _connected(sorted(lines, key=lambda s: (s.y1, s.x1, s.y2, s.x2))):
        table = _table(group, words, vocabulary)
        if table is not None:
            tables.append(table)
    return sorted(tables, key=lambda table: (table.top, table.left))


def continue_table(before: list[list[str]], table: RuledTable) -> None:
    """Fills the cells that a page break cut off from the table of the page before (same header)."""
    if len(before) < 2 or len(table.rows) < 2 or before[0] != table.rows[0]:
        return
    last = before[-1]
    for (row, column), height in table.spans.items():
        if row == 1 and not table.rows[1][column]:
            for below in range(1, min(1 + height, len(table.rows))):
                table.rows[below][column] = last[column]
    first = table.rows[1]
    own = [c for c, cell in enumerate(first) if cell and (1, c) not in table.spans]
    if 0 < len(own) <= 2 and len(first) >= 4 and all(last[column] for column in own):
        for column in own:  # the tail of a row, not a row
            last[column] = f"{last[column]} {first[column]}"
        del table.rows[1]


def without_glued_marks(rows: list[list[str]]) -> None:
    """Takes the footnote mark off a number: `83,190,5562` is 83,190,556 with note 2."""
    for row in rows:
        for column, cell in enumerate(row):
            match = _GLUED_MARK.fullmatch(cell)
            if match:
                row[column] = match.group(1)


def _connected(segments: list[Segment]) -> list[list[Segment]]:
    """Segments grouped by touching."""
    if len(segments) > 5000:
        return []
    horizontal = [s for s in segments if s.horizontal]
    vertical = [s for s in segments if not s.horizontal]
    parent = list(range(len(horizontal) + len(vertical)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for i, h in enumerate(horizontal):
        for j, v in enumerate(vertical, len(horizontal)):
            if (
                h.x1 - _TOLERANCE <= v.x1 <= h.x2 + _TOLERANCE
                and v.y1 - _TOLERANCE <= h.y1 <= v.y2 + _TOLERANCE
            ):
                parent[root(i)] = root(j)
    groups: dict[int, list[Segment]] = defaultdict(list)
    for index, segment in enumerate([*horizontal, *vertical]):
        groups[root(index)].append(segment)
    return list(groups.values())


def _table(group: list[Segment], words: list[Word], vocabulary: Counter[str]) -> RuledTable | None:
    horizontal = [s for s in group if s.horizontal]
    vertical = [s for s in group if not s.horizontal]
    xs, ys = _snap(s.x1 for s in vertical), _snap(s.y1 for s in horizontal)
    if len(xs) < 3 or len(ys) < 3 or len(xs) * len(ys) > _LONGEST_GRID * 40:
        return None
    height, width = len(ys) - 1, len(xs) - 1
    region = _regions(xs, ys, horizontal, vertical)
    texts: dict[int, list[Word]] = defaultdict(list)
    for word in words:
        x, y = word.center
        if xs[0] <= x <= xs[-1] and ys[0] <= y <= ys[-1]:
            row = min(bisect_right(ys, y) - 1, height - 1)
            column = min(bisect_right(xs, x) - 1, width - 1)
            texts[region[row][column]].append(word)
    content = {name: _cell(found, vocabulary) for name, found in texts.items()}
    rows = [[content.get(region[r][c], "") for c in range(width)] for r in range(height)]
    if sum(1 for name in content if content[name]) < 4:
        return None
    spans = {}
    for r in range(height):
        for c in range(width):
            if r == 0 or region[r - 1][c] != region[r][c]:
                covered = sum(region[below][c] == region[r][c] for below in range(r, height))
                if covered > 1:
                    spans[r, c] = covered
    return RuledTable(xs[0], ys[0], xs[-1], ys[-1], rows, spans)


def _snap(values: Iterable[float]) -> list[float]:
    """Distinct coordinates, ascending, near ones as one."""
    result: list[float] = []
    for value in sorted(values):
        if not result or value - result[-1] > _TOLERANCE:
            result.append(value)
    return result


def _regions(
    xs: list[float], ys: list[float], horizontal: list[Segment], vertical: list[Segment]
) -> list[list[int]]:
    """A number for each grid cell; cells with no line between them share it."""
    height, width = len(ys) - 1, len(xs) - 1
    below: dict[float, list[tuple[float, float]]] = defaultdict(list)
    beside: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for s in horizontal:
        below[_nearest(ys, s.y1)].append((s.x1, s.x2))
    for s in vertical:
        beside[_nearest(xs, s.x1)].append((s.y1, s.y2))
    region = [[r * width + c for c in range(width)] for r in range(height)]
    for r in range(height):
        for c in range(width):
            middle_x, middle_y = (xs[c] + xs[c + 1]) / 2, (ys[r] + ys[r + 1]) / 2
            if r and not _covered(below[ys[r]], middle_x):
                _merge(region, region[r][c], region[r - 1][c])
            if c and not _covered(beside[xs[c]], middle_y):
                _merge(region, region[r][c], region[r][c - 1])
    return region


def _merge(region: list[list[int]], old: int, new: int) -> None:
    for row in region:
        for column, name in enumerate(row):
            if name == old:
                row[column] = new


def _nearest(values: list[float], value: float) -> float:
    return min(values, key=lambda candidate: abs(candidate - value))


def _covered(intervals: list[tuple[float, float]], value: float) -> bool:
    return any(low <= value <= high for low, high in intervals)


def _cell(words: list[Word], vocabulary: Counter[str]) -> str:
    """Text of a cell, line by line; a word that was broken for want of room is joined again."""
    lines: list[list[Word]] = []
    for word in sorted(words, key=lambda w: (w.center[1], w.x)):
        if lines and abs(lines[-1][-1].center[1] - word.center[1]) < word.height / 2:
            lines[-1].append(word)
        else:
            lines.append([word])
    text = ""
    for line in lines:
        content = " ".join(word.text for word in sorted(line, key=lambda w: w.x))
        glue = "" if not text or _broken(text, content, vocabulary) else " "
        text = text + glue + content
    return " ".join(text.split())


def _broken(before: str, after: str, vocabulary: Counter[str]) -> bool:
    """True after `GPL/`, and for `Développeme` + `nt` when the document has `développement` elsewhere."""
    if re.search(r"\w[-/]$", before):
        return True
    head, tail = before.split()[-1].lower(), after.split()[0].lower()
    return len(head) >= 6 and len(tail) <= 3 and tail.isalpha() and vocabulary[head + tail] > 0
