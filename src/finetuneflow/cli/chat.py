"""`finetuneflow chat`: a conversation with a tuned model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, say, visible
from finetuneflow.cli.standard_input import lines
from finetuneflow.services import predictions
from finetuneflow.services.context import using_context

app = new_app("Talk to a tuned model.")
RESET = "/reset"


@app.command(
    epilog=examples(
        "finetuneflow chat RUN", "finetuneflow chat RUN --base", "finetuneflow chat EXPORT --memory"
    )
)
def chat(
    model_id: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Id of a run or of an export, or a .gguf file.", show_default=False
        ),
    ],
    base: Annotated[bool, typer.Option("--base", help="Talk to the base model instead, to compare.")] = False,
    memory: Annotated[
        bool,
        typer.Option(
            "--memory", help="Keep earlier turns in the context; for models trained on conversations."
        ),
    ] = False,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Longest answer, tokens.")
    ] = 96,
    as_json: Json = False,
) -> None:
    """Talk to the model of a run, or to an exported GGUF file, a line at a time; Ctrl-D ends it.

    With --json the conversation is printed at the end.
    """
    turns: list[dict[str, str]] = []
    with (
        using_context() as context,
        predictions.open_model(context, model_id, base=base, max_new_tokens=max_new_tokens) as model,
    ):
        if sys.stdin.isatty():
            say(f"Talking to {model_id}. {RESET} starts afresh, Ctrl-D ends.")
        for question in lines():
            if question == RESET:
                turns = []
                continue
            turns.append({"role": "user", "content": question})
            answer = model.answer(turns if memory else turns[-1:])
            turns.append({"role": "assistant", "content": answer.text})
            if not as_json:
                print_line(visible(answer.text))
                sys.stdout.flush()
    if as_json:
        print_json({"run": model_id, "messages": turns})
