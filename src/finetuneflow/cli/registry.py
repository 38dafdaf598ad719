"""`finetuneflow registry`: which model serves which role."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import say, say_warning
from finetuneflow.cli.runs import RunId
from finetuneflow.cli.tables import print_fields, print_table
from finetuneflow.schemas.deployment import RegisteredModel
from finetuneflow.services import registry
from finetuneflow.services.context import using_context

app = new_app(
    "Say which model serves which role; promote and roll back.",
    epilog=examples(
        "finetuneflow registry promote sfd_analyzer RUN --file configs/models.yaml",
        "finetuneflow registry rollback sfd_analyzer --file configs/models.yaml",
        "finetuneflow registry history",
    ),
)

File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        help="The application's registry; default: models.yaml in the workspace.",
        show_default=False,
    ),
]
Role = Annotated[
    str, typer.Argument(metavar="ROLE", help="The role, such as sfd_analyzer.", show_default=False)
]


@app.command(epilog=examples("finetuneflow registry show", "finetuneflow registry show --json"))
def show(file: File = None, as_json: Json = False) -> None:
    """Show what serves each role now."""
    with using_context() as context:
        path = file or registry.default_file(context)
        found = registry.current(context, file=file)
    if as_json:
        print_json({"file": path, "models": found})
        return
    if not found:
        say(f"No role in {path}: `finetuneflow registry promote ROLE RUN` adds one.")
        return
    print_table(
        ("role", "model", "version", "verdict", "run", "since", "by"),
        (
            (
                model.role,
                model.model_name,
                model.version or None,
                model.verdict,
                model.run_id,
                _time(model.promoted_at),
                model.promoted_by,
            )
            for model in found
        ),
    )


@app.command(
    epilog=examples(
        "finetuneflow registry promote sfd_analyzer RUN",
        "finetuneflow registry promote sfd_analyzer RUN --file configs/models.yaml",
        'finetuneflow registry promote sfd_analyzer RUN --force "urgent, agreed with the owner"',
    )
)
def promote(
    role: Role,
    run_id: RunId,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="What the server calls the model; default: as deployed, else as the recipe says.",
            show_default=False,
        ),
    ] = None,
    file: File = None,
    force: Annotated[
        str | None,
        typer.Option(
            "--force",
            metavar="REASON",
            help="Promote without the verdict PASS; the reason is recorded.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Let a run's model serve a role; its newest evaluation must say PASS."""
    with using_context() as context:
        path = file or registry.default_file(context)
        model = registry.promote(context, role, run_id, name=name, file=file, force_reason=force)
    if model.verdict != "PASS":
        say_warning(f"promoted without the verdict PASS: {model.reason}")
    _tell(model, path, as_json)


@app.command(epilog=examples("finetuneflow registry rollback sfd_analyzer --file configs/models.yaml"))
def rollback(
    role: Role,
    reason: Annotated[str, typer.Option("--reason", help="Why; recorded.", show_default=False)] = "",
    file: File = None,
    as_json: Json = False,
) -> None:
    """Go back to the model that served the role before; again, and to the one before that."""
    with using_context() as context:
        path = file or registry.default_file(context)
        model = registry.rollback(context, role, file=file, reason=reason)
    _tell(model, path, as_json)


@app.command(epilog=examples("finetuneflow registry history", "finetuneflow registry history sfd_analyzer"))
def history(
    role: Annotated[
        str | None, typer.Argument(metavar="[ROLE]", help="Only this role.", show_default=False)
    ] = None,
    file: File = None,
    as_json: Json = False,
) -> None:
    """Show who changed what, when, and on which verdict; oldest first."""
    with using_context() as context:
        events = registry.history(context, role=role, file=file)
    if as_json:
        print_json({"events": events})
        return
    if not events:
        say("Nothing was promoted yet.")
        return
    print_table(
        ("when", "by", "what", "role", "before", "after", "version", "verdict", "reason"),
        (
            (
                _time(event.at),
                event.by,
                f"{event.action} (forced)" if event.forced else event.action,
                event.role,
                event.previous,
                event.model_name,
                event.version or None,
                event.verdict,
                event.reason,
            )
            for event in events
        ),
    )


def _tell(model: RegisteredModel, path: Path, as_json: bool) -> None:
    if as_json:
        print_json(model.model_dump(mode="json") | {"file": path})
        return
    print_fields(
        (
            ("role", model.role),
            ("model", model.model_name),
            ("version", model.version or ""),
            ("verdict", model.verdict or "never evaluated" if model.run_id else ""),
            ("run", model.run_id),
            ("export", model.export_id),
            ("reason", model.reason),
            ("file", path),
        )
    )


def _time(instant: str) -> str:
    return instant[:16].replace("T", " ")
