"""`finetuneflow errors`: a classifier's wrong predictions, explained and made into training examples."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from finetuneflow.cli.group import Json, Verbose, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, say, say_warning
from finetuneflow.cli.tables import percent, print_fields, print_table
from finetuneflow.dataset.from_predictions import ExampleStyle
from finetuneflow.schemas.error_report import ErrorReport, Language
from finetuneflow.services import errors

ROWS_SHOWN = 20
TELL_EVERY_SECONDS = 2.0

app = new_app(
    "Explain a classifier's wrong predictions, and make training examples of them.",
    epilog=examples(
        "finetuneflow errors report predictions.jsonl --out report.md --lang fr",
        "finetuneflow errors extract predictions.jsonl --out training_data.jsonl",
        "finetuneflow errors charters generic > charter.yaml",
    ),
)

File = Annotated[Path, typer.Argument(help="Predictions: .jsonl, .json or .csv.", show_default=False)]
Lang = Annotated[
    Language | None,
    typer.Option("--lang", help="Language of the text; default: the charter's.", show_default=False),
]
CharterName = Annotated[
    str | None,
    typer.Option(
        "--charter",
        help="Charter: a shipped name or a YAML file; default: the one that knows the labels.",
        show_default=False,
    ),
]
Mapping = Annotated[
    Path | None,
    typer.Option(
        "--mapping", help="YAML file that names the fields: `gold: NAME`, `text: a.b`.", show_default=False
    ),
]


@app.command(
    epilog=examples(
        "finetuneflow errors report predictions.jsonl --out report.md",
        "finetuneflow errors report predictions.csv --lang fr --charter counselling --out rapport.md",
        "finetuneflow errors report predictions.jsonl --training train.jsonl --json",
    )
)
def report(
    file: File,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="File to write: .md, or .json; default: stdout.", show_default=False
        ),
    ] = None,
    lang: Lang = None,
    charter: CharterName = None,
    mapping: Mapping = None,
    training: Annotated[
        Path | None,
        typer.Option(
            "--training",
            help="Dataset that the classifier was trained on, to look for contradictions.",
            show_default=False,
        ),
    ] = None,
    max_examples: Annotated[
        int, typer.Option("--max-examples", min=0, help="Training examples shown in the Markdown.")
    ] = errors.MAX_EXAMPLES,
    figures_only: Annotated[
        bool, typer.Option("--figures-only", help="Leave out what compares texts.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same report.")] = 0,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Say what a classifier gets wrong, why probably, and what to do: a Markdown report.

    Figures, confusions with cause and action, errors by confidence, groups of similar errors, doubtful
    annotations.
    """
    analysis = errors.report(
        file,
        language=lang,
        charter=charter,
        mapping=mapping,
        training=training,
        max_examples=max_examples,
        figures_only=figures_only,
        seed=seed,
        on_progress=_Progress(),
    )
    if out is not None:
        errors.write_report(out, analysis)
    _warn(analysis.report, file, verbose=verbose)
    if as_json:
        print_json(analysis.report)
    elif out is None:
        print_line(analysis.markdown.rstrip("\n"))
    else:
        _print_summary(analysis.report)
    if out is not None:
        say(f"Written to {out}")


@app.command(
    epilog=examples(
        "finetuneflow errors extract predictions.jsonl --out training_data.jsonl",
        "finetuneflow errors extract predictions.jsonl --style label --out train.jsonl",
    )
)
def extract(
    file: File,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Dataset file to write, .jsonl.", show_default=False)
    ],
    lang: Lang = None,
    charter: CharterName = None,
    mapping: Mapping = None,
    style: Annotated[
        ExampleStyle,
        typer.Option(
            "--style",
            help="document: comments, context, wrong prediction, explained answer; plain: charter, context "
            "and the bare label; label: text and label, for a classifier.",
        ),
    ] = "document",
    as_json: Json = False,
) -> None:
    """Make a training example of every wrong prediction, with its context and the right answer."""
    made = errors.extract(
        file, out, language=lang, charter=charter, mapping=mapping, style=style, on_progress=_Progress()
    )
    if as_json:
        print_json(asdict(made))
        return
    print_line(
        f"{made.examples:,} examples of {made.rows:,} rows ({made.correct:,} right, {made.dropped:,} dropped)"
    )
    say(f"{made.with_comments:,} with comments of experts, {made.with_context:,} with context")
    say(f"Written to {out} (charter {made.charter}, {made.language})")
    if style == "document":
        say("The questions show the wrong prediction, as the report does; --style plain hides it.")


@app.command(
    "charters",
    epilog=examples(
        "finetuneflow errors charters",
        "finetuneflow errors charters counselling",
        "finetuneflow errors charters generic > charter.yaml",
    ),
)
def show_charters(
    name: Annotated[
        str | None,
        typer.Argument(help="Charter to show as YAML; default: list them.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the charters (labels, priority, causes and actions), or show one to copy and edit."""
    if name is not None:
        text, charter = errors.show_charter(name)
        if as_json:
            print_json(charter)
        else:
            print_line(text.rstrip("\n"))
        return
    found = errors.shipped_charters()
    if as_json:
        print_json({"charters": found})
        return
    print_table(
        ("name", "labels", "confusions", "language", "title"),
        (
            (one.name, len(one.labels), len(one.confusions), one.language, one.title.say("en"))
            for one in found
        ),
    )


class _Progress:
    """Says how far a long analysis has come, every two seconds, and nothing in a short one."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, stage: str, rows: int) -> None:
        if time.monotonic() - self._told >= TELL_EVERY_SECONDS:
            self._told = time.monotonic()
            say(f"  {stage}: {rows:,} rows")


def _warn(found: ErrorReport, file: Path, *, verbose: bool) -> None:
    """Names the rows that were dropped, and what was odd in those kept."""
    lost = sum(found.dropped.values())
    if lost:
        say_warning(f"{lost:,} of {found.rows:,} rows of `{file}` cannot be used and were left out")
        shown = found.dropped_rows if verbose else found.dropped_rows[:ROWS_SHOWN]
        for row in shown:
            say(f"  {file}:{row.line}: {row.message}; {row.remedy}")
        if lost > len(shown):
            say(f"  … and {lost - len(shown):,} more (--verbose shows more)")
    for notice in found.notices:
        rows = "row" if notice.rows == 1 else "rows"
        say_warning(
            f"{notice.rows:,} {rows}: {notice.reason.replace('_', ' ')} (first: {file}:{notice.line})"
        )


def _print_summary(found: ErrorReport) -> None:
    print_fields(
        (
            ("rows", found.kept),
            ("accuracy", f"{percent(found.accuracy)}"),
            ("kappa", "undefined" if found.kappa is None else f"{found.kappa:.3f}"),
            ("macro F1", "undefined" if found.macro_f1 is None else percent(found.macro_f1)),
            ("errors", found.errors),
            ("doubtful annotations", found.label_errors_found),
            ("contradictions", found.training_conflicts_found),
        )
    )
    if found.confusions:
        print_line()
        print_table(
            ("predicted", "gold", "errors", "more than chance"),
            (
                (
                    one.predicted,
                    one.gold,
                    one.count,
                    "untested" if one.significant is None else one.significant,
                )
                for one in found.confusions[:5]
            ),
        )
    if found.high_confidence_alarm and found.high_confidence_share is not None:
        say_warning(f"{percent(found.high_confidence_share)} of the errors have a confidence of 0.8 or more")
