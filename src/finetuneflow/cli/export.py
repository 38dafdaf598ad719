"""`finetuneflow export`: what leaves the workspace."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from finetuneflow.artifacts import write_folder
from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import say
from finetuneflow.cli.progress import follow_to_end
from finetuneflow.cli.runs import RunId
from finetuneflow.cli.tables import print_fields, print_table
from finetuneflow.errors import UsageError
from finetuneflow.schemas.export import ExportKind, ExportResult
from finetuneflow.services import exports
from finetuneflow.services.context import using_context

app = new_app("Export a run.")
KINDS: tuple[ExportKind, ...] = get_args(ExportKind)


@app.command(
    epilog=examples(
        "finetuneflow export RUN --out my-model",
        "finetuneflow export RUN --out my-model --to merged",
        "finetuneflow export RUN --out mon-modele --language fr",
    )
)
def export(
    run_id: RunId,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="New folder for the files; default: the workspace.", show_default=False
        ),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="KIND",
            help=f"{', '.join(KINDS)}; may be repeated. Default: all.",
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        Literal["en", "fr"], typer.Option("--language", help="Language of the report.")
    ] = "en",
    as_json: Json = False,
) -> None:
    """Write the adapter, the merged model, a report with the loss curve, and a zip of it all."""
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"`{out}` is there already", "choose another folder, or remove it first")
    with using_context() as context:
        job = exports.start(context, run_id, kinds=_kinds(kinds or KINDS), language=language)
        say(f"Export {job.id} of run {run_id}")
        job = follow_to_end(context, job.id)
        result = exports.result(context, job.id)
    folder = Path(job.folder)
    if out is not None:
        write_folder(out, lambda target: _copy(folder, result, target))
        folder = out
    if as_json:
        print_json({"out": folder} | result.model_dump(mode="json"))
        return
    print_table(("file", "bytes"), ((file.path, file.size_bytes) for file in result.files))
    print_fields((("largest logit difference, merged to adapter", result.merge_max_difference),))
    say(f"Files in {folder}")


def _kinds(names: Sequence[str]) -> list[ExportKind]:
    known: dict[str, ExportKind] = {kind: kind for kind in get_args(ExportKind)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"`{unknown[0]}` cannot be exported", f"choose from: {', '.join(known)}")
    return [known[name] for name in names]


def _copy(folder: Path, result: ExportResult, target: Path) -> None:
    for file in result.files:
        destination = target / file.path
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / file.path, destination)
