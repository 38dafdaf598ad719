"""Recipes: read from YAML or JSON, with errors that name key and line; blanks filled by dataset size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from pydantic import AliasChoices, ValidationError

from finetuneflow.errors import NotFoundError, RecipeError
from finetuneflow.schemas.recipe import Hyperparameters, Recipe

MAX_BYTES = 1 << 20
BLANKS = tuple(name for name in Hyperparameters.model_fields if name != "reason")


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe file (YAML or JSON) with `overrides` laid over it; aliases such as `epochs` are understood.

    Override values of None are ignored; text is converted as a YAML value would be.
    Raises RecipeError, NotFoundError.
    """
    values, lines = _parse(path, _read(path))
    given = _canonical(values, str(path), lines)
    given.update(_canonical({k: v for k, v in (overrides or {}).items() if v is not None}, "option", {}))
    return _validate(given, str(path))


def parse_recipe(values: Mapping[str, Any], *, place: str = "recipe") -> Recipe:
    """A recipe from a mapping (no file). Raises RecipeError."""
    return _validate(_canonical(values, place, {}), place)


def recipe_yaml(recipe: Recipe, *, comment: str = "") -> str:
    """A recipe as YAML that `load_recipe` reads back; what is null is left out."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    values = recipe.model_dump(mode="json", exclude_none=True)
    # YAML folds the line breaks that Unicode has beside the newline, so a value with one is written escaped.
    plain = not any(mark in str(value) for value in values.values() for mark in "\x85\u2028\u2029")
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=plain, width=110)


def fill_hyperparameters(recipe: Recipe, num_train_examples: int) -> Hyperparameters:
    """The recipe's blanks filled from the size class of the dataset, method, task and base model.

    `reason` says in one sentence which values were chosen and why, and which the recipe fixed itself.
    """
    table = _hyperparameter_table()
    size = next(
        name for name, limit in table["size_classes"].items() if limit is None or num_train_examples < limit
    )
    default = table["default"][recipe.task]
    own = table["base_models"].get(recipe.base_model, {}).get(recipe.task, {})
    chosen: dict[str, Any] = {
        **default["lora"][size],
        **default[recipe.method][size],
        **own.get(recipe.method, {}).get(size, {}),
    }
    fixed = {name: getattr(recipe, name) for name in BLANKS if getattr(recipe, name) is not None}
    if "lora_r" in fixed and "lora_alpha" not in fixed:
        # The scale alpha / r is what the learning rate was chosen for.
        chosen["lora_alpha"] = max(1, round(fixed["lora_r"] * chosen["lora_alpha"] / chosen["lora_r"]))
    return Hyperparameters(
        **{**chosen, **fixed}, reason=_reason(recipe, size, num_train_examples, chosen, fixed)
    )


def fill(recipe: Recipe, hyperparameters: Hyperparameters) -> Recipe:
    """The recipe with no blank left."""
    return recipe.model_copy(update=hyperparameters.model_dump(exclude={"reason"}))


def _reason(
    recipe: Recipe, size: str, examples: int, chosen: Mapping[str, Any], fixed: Mapping[str, Any]
) -> str:
    shown = [name for name in BLANKS if recipe.method == "lora" or not name.startswith("lora_")]
    by_size = ", ".join(f"{name} {chosen[name]:g}" for name in shown if name not in fixed)
    by_recipe = ", ".join(f"{name} {fixed[name]:g}" for name in shown if name in fixed)
    parts = [f"{size} dataset ({examples} training examples)"]
    if by_size:
        parts.append(f"chosen for that size, method {recipe.method} and {recipe.base_model}: {by_size}")
    if by_recipe:
        parts.append(f"set by the recipe: {by_recipe}")
    return "; ".join(parts)


@cache
def _hyperparameter_table() -> dict[str, Any]:
    text = (files("finetuneflow.assets") / "hyperparameters.yaml").read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.safe_load(text)
    return table


@cache
def _keys() -> dict[str, str]:
    """Every accepted key → the name of its field."""
    keys = {name: name for name in Recipe.model_fields}
    for name, field in Recipe.model_fields.items():
        if isinstance(field.validation_alias, AliasChoices):
            keys |= {choice: name for choice in field.validation_alias.choices if isinstance(choice, str)}
    return keys


def _read(path: Path) -> str:
    try:
        if path.is_dir():
            raise RecipeError(f"{path}: is a folder, not a recipe", "give the recipe file inside it")
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path}: is too large for a recipe", "give a YAML or JSON file of settings")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no recipe `{path}`", "the ready ones are in `recipes/`") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text", "save it as UTF-8") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})", "fix its permissions") from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, which YAML itself lets pass."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key `{key.value}` stands twice", key.start_mark
            )
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _parse(path: Path, text: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Values, and the line of every key."""
    try:
        # JSON first where the name says so: a tab is white space there, and an error in YAML.
        values = json.loads(text) if path.suffix.lower() == ".json" else yaml.load(text, Loader=_Loader)  # noqa: S506
        lines = dict(_key_lines(text))
    except json.JSONDecodeError as error:
        raise RecipeError(f"{path}:{error.lineno}: is not JSON: {error.msg}", "correct that line") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}{line}: is not YAML: {error.problem}", "correct that line") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{path}: is not YAML: {error}", "write it as `key: value` lines") from error
    if values is None:
        raise RecipeError(f"{path}: is empty", "a recipe needs at least `base_model` and `dataset`")
    if not isinstance(values, dict):
        raise RecipeError(
            f"{path}: holds {_shown(values)}, not keys and values",
            "write it as `key: value` lines, such as `base_model: embedded:tiny`",
        )
    return values, lines


def _key_lines(text: str) -> Iterator[tuple[str, int]]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return  # JSON with tabs: no lines then
    if isinstance(node, yaml.MappingNode):
        for key, _ in node.value:
            yield str(key.value), key.start_mark.line + 1


class _Given(NamedTuple):
    value: Any
    key: str
    where: str
    """File and line."""


def _canonical(values: Mapping[str, Any], place: str, lines: Mapping[str, int]) -> dict[str, _Given]:
    """Values under their fields' names. Raises RecipeError for an unknown key or one given twice."""
    known = _keys()
    given: dict[str, _Given] = {}
    for key, value in values.items():
        where = f"{place}:{lines[key]}" if key in lines else place
        if key not in known:
            close = get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean `{close[0]}`?" if close else f"keys: {', '.join(Recipe.model_fields)}"
            raise RecipeError(f"{where}: unknown key `{key}`", hint)
        name = known[key]
        if name in given:
            raise RecipeError(
                f"{where}: `{key}` and `{given[name].key}` are the same setting", "keep one of them"
            )
        given[name] = _Given(value, key, where)
    return given


def _validate(given: Mapping[str, _Given], place: str) -> Recipe:
    values = {name: item.value for name, item in given.items()}
    for name, value in values.items():
        # pydantic reads true as 1, which nobody means.
        annotation = Recipe.model_fields[name].annotation
        if isinstance(value, bool) and annotation is not bool and bool not in get_args(annotation):
            values[name] = "true" if value else "false"
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        details = error.errors()
    name = str(details[0]["loc"][0]) if details[0]["loc"] else ""
    field = Recipe.model_fields.get(name)
    described = "see the recipes in `recipes/`"
    if field is not None and field.description:
        described = f"{name}: {field.description}"
    if name not in given:
        raise RecipeError(f"{place}: `{name}` is missing", described)
    value, key, where = given[name]
    messages = [detail["msg"] for detail in details if detail["loc"][0] == name]
    expected = " or ".join(dict.fromkeys(_expected(message) for message in messages))
    raise RecipeError(f"{where}: `{key}` is {_shown(value)}, expected {expected}", described)


def _expected(message: str) -> str:
    text = (
        message.removeprefix("Input should be ")
        .partition(", unable to")[0]
        .partition(", got")[0]
        .removeprefix("a valid ")
    )
    plain = {"number": "a number", "integer": "a whole number", "list": "a list", "string": "text"}
    return plain.get(text, text)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
