"""`finetuneflow retrieval`: look up passages, and measure how often the right one is found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, say, say_warning, visible
from finetuneflow.cli.progress import display
from finetuneflow.cli.tables import duration, percent, print_table
from finetuneflow.schemas.event import LogEvent, ProgressEvent
from finetuneflow.schemas.interval import Interval
from finetuneflow.schemas.retrieval import Found, Kind, RetrievalConfig, RetrievalReport
from finetuneflow.services import retrieval

app = new_app(
    "Look up passages in documents and records, and measure how often the right one is found.",
    epilog=examples(
        'finetuneflow retrieval search guide.pdf catalogue.csv "Who runs Atlas?"',
        "finetuneflow retrieval measure catalogue.csv --questions dataset.jsonl",
    ),
)
DEFAULTS = RetrievalConfig()

SourceFiles = Annotated[
    list[Path],
    typer.Argument(
        metavar="SOURCES",
        help="Documents (TXT, Markdown, PDF, DOCX), records (CSV, JSON), SQuAD files.",
        show_default=False,
    ),
]
Mapping = Annotated[
    Path | None,
    typer.Option("--mapping", help="Field mapping of the records (default: guessed).", show_default=False),
]
EncoderName = Annotated[
    str,
    typer.Option(
        "--encoder",
        help="For embeddings: `embedded:minilm` (English), the folder of an encoder, a hub id; "
        "with --url, the name of a model there.",
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Server with OpenAI's /embeddings, such as http://localhost:11434/v1 (Ollama).",
        show_default=False,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key", envvar="FTF_EMBEDDINGS_API_KEY", help="What that server wants.", show_default=False
    ),
]


@app.command(
    "search",
    epilog=examples(
        'finetuneflow retrieval search catalogue.csv "What is the status of Atlas?"',
        'finetuneflow retrieval search guide.pdf notes.md "holidays" --kind hybrid -k 3 --json',
        'finetuneflow retrieval search guide.pdf "congés" --kind hybrid --url http://localhost:11434/v1 '
        "--encoder bge-m3",
    ),
)
def search(
    sources: SourceFiles,
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="Question, or words to look for.", show_default=False)
    ],
    kind: Annotated[
        Kind, typer.Option("--kind", help="By shared words, by meaning, or both.")
    ] = DEFAULTS.kind,
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 5,
    mapping: Mapping = None,
    encoder: EncoderName = DEFAULTS.encoder,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Print the passages that answer a question, best first, each with its source."""
    with _progress() as show:
        found, notes = retrieval.search(
            sources,
            question,
            RetrievalConfig(kind=kind, encoder=encoder, url=url),
            k=k,
            mapping=mapping,
            api_key=api_key,
            on_progress=show,
        )
    for note in notes:
        say_warning(note)
    if as_json:
        print_json({"question": question, "kind": kind, "passages": [_entry(item) for item in found]})
        return
    if not found:
        say("No passage shares a word with the question.")
    for item in found:
        print_line(f"[{item.rank}] {visible(item.passage.source)}  (score {item.score:.3f})")
        for line in item.passage.text.splitlines():
            print_line(f"    {visible(line)}".rstrip())
        print_line()


def _entry(found: Found) -> dict[str, object]:
    return found.model_dump(mode="json") | {"source": found.passage.source}


@app.command(
    "measure",
    epilog=examples(
        "finetuneflow dataset from-records catalogue.csv --out questions.jsonl",
        "finetuneflow retrieval measure catalogue.csv --questions questions.jsonl",
        "finetuneflow retrieval measure xquad.en.json --questions xquad.en.json --json",
        "finetuneflow retrieval measure guide.pdf --questions questions.jsonl --kind bm25",
    ),
)
def measure(
    sources: SourceFiles,
    questions: Annotated[
        Path,
        typer.Option(
            "--questions",
            "-q",
            metavar="FILE",
            help="Dataset made from these sources, or a SQuAD file.",
            show_default=False,
        ),
    ],
    kind: Annotated[
        Kind | None,
        typer.Option("--kind", help="Measure this kind alone (default: all three).", show_default=False),
    ] = None,
    mapping: Mapping = None,
    encoder: EncoderName = DEFAULTS.encoder,
    url: Url = None,
    api_key: ApiKey = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the intervals.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure how often each kind finds the source of a question: recall@k and MRR with 95 % intervals."""
    with _progress() as show:
        report = retrieval.measure(
            sources,
            questions,
            RetrievalConfig(encoder=encoder, url=url),
            kinds=(kind,) if kind else retrieval.KINDS,
            mapping=mapping,
            api_key=api_key,
            seed=seed,
            on_progress=show,
        )
    for note in report.notes:
        say_warning(note)
    if as_json:
        print_json(report)
    else:
        _print_report(report)


def _print_report(report: RetrievalReport) -> None:
    cuts = list(report.kinds[0].recall)
    print_table(
        ("kind", *(f"recall@{k}" for k in cuts), "MRR", "ms/question"),
        (
            (
                figures.kind,
                *(_with_interval(figures.recall[k]) for k in cuts),
                f"{figures.mrr.value:.3f} ({figures.mrr.low:.3f}–{figures.mrr.high:.3f})",
                figures.milliseconds_per_question,
            )
            for figures in report.kinds
        ),
    )
    for difference in report.differences:
        gap = difference.difference
        say(
            f"{difference.kind} against {difference.baseline}, recall@{difference.k}: "
            f"{100 * gap.value:+.1f} points (95 %: {100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
        )
    say(
        f"{report.questions:,} questions on {report.sources:,} of {report.passages:,} passages "
        f"({duration(report.seconds)})"
    )
    for reason, count in report.left_out.items():
        say(f"left out: {count:,} ({reason})")


def _with_interval(figure: Interval) -> str:
    return f"{percent(figure.value)} ({100 * figure.low:.1f}–{100 * figure.high:.1f})"


@contextmanager
def _progress() -> Iterator[retrieval.Progress]:
    """A display that services can tell how far they are."""
    with display() as screen:

        def show(stage: str, done: int, total: int) -> None:
            if total <= 1:
                if not done:
                    screen.show(LogEvent(message=stage))
            else:
                screen.show(ProgressEvent(stage=stage, step=done, total_steps=total))

        yield show
