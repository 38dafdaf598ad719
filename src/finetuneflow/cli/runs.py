"""`finetuneflow runs`: what was trained, what is being trained, and going on with what was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, say
from finetuneflow.cli.progress import follow_to_end
from finetuneflow.cli.tables import duration, print_fields, print_table
from finetuneflow.schemas.job import JobStatus
from finetuneflow.schemas.run import Run
from finetuneflow.services import jobs, runs
from finetuneflow.services.context import using_context

app = new_app(
    "List, show, follow, resume and cancel runs.",
    epilog=examples("finetuneflow runs list", "finetuneflow runs show RUN", "finetuneflow runs resume RUN"),
)

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.", show_default=False)]


@app.command(
    "list", epilog=examples("finetuneflow runs list", "finetuneflow runs list --status running --json")
)
def list_all(
    status: Annotated[
        JobStatus | None, typer.Option("--status", help="Only these.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    with using_context() as context:
        jobs.settle(context)
        found = runs.list_runs(context, status=status, limit=limit)
    if as_json:
        print_json({"runs": found})
        return
    if not found:
        say("No run yet: `finetuneflow train --dataset FILE` starts one.")
        return
    print_table(
        ("run", "name", "status", "base model", "method", "dataset", "validation loss", "started"),
        (
            (
                run.id,
                run.name,
                run.status,
                run.recipe.base_model,
                run.recipe.method,
                run.dataset_id,
                run.result.eval_loss if run.result else None,
                run.created_at[:16].replace("T", " "),
            )
            for run in found
        ),
    )


@app.command(epilog=examples("finetuneflow runs show RUN", "finetuneflow runs show RUN --json"))
def show(run_id: RunId, as_json: Json = False) -> None:
    """Show a run: its state, its figures, where its files are."""
    with using_context() as context:
        jobs.settle(context)
        run = runs.get_run(context, run_id)
        job = jobs.get_job(context, run_id)
    if as_json:
        print_json(run.model_dump(mode="json") | {"error": job.error, "hint": job.hint})
        return
    print_run(run)
    if job.error:
        print_fields((("error", job.error), ("hint", job.hint)))


@app.command(epilog=examples("finetuneflow runs follow RUN"))
def follow(run_id: RunId, as_json: Json = False) -> None:
    """Watch a run until it ends; Ctrl-C leaves it at work."""
    with using_context() as context:
        runs.get_run(context, run_id)
        follow_to_end(context, run_id)
        run = runs.get_run(context, run_id)
    if as_json:
        print_json(run)
    else:
        print_run(run)


@app.command(epilog=examples("finetuneflow runs resume RUN"))
def resume(
    run_id: RunId,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it and come back at once.")] = False,
    as_json: Json = False,
) -> None:
    """Go on with a run that was killed or cancelled, from its newest sound checkpoint."""
    with using_context() as context:
        jobs.settle(context)
        run = runs.resume(context, run_id)
        say(f"Run {run.id} goes on")
        if not detach:
            follow_to_end(context, run.id)
            run = runs.get_run(context, run.id)
    if as_json:
        print_json(run)
    elif detach:
        print_line(run.id)
    else:
        print_run(run)
        say(f"Next: finetuneflow evaluate {run.id}")


@app.command(epilog=examples("finetuneflow runs cancel RUN"))
def cancel(run_id: RunId, as_json: Json = False) -> None:
    """Stop a run; its checkpoints stay, so that it can be resumed."""
    with using_context() as context:
        runs.cancel(context, run_id)
        job = jobs.wait(context, run_id)
        run = runs.get_run(context, run_id)
    if as_json:
        print_json(run)
    else:
        print_line(f"{run.id} {job.status}")


app.command("logs", hidden=True)(follow)


def print_run(run: Run) -> None:
    """Prints a run's figures and the place of its files."""
    result = run.result
    print_fields(
        (
            ("run", run.id),
            ("name", run.name if run.name != run.id else ""),
            ("status", run.status),
            ("base model", run.recipe.base_model),
            ("method", run.recipe.method),
            ("dataset", run.dataset_id),
            ("folder", run.folder),
        )
    )
    if result is None:
        return
    weights = result.adapter or result.model
    losses = f"train {result.train_loss:.3f}"
    if result.eval_loss is not None:
        losses += f", validation {result.eval_loss:.3f} at step {result.best_step} (kept)"
    early = ", stopped early" if result.stopped_early else ""
    print_fields(
        (
            ("steps", f"{result.steps:,} ({result.epochs:.3g} epochs{early})"),
            ("loss", losses),
            *((name.replace("_", " "), value) for name, value in result.metrics.items()),
            ("trained", f"{result.trainable_parameters:,} of {result.parameters:,} parameters"),
            ("speed", f"{result.tokens_per_second:,.0f} tokens/s, {result.precision} on {result.device}"),
            ("time", duration(result.seconds)),
            ("settings", result.hyperparameters.reason),
            ("resumed from", f"step {result.resumed_from}" if result.resumed_from else ""),
            ("left out", f"{result.dropped_examples:,} examples too long" if result.dropped_examples else ""),
            ("adapter" if result.adapter else "model", Path(run.folder) / weights if weights else ""),
        )
    )
