"""`finetuneflow train`: from a recipe or a dataset to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, say
from finetuneflow.cli.progress import follow_to_end
from finetuneflow.cli.runs import print_run
from finetuneflow.errors import UsageError
from finetuneflow.schemas.recipe import Method, Recipe, Task
from finetuneflow.services import recipes, runs
from finetuneflow.services.context import using_context

app = new_app("Fine-tune a model.")
DATASET_SUFFIXES = (".jsonl", ".parquet", ".csv")


@app.command(
    epilog=examples(
        "finetuneflow train recipe.yaml",
        "finetuneflow train recipe.yaml --set num_epochs=5 --set learning_rate=2e-4",
        "finetuneflow train --dataset dataset.jsonl --base-model embedded:tiny",
        "finetuneflow train --dataset dataset.jsonl --method full --detach",
        "finetuneflow recipes keys      (every key that --set takes)",
    )
)
def train(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="Recipe, YAML or JSON; without one, give --dataset.", show_default=False),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Dataset file, folder of splits, or dataset id.", show_default=False),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", help="Model to fine-tune (default: embedded:tiny).", show_default=False),
    ] = None,
    task: Annotated[
        Task | None, typer.Option("--task", help="What to learn (default: causal_lm).", show_default=False)
    ] = None,
    method: Annotated[
        Method | None, typer.Option("--method", help="How to learn it (default: lora).", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set any key of the recipe; may be repeated.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="The same seed gives the same run.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run.", show_default=False)] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it and come back at once.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model: a recipe, or a dataset and the defaults that suit its size.

    The run goes on when this command is interrupted or the terminal is closed.
    """
    flags = {"dataset": dataset, "base_model": base_model, "task": task, "method": method, "seed": seed}
    values = {key: value for key, value in flags.items() if value is not None} | _settings(settings or [])
    configuration = _recipe(recipe, values)
    with using_context() as context:
        run = runs.start(context, configuration, name=name, recipe_folder=recipe.parent if recipe else None)
        say(f"Run {run.id}: {run.recipe.method} on {run.recipe.base_model}, dataset {run.dataset_id}")
        if not detach:
            follow_to_end(context, run.id)
            run = runs.get_run(context, run.id)
    if as_json:
        print_json(run)
    elif detach:
        print_line(run.id)
        say(f"Follow it: finetuneflow runs follow {run.id}")
    else:
        print_run(run)
        say(f"Next: finetuneflow evaluate {run.id}")


def _recipe(path: Path | None, values: dict[str, Any]) -> Recipe:
    if path is not None and path.suffix in DATASET_SUFFIXES:
        raise UsageError(f"`{path}` is a dataset, not a recipe", f"finetuneflow train --dataset {path}")
    if path is not None:
        return recipes.load_recipe(path, values)
    if "dataset" not in values:
        raise UsageError("there is nothing to train on", "give a recipe file, or --dataset FILE")
    return recipes.parse_recipe({"base_model": "embedded:tiny"} | values, place="command line")


def _settings(pairs: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"`--set {pair}` is not KEY=VALUE", "write it as `--set num_epochs=5`")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            values[key.strip()] = text
    return values
