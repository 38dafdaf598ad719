"""The `finetuneflow dataset` commands that take a dataset file: check, clean, split, measure, convert."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from finetuneflow.artifacts import LEDGER
from finetuneflow.cli.group import Json, Verbose, examples
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, say, say_error
from finetuneflow.cli.tables import percent, print_fields, print_table
from finetuneflow.schemas.dataset import DatasetFormat, Dropped, SplitStrategy
from finetuneflow.services import datasets

ROWS_SHOWN = 20

File = Annotated[
    Path, typer.Argument(help="Dataset file: .jsonl, .json, .csv or .parquet.", show_default=False)
]
ReadFormat = Annotated[
    DatasetFormat | None,
    typer.Option("--format", help="Shape of the rows; default: recognised.", show_default=False),
]


def add_file_commands(app: typer.Typer) -> None:
    """Adds the commands to the `dataset` group."""
    for name, command, lines in (
        ("validate", validate, ["validate dataset.jsonl", "validate dataset.csv --json"]),
        ("deduplicate", deduplicate, ["deduplicate dataset.jsonl --out clean.jsonl"]),
        (
            "split",
            split,
            [
                "split dataset.jsonl --out-dir splits",
                "split dataset.jsonl --out-dir splits --strategy paraphrase",
            ],
        ),
        ("stats", stats, ["stats dataset.jsonl", "stats splits --json"]),
        (
            "coverage",
            coverage,
            ["coverage catalogue.csv dataset.jsonl", "coverage catalogue.csv splits --json"],
        ),
        ("convert", convert, ["convert dataset.jsonl --to alpaca --out dataset.parquet"]),
    ):
        app.command(name, epilog=examples(*(f"finetuneflow dataset {line}" for line in lines)))(command)
    app.command("statistics", hidden=True)(stats)


def validate(file: File, format: ReadFormat = None, verbose: Verbose = False, as_json: Json = False) -> None:
    """Check every row: what is wrong, on which line, and the remedy.

    The exit code is 1 when a row cannot be used.
    """
    report = datasets.validate(file, format=format)
    if as_json:
        print_json(report)
    else:
        _print_rows("Rows that cannot be used", report.dropped, verbose=verbose)
        _print_rows("Rows to look at", report.warnings, verbose=verbose)
        print_line(f"{report.valid:,} of {report.rows:,} rows are valid ({report.format})")
    if report.dropped:
        say_error(
            f"{len(report.dropped):,} of {report.rows:,} rows of `{file}` cannot be used",
            "training leaves them out and counts them; mend the lines above to use them",
        )
        raise typer.Exit(1)


def deduplicate(
    file: File,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where to write the rest; default: only count.", show_default=False),
    ] = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Drop exact duplicates, up to spaces and case, and say which."""
    kept, dropped = datasets.deduplicate(file, out)
    if as_json:
        print_json({"kept": len(kept), "dropped": dropped, "out": out})
        return
    _print_rows("Duplicates", dropped, verbose=verbose)
    print_line(f"{len(kept):,} kept, {len(dropped):,} dropped")
    if out is not None:
        say(f"Written to {out}")


def split(
    file: File,
    out_dir: Annotated[
        Path,
        typer.Option(
            "--out-dir", "-o", help="New folder for train, validation and test.", show_default=False
        ),
    ],
    strategy: Annotated[
        SplitStrategy,
        typer.Option(
            "--strategy",
            help="group: a record or passage is in one split only; paraphrase: a fact may be in several, "
            "each time in other words.",
        ),
    ] = "group",
    validation: Annotated[
        float, typer.Option("--validation", min=0, max=0.9, help="Share of validation.")
    ] = 0.1,
    test: Annotated[float, typer.Option("--test", min=0, max=0.9, help="Share of test.")] = 0.1,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same split.")] = 0,
    format: ReadFormat = None,
    as_json: Json = False,
) -> None:
    """Split into train, validation and test, so that no test question was seen in training."""
    files = datasets.split(
        file, out_dir, strategy=strategy, seed=seed, validation=validation, test=test, format=format
    )
    left_out = _left_out(out_dir)
    if as_json:
        figures = {"out_dir": out_dir, "strategy": strategy, "seed": seed}
        print_json(figures | {"splits": files, "left_out": left_out})
        return
    print_table(("split", "examples", "file"), ((part.split, part.examples, part.path) for part in files))
    for reason, count in left_out.items():
        say(f"{count:,} left out ({reason.replace('_', ' ')}); each is named in {out_dir / LEDGER}")


def stats(
    file: Annotated[Path, typer.Argument(help="Dataset file, or a folder of splits.", show_default=False)],
    format: ReadFormat = None,
    as_json: Json = False,
) -> None:
    """Count examples, splits, question types, labels, duplicates and lengths."""
    figures = datasets.statistics(file, format=format)
    if as_json:
        print_json(figures)
        return
    splits = figures.splits
    print_fields(
        (
            ("examples", figures.examples),
            ("splits", f"{splits.train:,} train, {splits.validation:,} validation, {splits.test:,} test"),
            ("question length", f"{figures.question_characters_mean:.0f} characters on average"),
            (
                "answer length",
                f"{figures.answer_characters_mean:.0f} characters, {figures.answer_words_mean:.0f} words "
                f"on average, at most {figures.answer_characters_max:,} characters",
            ),
            ("exact duplicates", figures.exact_duplicates),
            ("negatives", figures.negatives),
            ("held-out wordings", figures.held_out_wordings),
        )
    )
    for title, counts in (("question type", figures.question_types), ("label", figures.labels)):
        if counts:
            print_line()
            print_table((title, "examples"), counts.items())


def coverage(
    records: Annotated[Path, typer.Argument(help="CSV or JSON file of records.", show_default=False)],
    dataset: Annotated[Path, typer.Argument(help="Dataset file, or a folder of splits.", show_default=False)],
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", help="Field mapping (YAML); default: guessed.", show_default=False),
    ] = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Say which records the dataset speaks of, and name those that it leaves out."""
    report = datasets.coverage(records, dataset, mapping=mapping)
    if as_json:
        print_json(report)
        return
    print_fields(
        (
            ("records", report.records),
            ("covered", f"{report.covered:,} ({percent(report.coverage)})"),
            ("uncovered", f"{len(report.uncovered):,}"),
        )
    )
    for name in report.uncovered if verbose else report.uncovered[:ROWS_SHOWN]:
        print_line(f"  {name}")
    _say_rest(len(report.uncovered), verbose=verbose)
    if report.question_types:
        print_line()
        print_table(("question type", "examples"), report.question_types.items())
    for advice in report.recommendations:
        say(f"- {advice}")


def convert(
    file: File,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write; its suffix decides.", show_default=False)
    ],
    to: Annotated[DatasetFormat, typer.Option("--to", help="Shape of the rows to write.")] = "openai",
    format: ReadFormat = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Write a dataset in another shape or file type."""
    report = datasets.convert(file, out, to=to, format=format)
    if as_json:
        print_json({"out": out, "to": to, "report": report})
        return
    _print_rows("Rows left out", report.dropped, verbose=verbose)
    print_line(f"{report.valid:,} of {report.rows:,} rows written to {out} ({to})")


def _left_out(folder: Path) -> dict[str, int]:
    """Number of examples that fit in no split, by reason."""
    ledger = folder / LEDGER
    if not ledger.exists():
        return {}
    lines = ledger.read_text(encoding="utf-8").splitlines()
    return dict(Counter(Dropped.model_validate_json(line).reason for line in lines))


def _print_rows(title: str, rows: list[Dropped], *, verbose: bool) -> None:
    if not rows:
        return
    shown = rows if verbose else rows[:ROWS_SHOWN]
    print_table(
        ("line", "reason", "what", "remedy"),
        ((row.line, row.reason, row.message, row.remedy) for row in shown),
        title=f"{title}: {len(rows):,}",
    )
    _say_rest(len(rows), verbose=verbose)
    print_line()


def _say_rest(total: int, *, verbose: bool) -> None:
    if total > ROWS_SHOWN and not verbose:
        say(f"… and {total - ROWS_SHOWN:,} more (--verbose shows all)")
