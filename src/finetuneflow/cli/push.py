"""`finetuneflow push`: an export to a model hub."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import say, visible
from finetuneflow.cli.progress import display
from finetuneflow.cli.tables import print_fields
from finetuneflow.errors import UsageError
from finetuneflow.schemas.event import ProgressEvent
from finetuneflow.services import hub
from finetuneflow.services.context import using_context

app = new_app("Push an export to a model hub.")
MEGABYTE = 1_000_000
QUIET_SECONDS = 2.0


@app.command(
    epilog=examples(
        "finetuneflow push RUN --to lea/my-model",
        "finetuneflow push EXPORT --to lea/my-model --public --yes",
    )
)
def push(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="RUN|EXPORT", help="Id of an export, or of a run: its newest one.", show_default=False
        ),
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="OWNER/NAME", help="The repository.", show_default=False)
    ],
    public: Annotated[bool, typer.Option("--public", help="For everyone to see; default: private.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Send model, card and figures to a hub, never a row of the dataset; the token is HF_TOKEN."""
    with using_context() as context:
        plan = hub.plan(context, reference, to, public=public)
    _show(plan)
    if not yes:
        _confirm(plan)
    started = time.monotonic()
    with display() as screen:

        def progress(stage: str, done: int, total: int) -> None:
            if time.monotonic() - started > QUIET_SECONDS:
                step, steps = done // MEGABYTE, max(total // MEGABYTE, 1)
                screen.show(ProgressEvent(stage=f"{stage}, MB", step=step, total_steps=steps))

        pushed = hub.push(plan, on_progress=progress)
    if as_json:
        left_out = [file.path for file in plan.left_out]
        files = [file.model_dump(include={"path", "size_bytes", "sha256", "change"}) for file in plan.files]
        told = {"run_id": plan.run_id, "files": files, "left_out": left_out, "removed": plan.removed}
        print_json(pushed.model_dump() | told)
        return
    print_fields(
        (
            ("repository", pushed.url),
            ("visible to", "everyone" if pushed.public else "you and your organisation"),
            ("commit", pushed.commit),
        )
    )


def _show(plan: hub.PushPlan) -> None:
    """Tells what would be sent and removed, on stderr."""
    seen = "PUBLIC" if plan.public else "private"
    say(f"Export {plan.export_id} to {plan.endpoint}/{plan.repository} ({seen})")
    for file in plan.files:
        note = f"  ({file.change})" if file.change else ""
        say(f"  {file.size_bytes:>15,}  {visible(file.path)}{note}")
    say(f"  {plan.size_bytes:>15,}  bytes in all")
    for left in plan.left_out:
        say(f"  {'left out':>15}  {visible(left.path)}: {left.reason}")
    for path in plan.removed:
        say(f"  {'REMOVED':>15}  {visible(path)}: the repository has it from before")


def _confirm(plan: hub.PushPlan) -> None:
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to confirm", "say `--yes` to send these files")
    question = f"Send these files, and remove {len(plan.removed)}?" if plan.removed else "Send these files?"
    if not typer.confirm(question, err=True):
        say("Nothing was sent.")
        raise typer.Exit(1)
