"""What ships with the package: recipes, the keys of a recipe, embedded base models."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from finetuneflow.errors import FineTuneFlowError, NotFoundError
from finetuneflow.modeling.locate import EMBEDDED, check_folder, embedded_folder
from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.recipe import Recipe

RECIPE_SUFFIXES = (".yaml", ".yml", ".json")
DATASET_KEYS = {"dataset", "dataset_path"}
"""A recipe names a dataset; other files in the folder, such as the names of base models, do not."""


class ShippedRecipe(Schema):
    """A recipe that comes with the package."""

    name: str
    """File name without its suffix."""
    summary: str
    """The recipe's first comment line."""
    path: str
    text: str


class RecipeKey(Schema):
    """One key of a recipe."""

    name: str
    type: str
    default: str
    """As YAML writes it; empty where the key must be given."""
    meaning: str
    aliases: list[str]
    """Other names that are understood."""


class EmbeddedModel(Schema):
    """A base model that needs no network."""

    name: str
    task: str
    available: bool
    folder: str | None = None
    size_bytes: int | None = None
    """Size of the weights."""
    hint: str = ""
    """How to get it, where it is not available."""


def recipes_folder() -> Path:
    """Folder of the shipped recipes: in the installed package, or at the root of a checkout."""
    packaged = Path(str(resources.files("finetuneflow.assets"))) / "recipes"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "recipes"


def shipped_recipes() -> list[ShippedRecipe]:
    """The shipped recipes, by name."""
    folder = recipes_folder()
    if not folder.is_dir():
        return []
    found = (_read(path) for path in sorted(folder.iterdir()) if path.suffix in RECIPE_SUFFIXES)
    return [recipe for recipe in found if DATASET_KEYS & set(yaml.safe_load(recipe.text))]


def shipped_recipe(name: str) -> ShippedRecipe:
    """One shipped recipe, by name. Raises NotFoundError with the nearest name."""
    found = {recipe.name: recipe for recipe in shipped_recipes()}
    if name not in found:
        raise NotFoundError(f"no recipe is called `{name}`", _nearest(name, found))
    return found[name]


def recipe_keys(name: str | None = None) -> list[RecipeKey]:
    """Every key of a recipe, or the one of that name or alias. Raises NotFoundError with the nearest name."""
    keys = [_key(field_name, field) for field_name, field in Recipe.model_fields.items()]
    if name is None:
        return keys
    matching = [key for key in keys if name in (key.name, *key.aliases)]
    if not matching:
        raise NotFoundError(f"a recipe has no key `{name}`", _nearest(name, (key.name for key in keys)))
    return matching


def embedded_models() -> list[EmbeddedModel]:
    """The embedded models, and whether they can be used on this machine."""
    return [_embedded(name, task) for name, task in EMBEDDED.items()]


def _read(path: Path) -> ShippedRecipe:
    text = path.read_text(encoding="utf-8")
    first = text.partition("\n")[0]
    summary = first.lstrip("# ").strip() if first.startswith("#") else "A recipe in JSON"
    return ShippedRecipe(name=path.stem, summary=summary, path=str(path), text=text)


def _key(name: str, field: FieldInfo) -> RecipeKey:
    aliases = field.validation_alias
    others = (
        [str(choice) for choice in aliases.choices if choice != name]
        if isinstance(aliases, AliasChoices)
        else []
    )
    return RecipeKey(
        name=name,
        type=_type_name(field.annotation),
        default="" if field.is_required() else _as_yaml(field.get_default(call_default_factory=True)),
        meaning=" ".join((field.description or "").split()),
        aliases=others,
    )


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(_type_name(argument) for argument in arguments)
    if origin is list:
        return f"list of {_type_name(arguments[0])}"
    names = {str: "text", int: "whole number", float: "number", bool: "true | false", type(None): "null"}
    return names.get(annotation, str(annotation))


def _as_yaml(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(_as_yaml, value))}]"
    return str(value)


def _embedded(name: str, task: str) -> EmbeddedModel:
    try:
        folder = check_folder(embedded_folder(name), name)
    except FineTuneFlowError as error:
        return EmbeddedModel(name=name, task=task, available=False, hint=error.hint)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return EmbeddedModel(name=name, task=task, available=True, folder=str(folder), size_bytes=size)


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    return f"did you mean `{nearest[0]}`?" if nearest else f"there are: {', '.join(names) or 'none'}"
