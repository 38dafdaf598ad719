"""`finetuneflow recipes`: the recipes that ship with the package, and every key that a recipe may have."""

from __future__ import annotations

from typing import Annotated

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, say
from finetuneflow.cli.tables import print_table
from finetuneflow.services import catalogue

app = new_app(
    "Show the shipped recipes and every key of a recipe.",
    epilog=examples(
        "finetuneflow recipes list",
        "finetuneflow recipes show NAME > recipe.yaml",
        "finetuneflow recipes keys lora_r",
    ),
)


@app.command("list", epilog=examples("finetuneflow recipes list"))
def list_all(as_json: Json = False) -> None:
    """List the shipped recipes."""
    found = catalogue.shipped_recipes()
    if as_json:
        print_json({"recipes": found})
        return
    print_table(("recipe", "what it is for"), ((recipe.name, recipe.summary) for recipe in found))
    say("Start from one: finetuneflow recipes show NAME > recipe.yaml")


@app.command(
    epilog=examples("finetuneflow recipes show NAME > recipe.yaml", "finetuneflow train recipe.yaml")
)
def show(
    name: Annotated[str, typer.Argument(help="Name of the recipe.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Print a recipe, to edit and to train with."""
    recipe = catalogue.shipped_recipe(name)
    if as_json:
        print_json(recipe)
    else:
        print_line(recipe.text.rstrip("\n"))


@app.command(epilog=examples("finetuneflow recipes keys", "finetuneflow recipes keys learning_rate"))
def keys(
    key: Annotated[str | None, typer.Argument(help="One key; default: all.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Explain the keys of a recipe: type, default, meaning, other names."""
    found = catalogue.recipe_keys(key)
    if as_json:
        print_json({"keys": found})
        return
    print_table(
        ("key", "type", "default", "meaning"),
        (
            (
                item.name,
                item.type,
                item.default,
                item.meaning + (f" Also: {', '.join(item.aliases)}." if item.aliases else ""),
            )
            for item in found
        ),
    )
