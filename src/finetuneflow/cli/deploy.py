"""`finetuneflow deploy`: a checked model where applications reach it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from finetuneflow.artifacts import write_text
from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, say
from finetuneflow.cli.progress import follow_to_end
from finetuneflow.cli.runs import RunId
from finetuneflow.cli.tables import duration, print_fields, print_table
from finetuneflow.errors import UsageError
from finetuneflow.providers.modelfile import parse_parameters
from finetuneflow.schemas.deployment import DEFAULT_OLLAMA_URL, OllamaDeployment
from finetuneflow.schemas.export import ExportConfig, Quantization
from finetuneflow.services import deployments, exports, serving
from finetuneflow.services.context import Context, using_context

app = new_app(
    "Register a model in Ollama, serve it over HTTP, list deployments.",
    epilog=examples(
        "finetuneflow deploy ollama RUN --name applications-ia",
        "finetuneflow deploy serve RUN --port 8080",
        "finetuneflow deploy list",
    ),
)
FORMATS: tuple[Quantization, ...] = get_args(Quantization)


@app.command(
    epilog=examples(
        "finetuneflow deploy ollama RUN",
        'finetuneflow deploy ollama RUN --name applications-ia --system "Tu réponds en bref."',
        "finetuneflow deploy ollama RUN --parameter temperature=0.7 --parameter top_p=0.9",
        "finetuneflow deploy ollama RUN --quantization q8_0 --url http://127.0.0.1:11434",
    )
)
def ollama(
    run_id: RunId,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="Name there, such as applications-ia:v2. Default: the recipe's, else the run's."
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            "--system",
            help='System prompt. Default: the one that every training example had; "" for none.',
            show_default=False,
        ),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            metavar="NAME=VALUE",
            help="A parameter of Ollama, such as temperature=0.7; may be repeated.",
            show_default=False,
        ),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            "--quantization",
            "-q",
            metavar="FORMAT",
            help=f"Number format: {', '.join(FORMATS)}. Default: the newest export, else the recipe's.",
            show_default=False,
        ),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(
            "--template",
            help="File with a Go template instead of the chat template in the model.",
            show_default=False,
        ),
    ] = None,
    modelfile: Annotated[
        Path | None,
        typer.Option("--modelfile", help="Write the equivalent Modelfile there, too.", show_default=False),
    ] = None,
    url: Annotated[
        str, typer.Option("--url", envvar="OLLAMA_HOST", help="Address of the Ollama server.")
    ] = DEFAULT_OLLAMA_URL,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Send the model to a server that is not on this machine.")
    ] = False,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Send base and adapter apart (Ollama up to 0.33).")
    ] = False,
    base_gguf: Annotated[
        Path | None,
        typer.Option("--base-gguf", help="With --adapter: the base as a GGUF file.", show_default=False),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it and come back at once.")] = False,
    as_json: Json = False,
) -> None:
    """Register a run's model in Ollama, and ask it there what the trained model was asked.

    Without a checked GGUF file the run is exported first. The name is given only to a model that answers like
    the trained one; a model that had it before stays until then.
    """
    options: dict[str, Any] = {
        "name": name,
        "url": url,
        "system": system,
        "parameters": parse_parameters(parameters or []),
        "template": None if template is None else _text(template),
        "use_adapter": adapter,
        "allow_remote": allow_remote,
    }
    wanted = _format(quantization)
    if detach and modelfile is not None:
        raise UsageError(
            "`--modelfile` is written when the deployment has ended, and `--detach` does not wait for it",
            "leave one of them out: the job folder gets a Modelfile, too",
        )
    with using_context() as context:
        config = deployments.ollama_config(context, run_id, **options)
        deployments.reach(config)
        if adapter:
            deployments.check_base(base_gguf)
        _export(context, run_id, wanted)
        job = deployments.deploy_ollama(context, run_id, quantization=wanted, base_gguf=base_gguf, **options)
        say(f"Deployment {job.id} of run {run_id}: `{config.name}` at {config.url}")
        if detach:
            print_json(job) if as_json else print_line(job.id)
            return
        follow_to_end(context, job.id)
        result = deployments.result(context, job.id)
        if modelfile is not None:
            write_text(modelfile, deployments.modelfile(context, job.id))
    if as_json:
        print_json({"deployment_id": job.id, "folder": job.folder} | result.model_dump(mode="json"))
    else:
        _print(result, Path(job.folder))


@app.command(
    epilog=examples(
        "finetuneflow deploy serve RUN",
        "finetuneflow deploy serve RUN --port 8000 --engine transformers",
        "finetuneflow deploy serve my-model/gguf/model.gguf",
    )
)
def serve(
    reference: Annotated[
        str,
        typer.Argument(metavar="RUN", help="Id of a run or an export, or a .gguf file.", show_default=False),
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 for any free one.")] = 8080,
    engine: Annotated[
        Literal["auto", "llama.cpp", "transformers"],
        typer.Option("--engine", help="auto: llama.cpp where there is a checked GGUF file."),
    ] = "auto",
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="FTF_SERVE_API_KEY",
            help="Key that callers must send, in the environment or as `@FILE`: others can read arguments.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve a model over HTTP in OpenAI's shape, a classifier as POST /predict; Ctrl-C ends it."""

    def ready(address: str) -> None:
        if as_json:
            print_json({"address": address})
        else:
            print_line(address)
            say("Ctrl-C ends it.")

    say("Loading the model; the file of an export is first compared with the one that was checked.")
    with using_context() as context:
        code = serving.serve(
            context, reference, host=host, port=port, api_key=api_key, engine=engine, on_ready=ready
        )
    raise typer.Exit(code)


@app.command("list", epilog=examples("finetuneflow deploy list", "finetuneflow deploy list --json"))
def list_all(
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List deployments, newest first."""
    with using_context() as context:
        found = deployments.list_deployments(context, limit=limit)
    if as_json:
        print_json({"deployments": [one._asdict() for one in found]})
        return
    if not found:
        say("No deployment yet: `finetuneflow deploy ollama RUN` makes one.")
        return
    print_table(
        ("deployment", "name", "server", "status", "answers", "started", "error"),
        (
            (
                one.job.id,
                one.name,
                one.url,
                one.job.status,
                f"{one.result.answers_equal} of {one.result.prompts}" if one.result else "",
                (one.job.started_at or "")[:16].replace("T", " "),
                one.job.error,
            )
            for one in found
        ),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"`{path}` is not a text in UTF-8", "give a file with a Go template") from error


def _format(name: str | None) -> Quantization | None:
    found = next((known for known in FORMATS if name and known == name.lower()), None)
    if name and found is None:
        raise UsageError(f"`{name}` is no number format of GGUF", f"choose from: {', '.join(FORMATS)}")
    return found


def _export(context: Context, run_id: str, quantization: Quantization | None) -> None:
    """Exports the run first when there is nothing to deploy yet."""
    if exports.latest_gguf(context, run_id, quantization=quantization) is not None:
        return
    usual = exports.default_config(context, run_id)
    config = ExportConfig(kinds=["gguf"], quantization=quantization or usual.quantization, seed=usual.seed)
    job = exports.start(context, run_id, config=config)
    say(f"Export {job.id} of run {run_id}: gguf, {config.quantization}")
    follow_to_end(context, job.id)


def _print(result: OllamaDeployment, folder: Path) -> None:
    print_fields(
        (
            ("model", f"{result.name} ({'new' if result.created else 'replaced'})"),
            ("server", f"Ollama {result.server_version} at {result.url}"),
            (
                "uploaded",
                f"{result.uploaded_bytes:,} bytes" if result.uploaded_bytes else "nothing, it was there",
            ),
            ("served = trained", f"{result.answers_equal} of {result.prompts} answers the same"),
            ("first difference", result.first_difference),
            ("Modelfile", folder / "Modelfile"),
            ("time", duration(result.seconds)),
        )
    )
    say(f"Next: ollama run {result.name}")
