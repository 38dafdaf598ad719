"""`finetuneflow demo`: the whole loop on sample data."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import say
from finetuneflow.cli.progress import show_events
from finetuneflow.cli.scores import print_evaluation, print_parity
from finetuneflow.cli.tables import duration
from finetuneflow.services import pipeline
from finetuneflow.services.context import using_context

app = new_app("Run the whole loop on sample data.")


@app.command(
    epilog=examples(
        "finetuneflow demo", "finetuneflow demo --language fr", "finetuneflow demo --json --seed 1"
    )
)
def demo(
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same figures.")] = 0,
    language: Annotated[
        Literal["en", "fr"], typer.Option("--language", help="Language of the report.")
    ] = "en",
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps only: shows the road, proves nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the whole loop on sample data: dataset, training, evaluation, verdict, export.

    It takes a few minutes, needs no network, and leaves everything in the workspace.
    """
    try:
        with using_context() as context:
            result = pipeline.demo(
                context, seed=seed, language=language, quick=quick, tell=say, show=show_events
            )
    except KeyboardInterrupt:
        say()
        say("The stage at work goes on without you: see `finetuneflow jobs list`.")
        raise typer.Exit(130) from None
    if as_json:
        print_json(result)
        return
    say()
    print_evaluation(result.evaluation)
    if result.parity is not None:
        say()
        print_parity(result.parity)
    say()
    say(f"Done in {duration(result.seconds)}. What was made:")
    for name, path in result.artifacts.items():
        say(f"  {name:<13} {path}")
    say()
    say("Try next:")
    for line in result.next_commands:
        say(f"  {line}")
