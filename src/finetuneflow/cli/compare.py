"""`finetuneflow compare`: the newest evaluations of several runs side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import say_warning
from finetuneflow.cli.scores import ARM_NAMES, with_interval
from finetuneflow.cli.tables import percent, print_table
from finetuneflow.errors import UsageError
from finetuneflow.schemas.evaluation import EvaluationResult
from finetuneflow.services import evaluations
from finetuneflow.services.context import using_context

app = new_app("Compare runs.")


@app.command(epilog=examples("finetuneflow compare RUN RUN", "finetuneflow compare RUN RUN RUN --json"))
def compare(
    run_ids: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Ids of the runs.", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Put the newest evaluation of each run side by side."""
    results: dict[str, EvaluationResult] = {}
    with using_context() as context:
        for run_id in run_ids:
            result = evaluations.latest(context, run_id)
            if result is None:
                raise UsageError(f"run `{run_id}` was not evaluated yet", f"finetuneflow evaluate {run_id}")
            results[run_id] = result
    same = len({result.test_set_hash for result in results.values()}) == 1
    if as_json:
        print_json({"same_test_set": same, "runs": results})
        return
    print_table(
        ("run", "arm", "questions", "exact match", "token F1", "verdict"),
        [row for run_id, result in results.items() for row in _rows(run_id, result)],
    )
    if not same:
        say_warning("these runs were not evaluated on one test set: their figures cannot be compared")


def _rows(run_id: str, result: EvaluationResult) -> list[tuple[object, ...]]:
    outcome = result.verdict.outcome if result.verdict else ""
    rows: list[tuple[object, ...]] = []
    for name, arm in result.arms.items():
        scores = arm.overall or arm.held_out_wordings
        if scores is not None:
            figures = (scores.items, with_interval(scores.exact_match), with_interval(scores.token_f1))
            rows.append((run_id, ARM_NAMES.get(name, name), *figures, outcome if name == "tuned" else ""))
    for name, classes in result.classification.items():
        figures = (classes.items, percent(classes.accuracy), percent(classes.macro_f1) + " (macro)")
        rows.append((run_id, ARM_NAMES.get(name, name), *figures, outcome if name == "tuned" else ""))
    return rows
