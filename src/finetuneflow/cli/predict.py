"""`finetuneflow predict`: answers of a tuned model."""

from __future__ import annotations

from typing import Annotated

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, visible
from finetuneflow.cli.standard_input import lines
from finetuneflow.errors import UsageError
from finetuneflow.services import predictions
from finetuneflow.services.context import using_context

app = new_app("Answer questions with a tuned model.")
STANDARD_INPUT = "-"


@app.command(
    epilog=examples(
        'finetuneflow predict RUN "What is the status of Atlas?"',
        'finetuneflow predict RUN "First question" "Second question" --json',
        "finetuneflow predict RUN - < questions.txt",
        "finetuneflow predict my-model/gguf/model.gguf 'A question'",
    )
)
def predict(
    model_id: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Id of a run or of an export, or a .gguf file.", show_default=False
        ),
    ],
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT...", help="Questions, or `-` for one a line on stdin.", show_default=False
        ),
    ],
    base: Annotated[bool, typer.Option("--base", help="Ask the base model instead, to compare.")] = False,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Longest answer, tokens.")
    ] = 96,
    as_json: Json = False,
) -> None:
    """Answer questions, or label texts, with a run's model or an exported GGUF file; one answer a line."""
    questions = list(lines()) if texts == [STANDARD_INPUT] else texts
    if not questions:
        raise UsageError("there is nothing to answer", "give a question, or lines on stdin with `-`")
    answers = []
    with (
        using_context() as context,
        predictions.open_model(context, model_id, base=base, max_new_tokens=max_new_tokens) as model,
    ):
        for question in questions:
            answer = model.answer([{"role": "user", "content": question}])
            answers.append({"question": question, "answer": answer.text, "seconds": answer.seconds})
            if not as_json:
                print_line(visible(answer.text))
    if as_json:
        print_json({"run": model_id, "answers": answers})
