"""`finetuneflow compare`: evaluations side by side; of one run, every comparison and what to do."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, say, say_warning, visible
from finetuneflow.cli.scores import (
    ARM_NAMES,
    print_comparisons,
    print_recommendation,
    print_slices,
    with_interval,
)
from finetuneflow.cli.tables import percent, print_table
from finetuneflow.errors import UsageError
from finetuneflow.schemas.evaluation import Arm, EvaluationResult
from finetuneflow.services import comparisons, evaluations
from finetuneflow.services.context import using_context

app = new_app("Compare runs.")
Outcome = Literal["won", "lost", "tied"]


@app.command(
    epilog=examples(
        "finetuneflow compare RUN",
        "finetuneflow compare RUN RUN RUN --json",
        "finetuneflow compare RUN --list lost --baseline rag",
    )
)
def compare(
    run_ids: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Ids of the runs.", show_default=False)
    ],
    listed: Annotated[
        Outcome | None,
        typer.Option(
            "--list", help="Show the questions that the tuned model won, lost or tied.", show_default=False
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="ARM",
            help="Against whom --list looks: base, rag or another arm (default: the better of base and rag).",
            show_default=False,
        ),
    ] = None,
    arm: Annotated[
        Literal["tuned", "tuned_rag"], typer.Option("--arm", help="Which tuned arm --list looks at.")
    ] = "tuned",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Questions that --list shows.")] = 20,
    language: Annotated[
        Literal["en", "fr"], typer.Option("--language", help="Language of the recommendation.")
    ] = "en",
    as_json: Json = False,
) -> None:
    """Put the newest evaluation of each run side by side.

    Of one run also: paired differences on every metric, parts of the test set, and what to do.
    """
    results: dict[str, EvaluationResult] = {}
    with using_context() as context:
        for run_id in run_ids:
            result = evaluations.latest(context, run_id)
            if result is None:
                raise UsageError(f"run `{run_id}` was not evaluated yet", f"finetuneflow evaluate {run_id}")
            results[run_id] = result
        if listed is None:
            for run_id, result in results.items():
                results[run_id] = comparisons.complete(context, result, language=language)
    if listed is not None:
        if len(results) != 1:
            raise UsageError(
                "`--list` looks at one run", f"finetuneflow compare {run_ids[0]} --list {listed}"
            )
        _list(results[run_ids[0]], listed, baseline, arm, limit, as_json)
        return
    same = len({result.test_set_hash for result in results.values()}) == 1
    if as_json:
        print_json({"same_test_set": same, "runs": results})
        return
    print_table(
        ("run", "arm", "questions", "exact match", "token F1", "time", "verdict"),
        [row for run_id, result in results.items() for row in _rows(run_id, result)],
    )
    if len(results) == 1:
        _print_details(results[run_ids[0]])
    if not same:
        say_warning("these runs were not evaluated on one test set: their figures cannot be compared")


def _print_details(result: EvaluationResult) -> None:
    if result.comparisons:
        print_line()
        print_comparisons(result.comparisons)
    print_slices(result.slices)
    if result.recommendation is not None:
        print_line()
        print_recommendation(result.recommendation)


def _list(
    result: EvaluationResult, outcome: Outcome, baseline: Arm | None, arm: Arm, limit: int, as_json: bool
) -> None:
    found = comparisons.list_items(result, outcome, baseline=baseline, arm=arm)
    if as_json:
        rows = [{"tuned": row.tuned, "baseline": row.baseline} for row in found]
        print_json({"outcome": outcome, "items": len(found), "list": rows})
        return
    for row in found[:limit]:
        print_line(visible(row.tuned.question))
        print_line(f"  expected: {visible(row.tuned.expected)}")
        print_line(f"  baseline: {visible(row.baseline.predicted)}")
        print_line(f"  tuned:    {visible(row.tuned.predicted)}")
    say()
    say(f"{len(found)} questions {outcome}" + (f", {limit} shown" if len(found) > limit else ""))


def _rows(run_id: str, result: EvaluationResult) -> list[tuple[object, ...]]:
    outcome = result.verdict.outcome if result.verdict else ""
    rows: list[tuple[object, ...]] = []
    for name, arm in result.arms.items():
        scores = arm.overall or arm.held_out_wordings
        if scores is not None:
            figures = (scores.items, with_interval(scores.exact_match), with_interval(scores.token_f1))
            time = f"{1000 * scores.latency_mean_seconds:.0f} ms"
            rows.append(
                (run_id, ARM_NAMES.get(name, name), *figures, time, outcome if name == "tuned" else "")
            )
    for name, classes in result.classification.items():
        figures = (classes.items, percent(classes.accuracy), percent(classes.macro_f1) + " (macro)")
        rows.append((run_id, ARM_NAMES.get(name, name), *figures, "", outcome if name == "tuned" else ""))
    return rows
