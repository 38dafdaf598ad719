"""What a run can be exported as, said before it is trained."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from finetuneflow.errors import UsageError
from finetuneflow.export import preflight
from finetuneflow.modeling.locate import locate
from finetuneflow.schemas.export import ExportKind, Preflight, PreflightCheck
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.services.context import Context

LLAMA_CPP: tuple[ExportKind, ...] = ("gguf", "gguf-adapter")


def plan(context: Context, recipe: Recipe) -> Preflight:
    """Whether the exports that the recipe names will work; without names, what there will be to export.

    Raises UsageError for a named export that cannot work: better now than after the training.
    """
    if recipe.export is None:
        return _checked(context, recipe, possible(recipe))
    found = _checked(context, recipe, recipe.export)
    bad = next((check for check in found.checks if not check.ok), None)
    if bad is not None:
        raise UsageError(
            f"`export` of the recipe cannot work: {bad.message}",
            bad.hint or "change the recipe's `export`",
            code="export_impossible",
        )
    return found


def kinds(context: Context, recipe: Recipe, base: Path | None = None) -> list[ExportKind]:
    """What to write by default: the recipe's wish, else everything that passes its checks.

    `base` is the folder of the base model, when it is known better than by the recipe's name for it.
    """
    if recipe.export is not None:
        return list(recipe.export)
    wanted = possible(recipe)
    if _checked(context, recipe, wanted, base if base and base.is_dir() else None).ok:
        return wanted
    return [kind for kind in wanted if kind not in LLAMA_CPP]


def possible(recipe: Recipe) -> list[ExportKind]:
    """What task and method allow, the architecture not yet looked at."""
    found: list[ExportKind] = ["adapter"] if recipe.method == "lora" else []
    found.append("merged")
    if recipe.task == "causal_lm":
        found.append("gguf")
    return [*found, "zip"]


def _checked(
    context: Context, recipe: Recipe, wanted: Sequence[ExportKind], base: Path | None = None
) -> Preflight:
    if recipe.task != "causal_lm" and set(wanted) & set(LLAMA_CPP):
        message = "a classifier cannot be a GGUF file: llama.cpp serves none of its kind"
        hint = "leave `gguf` out; `finetuneflow deploy serve` serves classifiers"
        return Preflight(ok=False, checks=[PreflightCheck(name="task", ok=False, message=message, hint=hint)])
    home = context.workspace.home
    return preflight.check(
        base or locate(recipe.base_model),
        reference=recipe.base_model,
        kinds=list(wanted),
        method=recipe.method,
        target_modules=recipe.target_modules,
        modules_to_save=recipe.modules_to_save,
        quantization=recipe.quantization,
        free_bytes=shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists())).free,
    )
