"""Tables and lists for people, on stdout. Whole values when piped, fitted to the screen in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetuneflow.cli.output import visible

WIDTH_WHEN_PIPED = 10_000


def _console() -> Console:
    width = None if sys.stdout.isatty() else WIDTH_WHEN_PIPED
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=width)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Prints rows under column names; columns of numbers are set to the right."""
    lines = [["" if cell is None else cell for cell in row] for row in rows]
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        numeric = bool(lines) and all(
            isinstance(line[index], int | float) or not line[index] for line in lines
        )
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for line in lines:
        table.add_row(*(Text(_cell(cell)) for cell in line))
    _print(table)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Prints `name  value` lines, the names in one column; empty values are left out."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in fields:
        if value not in (None, "", [], {}):
            table.add_row(Text(name), Text(_cell(value)))
    _print(table)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else visible(str(value))


def _print(table: Table) -> None:
    console = _console()
    with console.capture() as capture:
        console.print(table)
    # Rich pads every line to its width; a pipe wants none of that.
    sys.stdout.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def percent(value: float) -> str:
    """A share of one as a percentage with one decimal."""
    return f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """A time for people: 0.8 s, 42 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
