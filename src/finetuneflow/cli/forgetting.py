"""`finetuneflow forgetting`: what does the tuned model no longer do?"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, say, visible
from finetuneflow.cli.progress import follow_to_end
from finetuneflow.cli.runs import RunId
from finetuneflow.cli.tables import percent, print_table
from finetuneflow.schemas.forgetting import ForgettingResult
from finetuneflow.services import forgetting as service
from finetuneflow.services.context import using_context

app = new_app("Look for what a tuned model no longer does.")
LOST_SHOWN = 5
SHOWN_CHARACTERS = 160
LANGUAGES = {"en": "English", "fr": "French"}


@app.command(
    epilog=examples(
        "finetuneflow forgetting RUN",
        "finetuneflow forgetting RUN --language fr --json > forgetting.json",
        "pytest -p finetuneflow.services.model_tests --model RUN    (the same requests, as tests)",
    )
)
def forgetting(
    run_id: RunId,
    language: Annotated[
        Literal["en", "fr"], typer.Option("--language", help="Language of the reasons.")
    ] = "en",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it and come back at once.")] = False,
    as_json: Json = False,
) -> None:
    """Compare a tuned model with its base on what it was not trained for, and give a verdict.

    300 requests that code can check, bits per byte on a page of prose, divergence on neutral prompts.
    """
    with using_context() as context:
        job = service.start(context, run_id)
        if detach:
            if as_json:
                print_json(job)
            else:
                print_line(job.id)
            return
        job = follow_to_end(context, job.id)
        result = service.result(context, job.id, language=language)
    if as_json:
        print_json(result)
        return
    print_forgetting(result)
    say()
    say(f"All answers: {result.predictions_path}")


def print_forgetting(result: ForgettingResult) -> None:
    """Prints families, texts, what was lost, and the verdict last."""
    print_table(
        ("requests", "items", "base", "tuned", "lost", "won", "p"),
        (
            (
                row.family,
                row.items,
                percent(row.base),
                percent(row.tuned),
                row.losses,
                row.wins,
                f"{row.p_value:.2g}",
            )
            for row in result.families
        ),
    )
    print_line()
    print_table(
        ("bits per byte", "base", "tuned", "rise"),
        (
            (
                LANGUAGES.get(name, name),
                f"{row.base.bits_per_byte:.3f}",
                f"{row.tuned.bits_per_byte:.3f}",
                percent(row.rise),
            )
            for name, row in result.texts.items()
        ),
    )
    if result.lost:
        print_line()
        print_line("Requests that the base met and the tuned model does not (the first ones):")
    for lost in result.lost[:LOST_SHOWN]:
        print_line(f"  {_shown(lost.request)}")
        print_line(f"    base:  {_shown(lost.base)}")
        print_line(f"    tuned: {_shown(lost.tuned)}")
    print_line()
    print_line(f"Forgetting: {result.outcome}")
    for reason in result.reasons:
        print_line(f"  - {reason}")


def _shown(text: str) -> str:
    """One line of a text, cut where it goes on and on."""
    line = " ".join(visible(text).split())
    return line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + " …"
