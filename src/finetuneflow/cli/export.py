"""`finetuneflow export`: what leaves the workspace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from finetuneflow.artifacts import write_folder
from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import say
from finetuneflow.cli.progress import follow_to_end
from finetuneflow.cli.runs import RunId
from finetuneflow.cli.scores import print_parity
from finetuneflow.cli.tables import print_fields, print_table
from finetuneflow.errors import FineTuneFlowError, StorageError, UsageError
from finetuneflow.schemas.export import ExportConfig, ExportKind, ExportResult, Quantization
from finetuneflow.services import exports
from finetuneflow.services.context import Context, using_context

app = new_app("Export a run.")
KINDS: tuple[ExportKind, ...] = get_args(ExportKind)
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)


@app.command(
    epilog=examples(
        "finetuneflow export RUN --out my-model",
        "finetuneflow export RUN --to gguf --quantization q8_0",
        "finetuneflow export RUN --to merged --to zip --out my-model",
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
            help=f"{', '.join(KINDS)}; may be repeated. Default: what the recipe says, else all that the "
            "model can become, but for gguf-adapter.",
            show_default=False,
        ),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            "--quantization",
            "-q",
            metavar="FORMAT",
            help=f"Number format of the GGUF file: {', '.join(QUANTIZATIONS)}. Default: f16.",
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        Literal["en", "fr"], typer.Option("--language", help="Language of the report.")
    ] = "en",
    as_json: Json = False,
) -> None:
    """Write the adapter, the merged model, a GGUF file, a report with the loss curve, and a zip of it all.

    The GGUF file is loaded by llama.cpp and asked what the trained model was asked: one that does not answer
    alike is refused, and kept apart in the workspace.
    """
    if out is not None:
        out = _new_folder(out)
    with using_context() as context:
        config = _config(context, run_id, kinds, quantization, language)
        job = exports.start(context, run_id, config=config)
        say(f"Export {job.id} of run {run_id}: {', '.join(config.kinds)}")
        job = follow_to_end(context, job.id)
        result = exports.result(context, job.id)
    folder = Path(job.folder)
    if out is not None:
        _write(out, folder, result)
        folder = out
    if as_json:
        head = {"out": folder, "export_id": job.id} | _headline(folder, result)
        print_json(head | result.model_dump(mode="json"))
        return
    print_table(("file", "bytes"), ((file.path, file.size_bytes) for file in result.files))
    print_fields((("largest logit difference, merged to adapter", result.merge_max_difference),))
    if result.gguf is not None:
        print_parity(result.gguf.parity)
    say(f"Files in {folder}")
    if result.gguf is not None:
        say(f"Next: finetuneflow chat {job.id}, or finetuneflow deploy ollama {run_id}")


def _new_folder(out: Path) -> Path:
    """The folder to write, without links; refused before the work when it cannot become the export."""
    folder = out.expanduser().resolve()
    if folder == Path.cwd() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise UsageError(f"`{out}` is there already", "choose another folder, or remove it first")
    above = next(parent for parent in folder.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"`{above}` is no folder to write in", "choose another place for `--out`")
    return folder


def _write(out: Path, folder: Path, result: ExportResult) -> None:
    try:
        write_folder(out, lambda target: _copy(folder, result, target))
    except (OSError, FineTuneFlowError) as error:
        raise StorageError(f"`{out}` was not written: {error}", f"the export is whole in {folder}") from error


def _config(
    context: Context,
    run_id: str,
    kinds: Sequence[str] | None,
    quantization: str | None,
    language: Literal["en", "fr"],
) -> ExportConfig:
    values: dict[str, Any] = {"language": language}
    if kinds:
        values["kinds"] = [_known(kind, KINDS, "cannot be exported") for kind in kinds]
    if quantization:
        values["quantization"] = _known(quantization.lower(), QUANTIZATIONS, "is no number format of GGUF")
    config = exports.default_config(context, run_id)
    return ExportConfig.model_validate(config.model_dump() | values)


def _known(name: str, known: Sequence[str], fault: str) -> str:
    if name not in known:
        raise UsageError(f"`{name}` {fault}", f"choose from: {', '.join(known)}")
    return name


def _headline(folder: Path, result: ExportResult) -> dict[str, Any]:
    """What a script asks for first: the GGUF file, its sum, its check."""
    if result.gguf is None:
        return {}
    parity = result.gguf.parity
    return {
        "path": folder / result.gguf.path,
        "sha256": result.gguf.sha256,
        "parity": parity.model_dump(mode="json", exclude={"examples"}),
    }


def _copy(folder: Path, result: ExportResult, target: Path) -> None:
    for file in result.files:
        destination = target / file.path
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / file.path, destination)
