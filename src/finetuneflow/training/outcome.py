"""What every kind of training does around the loop: settings, the plan in words, weights, result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from finetuneflow.artifacts import ADAPTER, BASE_FINGERPRINT, MODEL, JobFolder, write_folder
from finetuneflow.errors import RecipeError
from finetuneflow.modeling.device import describe
from finetuneflow.modeling.load import LoadedModel
from finetuneflow.modeling.lora import save_adapter
from finetuneflow.schemas.event import LogEvent
from finetuneflow.schemas.recipe import Hyperparameters, Recipe
from finetuneflow.schemas.run import TrainResult
from finetuneflow.training.loop import Fit


def filled(recipe: Recipe) -> Hyperparameters:
    """The recipe's figures, none of them missing.

    Raises:
        RecipeError: a blank was left; the services fill them from the size of the dataset.
    """
    names = [name for name in Hyperparameters.model_fields if name != "reason"]
    blank = [name for name in names if getattr(recipe, name) is None]
    if blank and not (blank == ["num_epochs"] and recipe.max_steps):
        raise RecipeError(
            f"the recipe leaves {', '.join(f'`{name}`' for name in blank)} open", "give a value"
        )
    return Hyperparameters(
        **{
            name: getattr(recipe, name) or 1 if name == "num_epochs" else getattr(recipe, name)
            for name in names
        }
    )


def tell_plan(job: JobFolder, loaded: LoadedModel, fit: Fit, train: int, validation: int) -> None:
    """Says what is about to happen."""
    trainable = sum(parameter.numel() for parameter in fit.optimizer.parameters.values())
    total = sum(parameter.numel() for parameter in loaded.model.parameters())
    number_format = "bf16" if loaded.dtype == torch.bfloat16 else "fp32"
    job.emit(
        LogEvent(
            message=f"{train:,} training and {validation:,} validation examples, "
            f"{fit.schedule.total:,} steps; {trainable:,} of {total:,} parameters learn, "
            f"in {number_format} on {describe(loaded.device)}"
        )
    )


def write_weights(loaded: LoadedModel, recipe: Recipe, job: Path) -> None:
    """Writes adapter or model with its tokenizer, whole or not at all."""
    model: Any = loaded.model
    lora = recipe.method == "lora"

    def fill(folder: Path) -> None:
        if lora:
            save_adapter(model, folder, base_model=recipe.base_model, fingerprint=loaded.fingerprint)
        else:
            model.save_pretrained(folder)
            (folder / BASE_FINGERPRINT).write_text(loaded.fingerprint + "\n", encoding="utf-8")
        loaded.tokenizer.save_pretrained(folder)

    write_folder(job / (ADAPTER if lora else MODEL), fill)


def train_result(
    loaded: LoadedModel,
    recipe: Recipe,
    hyper: Hyperparameters,
    fit: Fit,
    compute: torch.dtype,
    seconds: float,
) -> TrainResult:
    """The figures that a finished run of any task has; `compute` is the number format of the arithmetic."""
    progress = fit.progress
    lora = recipe.method == "lora"
    return TrainResult(
        adapter=ADAPTER if lora else None,
        model=None if lora else MODEL,
        base_model=recipe.base_model,
        base_folder=str(loaded.folder),
        base_fingerprint=loaded.fingerprint,
        method=recipe.method,
        steps=progress.step,
        epochs=fit.epochs(),
        best_step=progress.best_step,
        train_loss=fit.recent_loss(),
        eval_loss=progress.best_loss,
        metrics=progress.best_metrics,
        trainable_parameters=sum(parameter.numel() for parameter in fit.optimizer.parameters.values()),
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        tokens=progress.tokens,
        supervised_tokens=progress.terms,
        tokens_per_second=progress.tokens / max(progress.train_seconds, 1e-9),
        seconds=seconds,
        precision="bf16" if compute == torch.bfloat16 else "fp32",
        device=describe(loaded.device),
        hyperparameters=hyper,
        history=fit.loss_points(),
        stopped_early=progress.stopped_early,
        resumed_from=fit.resumed_from,
    )
