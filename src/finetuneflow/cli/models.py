"""`finetuneflow models`: the base models that need no network."""

from __future__ import annotations

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import say
from finetuneflow.cli.tables import print_table
from finetuneflow.services import catalogue

app = new_app("List the embedded base models.", epilog=examples("finetuneflow models list"))


@app.callback()
def models() -> None:
    """List the embedded base models."""


@app.command("list", epilog=examples("finetuneflow models list", "finetuneflow models list --json"))
def list_all(as_json: Json = False) -> None:
    """List the embedded base models and whether they can be used here."""
    found = catalogue.embedded_models()
    if as_json:
        print_json({"models": found})
        return
    print_table(
        ("model", "task", "size, MB", "available", "where"),
        (
            (
                model.name,
                model.task,
                "" if model.size_bytes is None else f"{model.size_bytes / 1e6:.1f}",
                model.available,
                model.folder or model.hint,
            )
            for model in found
        ),
    )
    say("Any folder with a model in safetensors, and any Hugging Face model id, can be a base model too.")
