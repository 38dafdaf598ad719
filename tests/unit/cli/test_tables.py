"""Tables and figures for people."""

from __future__ import annotations

import pytest

from finetuneflow.cli.tables import duration, percent, print_fields, print_table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.84, "0.8 s"), (42.2, "42 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_shares_are_percentages() -> None:
    assert percent(0.9567) == "95.7 %"


def test_a_piped_table_keeps_long_values_whole(capsys: pytest.CaptureFixture[str]) -> None:
    long = "é" * 500
    print_table(("name", "count"), [(long, 12345), ("[red]short[/red]", 7)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(long)
    assert lines[1].endswith("12,345")
    assert lines[2].startswith("[red]short[/red]")
    assert lines[2].endswith("     7")
    assert [line for line in lines if line != line.rstrip()] == []


def test_empty_fields_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields((("name", "Atlas"), ("hint", ""), ("result", None), ("loss", 0.0), ("ready", True)))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["name", "Atlas"], ["loss", "0"], ["ready", "yes"]]


def test_control_characters_of_data_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("answer",), [("\x1b[2Jgone\x07\x9b1m",)])
    assert capsys.readouterr().out.splitlines()[1] == "\ufffd[2Jgone\ufffd\ufffd1m"
