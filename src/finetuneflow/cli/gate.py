"""`finetuneflow gate`: may this model be deployed?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
import yaml

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, say, say_error
from finetuneflow.cli.scores import print_gate
from finetuneflow.errors import UsageError
from finetuneflow.schemas.gate import Recomputed
from finetuneflow.services import gate as service
from finetuneflow.services import gate_policy
from finetuneflow.services.context import using_context

app = new_app("Decide whether a model may be deployed.")
EXIT_CODES = {"PASS": 0, "FAIL": 1, "NOT ENOUGH DATA": 3}
NOT_THE_SAME = 1


@app.command(
    epilog=examples(
        "finetuneflow gate RUN",
        "finetuneflow gate RUN --policy gate.yaml --json > gate.json",
        "finetuneflow gate --print-policy > gate.yaml",
        "finetuneflow gate --recompute gate.json --predictions predictions.jsonl",
    )
)
def gate(
    reference: Annotated[
        str | None,
        typer.Argument(metavar="RUN|EVALUATION", help="Id of a run or of an evaluation.", show_default=False),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            metavar="FILE",
            help="YAML with what the default policy should not be.",
            show_default=False,
        ),
    ] = None,
    print_policy: Annotated[
        bool, typer.Option("--print-policy", help="Print the policy with what each key means, and stop.")
    ] = False,
    recompute: Annotated[
        Path | None,
        typer.Option(
            "--recompute",
            metavar="FILE",
            help="Make a recorded decision again, bit for bit.",
            show_default=False,
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions", metavar="FILE", help="The answers, for --recompute.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Where to record the decision (default: gate.json beside the answers).",
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        Literal["en", "fr"], typer.Option("--language", help="Language of the reasons.")
    ] = "en",
    as_json: Json = False,
) -> None:
    """Say PASS, FAIL or NOT ENOUGH DATA about a run's newest evaluation, and record why.

    Exits with 0, 1 or 3. The record holds all that is needed to come to the same decision again.
    """
    if sum((reference is not None, print_policy, recompute is not None)) != 1:
        raise UsageError(
            "the gate needs one of three: a run or evaluation, `--recompute FILE`, or `--print-policy`",
            "see `finetuneflow gate --help`",
        )
    if predictions is not None and recompute is None:
        raise UsageError("`--predictions` goes with `--recompute`", "the gate itself knows where they are")
    if print_policy:
        _print_policy(policy, as_json)
        return
    chosen = gate_policy.load(policy)
    with using_context() as context:
        if recompute is not None:
            again = service.recompute(
                context, recompute, predictions=predictions, policy=chosen if policy else None
            )
            _print_recomputed(again, as_json)
        result, path = service.decide(
            context, reference or "", policy=chosen, language=language, out=out, notify=say
        )
    if as_json:
        print_json(result)
    else:
        print_gate(result)
    say()
    say(f"Recorded: {path}")
    raise typer.Exit(EXIT_CODES[result.outcome])


def _print_policy(path: Path | None, as_json: bool) -> None:
    chosen = gate_policy.load(path)
    if as_json:
        print_json(chosen)
    elif path is None:
        print_line(gate_policy.default_text().rstrip("\n"))
    else:
        print_line(yaml.safe_dump(chosen.model_dump(mode="json"), sort_keys=False).rstrip("\n"))


def _print_recomputed(again: Recomputed, as_json: bool) -> NoReturn:
    if as_json:
        print_json(again)
    else:
        print_gate(again.result)
    if again.same:
        say()
        say("The same as recorded, bit for bit.")
        raise typer.Exit(EXIT_CODES[again.result.outcome])
    say_error("this is not what was recorded", "; ".join(again.differences[:20]))
    raise typer.Exit(NOT_THE_SAME)
