"""`finetuneflow jobs`: training, evaluations and exports alike."""

from __future__ import annotations

from typing import Annotated

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, say
from finetuneflow.cli.progress import follow_to_end
from finetuneflow.cli.tables import print_fields, print_table
from finetuneflow.schemas.job import JobStatus
from finetuneflow.services import jobs
from finetuneflow.services.context import using_context

app = new_app(
    "List, follow and cancel jobs of every kind: training, evaluation, export.",
    epilog=examples("finetuneflow jobs list", "finetuneflow jobs follow JOB", "finetuneflow jobs cancel JOB"),
)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.", show_default=False)]


@app.command("list", epilog=examples("finetuneflow jobs list", "finetuneflow jobs list --status failed"))
def list_all(
    status: Annotated[
        JobStatus | None, typer.Option("--status", help="Only these.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with using_context() as context:
        jobs.settle(context)
        found = jobs.list_jobs(context, status=status, limit=limit)
    if as_json:
        print_json({"jobs": found})
        return
    if not found:
        say("No job yet.")
        return
    print_table(
        ("job", "kind", "status", "started", "error"),
        (
            (job.id, job.kind, job.status, (job.started_at or "")[:16].replace("T", " "), job.error)
            for job in found
        ),
    )


@app.command(epilog=examples("finetuneflow jobs show JOB --json"))
def show(job_id: JobId, as_json: Json = False) -> None:
    """Show a job as it is now."""
    with using_context() as context:
        jobs.settle(context)
        job = jobs.get_job(context, job_id)
    if as_json:
        print_json(job)
    else:
        print_fields(job.model_dump().items())


@app.command(epilog=examples("finetuneflow jobs follow JOB"))
def follow(job_id: JobId, as_json: Json = False) -> None:
    """Watch a job until it ends; Ctrl-C leaves it at work."""
    with using_context() as context:
        job = follow_to_end(context, job_id)
    if as_json:
        print_json(job)
    else:
        print_line(f"{job.id} {job.status}")


@app.command(epilog=examples("finetuneflow jobs cancel JOB"))
def cancel(job_id: JobId, as_json: Json = False) -> None:
    """Stop a job and everything that it started."""
    with using_context() as context:
        jobs.cancel(context, job_id)
        job = jobs.wait(context, job_id)
    if as_json:
        print_json(job)
    else:
        print_line(f"{job.id} {job.status}")
