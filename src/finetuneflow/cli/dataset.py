"""`finetuneflow dataset`: from sources to a dataset that can be trained on."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated, get_args

import typer

from finetuneflow.cli.dataset_files import add_file_commands
from finetuneflow.cli.group import Json, Verbose, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, say, say_warning
from finetuneflow.cli.tables import duration, print_table
from finetuneflow.errors import UsageError
from finetuneflow.schemas.dataset import DatasetFormat, QuestionType
from finetuneflow.schemas.example import Example
from finetuneflow.services import datasets
from finetuneflow.services.context import using_context

app = new_app(
    "Make datasets from records and documents; check, split and measure them.",
    epilog=examples(
        "finetuneflow dataset from-records catalogue.csv --out dataset.jsonl",
        "finetuneflow dataset from-documents guide.pdf notes.md --out dataset.jsonl",
        "finetuneflow dataset validate dataset.jsonl",
    ),
)
EVERYTHING = "all"

Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="Dataset file to write: .jsonl, .json, .csv or .parquet.", show_default=False
    ),
]
Format = Annotated[DatasetFormat, typer.Option("--format", help="Shape of the rows.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same dataset.")]
NumQuestions = Annotated[
    int | None,
    typer.Option("--num-questions", "-n", min=1, help="How many pairs to make; default: all there are."),
]


@app.command(
    "from-records",
    epilog=examples(
        "finetuneflow dataset from-records catalogue.csv -n 1000 --add-negatives --out dataset.jsonl",
        "finetuneflow dataset from-records apps.json --question-types definition,status --out dataset.jsonl",
        "finetuneflow dataset mapping catalogue.csv > mapping.yaml",
        "finetuneflow dataset from-records catalogue.csv --mapping mapping.yaml --out dataset.jsonl",
    ),
)
def from_records(
    file: Annotated[
        Path, typer.Argument(help="CSV or JSON file of records, any columns.", show_default=False)
    ],
    out: Out,
    num_questions: NumQuestions = None,
    question_types: Annotated[
        str, typer.Option("--question-types", help=f"`all`, or some of: {', '.join(get_args(QuestionType))}.")
    ] = EVERYTHING,
    format: Format = "openai",
    add_negatives: Annotated[
        bool, typer.Option("--add-negatives", help="Also ask about things that are not in the records.")
    ] = False,
    mapping: Annotated[
        Path | None,
        typer.Option(
            "--mapping",
            help="Field mapping (YAML); default: guessed from the field names.",
            show_default=False,
        ),
    ] = None,
    held_out_wordings: Annotated[
        bool, typer.Option("--held-out-wordings", help="Keep some wordings for the test split alone.")
    ] = False,
    seed: Seed = 0,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Make question-answer pairs from records, by templates in French and English. No model is needed."""
    started = time.monotonic()
    made = datasets.from_records(
        file,
        mapping=mapping,
        num_questions=num_questions,
        question_types=_question_types(question_types),
        add_negatives=add_negatives,
        seed=seed,
        held_out_wordings=held_out_wordings,
    )
    if mapping is None or verbose:
        _say_mapping(file, made, guessed=mapping is None)
    datasets.write(out, made.examples, format)
    _report(made, out, format, time.monotonic() - started, verbose=verbose, as_json=as_json)


@app.command(
    "from-documents",
    epilog=examples(
        "finetuneflow dataset from-documents guide.pdf notes.md --out dataset.jsonl",
        "finetuneflow dataset from-documents report.docx --num-questions 200 --out dataset.jsonl --json",
    ),
)
def from_documents(
    files: Annotated[
        list[Path], typer.Argument(help="TXT, Markdown, PDF or DOCX files.", show_default=False)
    ],
    out: Out,
    num_questions: NumQuestions = None,
    format: Format = "openai",
    seed: Seed = 0,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Make grounded question-answer pairs from documents: every answer is a passage of its source."""
    started = time.monotonic()
    made = datasets.from_documents(files, num_questions=num_questions, seed=seed)
    datasets.write(out, made.examples, format)
    _report(made, out, format, time.monotonic() - started, verbose=verbose, as_json=as_json)


@app.command(
    "mapping",
    epilog=examples(
        "finetuneflow dataset mapping catalogue.csv > mapping.yaml",
        "finetuneflow dataset from-records catalogue.csv --mapping mapping.yaml --out dataset.jsonl",
    ),
)
def mapping(
    file: Annotated[Path, typer.Argument(help="CSV or JSON file of records.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show which fields would answer which questions, as a YAML file to edit."""
    guessed, text = datasets.guess_mapping(file)
    if as_json:
        print_json(guessed)
    else:
        print_line(text.rstrip("\n"))


@app.command("list", epilog=examples("finetuneflow dataset list", "finetuneflow dataset list --json"))
def list_versions(as_json: Json = False) -> None:
    """List the dataset versions in the workspace: the ones that runs were trained on."""
    with using_context() as context:
        versions = datasets.list_datasets(context)
    if as_json:
        print_json({"datasets": versions})
        return
    if not versions:
        say("No dataset version yet: `finetuneflow train --dataset FILE` makes one.")
        return
    print_table(
        ("dataset", "name", "task", "train", "validation", "test", "split", "made"),
        (
            (
                version.id,
                version.name,
                version.task,
                version.counts.train,
                version.counts.validation,
                version.counts.test,
                version.split_strategy,
                version.created_at[:16].replace("T", " "),
            )
            for version in versions
        ),
    )


add_file_commands(app)


def _question_types(text: str) -> list[QuestionType] | None:
    known: dict[str, QuestionType] = {name: name for name in get_args(QuestionType)}
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == [EVERYTHING]:
        return None
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UsageError(
            f"there is no question type `{', '.join(unknown)}`",
            f"choose `all`, or some of: {', '.join(known)}",
        )
    return [known[name] for name in names]


def _say_mapping(file: Path, made: datasets.Generated, *, guessed: bool) -> None:
    if made.mapping is None:
        return
    say(f"Field mapping{' (guessed from the field names)' if guessed else ''}:")
    fields = made.mapping.model_dump(exclude_defaults=True, exclude={"value_labels", "separators"})
    for name, value in fields.items():
        say(f"  {name:<13} {', '.join(value) if isinstance(value, list) else value}")
    if guessed:
        say("To change it:")
        say(f"  finetuneflow dataset mapping {file} > mapping.yaml, edit it, then add --mapping mapping.yaml")
    say()


def _report(
    made: datasets.Generated,
    out: Path,
    format: DatasetFormat,
    seconds: float,
    *,
    verbose: bool,
    as_json: bool,
) -> None:
    types = _count_types(made.examples)
    for note in made.notes if verbose else made.notes[:5]:
        say_warning(note)
    if len(made.notes) > 5 and not verbose:
        say(f"… and {len(made.notes) - 5} more notes (--verbose shows all)")
    if as_json:
        print_json(
            {
                "out": out,
                "format": format,
                "examples": len(made.examples),
                "question_types": types,
                "held_out_wordings": sum(example.provenance.wording_held_out for example in made.examples),
                "records": made.records,
                "mapping": made.mapping,
                "notes": made.notes,
                "seconds": round(seconds, 3),
            }
        )
        return
    print_table(("question type", "pairs"), types.items())
    if verbose:
        for example in made.examples[:3]:
            say(f"  Q: {example.question}")
            say(f"  A: {example.answer}")
    say(f"{len(made.examples):,} pairs in {out} ({duration(seconds)})")
    say(f"Next: finetuneflow train --dataset {out} --base-model embedded:tiny")


def _count_types(made: list[Example]) -> dict[str, int]:
    return dict(Counter(example.provenance.question_type or "other" for example in made).most_common())
