"""Fine-tuning an encoder to label texts: all weights, the upper layers only, or LoRA."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import accuracy_score, f1_score
from torch.nn.functional import cross_entropy

from finetuneflow.artifacts import JobFolder, read_examples
from finetuneflow.errors import DatasetError, RecipeError
from finetuneflow.modeling.device import prepare
from finetuneflow.modeling.generate import classify
from finetuneflow.modeling.load import LoadedModel, load_classifier
from finetuneflow.modeling.lora import add_adapter
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.recipe import Hyperparameters, Recipe
from finetuneflow.schemas.run import TrainInputs, TrainResult
from finetuneflow.training.batches import group_by_length, shuffled
from finetuneflow.training.loop import Fit, Measured
from finetuneflow.training.outcome import filled, tell_plan, train_result, write_weights


def run(config: Recipe, inputs: TrainInputs, job: JobFolder) -> TrainResult:
    """Trains and writes `model/` (full, head) or `adapter/` (LoRA) into the job folder.

    Raises:
        DatasetError: fewer than two labels, or an example with a label that is not listed.
        ModelError, NotFoundError: the base model cannot be had.
        TrainingError: the loss diverged or the memory does not suffice.
        JobCancelled: somebody asked to stop.
    """
    started = time.perf_counter()
    hyper = filled(config).model_copy(update={"reason": inputs.hyperparameters_reason})
    prepare(config.seed)
    labels = inputs.labels
    train = labelled(inputs.train, labels)
    validation = labelled(inputs.validation, labels) if inputs.validation else []
    # The weights stay in fp32 and the model computes through autocast: a new head learns badly in bf16.
    loaded = load_classifier(config.base_model, labels=labels, precision=config.precision)
    compute = loaded.dtype
    loaded.model = loaded.model.float()
    choose_trainable(loaded, config)
    objective = LabelObjective(loaded, train, validation, config, hyper, compute)
    fit = Fit(loaded.model, objective, config, job)
    tell_plan(job, loaded, fit, len(train), len(validation))
    fit.run()
    write_weights(loaded, config, job.path)
    result = train_result(loaded, config, hyper, fit, compute, time.perf_counter() - started)
    return result.model_copy(update={"labels": labels})


def labelled(path: str, labels: list[str]) -> list[Example]:
    """The examples of a split, each with a known label.

    Raises:
        DatasetError: fewer than two labels, a missing or an unknown one.
    """
    if len(labels) < 2:
        raise DatasetError(
            f"a classifier needs at least two labels, the dataset has {len(labels)}",
            "check the label column, or add examples of another label",
            path=Path(path).name,
        )
    examples = read_examples(Path(path))
    for line, example in enumerate(examples, 1):
        if example.text is None or example.label not in labels:
            raise DatasetError(
                f"the label `{example.label}` is none of {', '.join(labels[:10])}",
                "every example needs a text and one of the labels",
                path=Path(path).name,
                line=line,
            )
    return examples


def choose_trainable(loaded: LoadedModel, recipe: Recipe) -> None:
    """Decides which weights learn: adapter and head, everything, or the head with the upper layers."""
    if recipe.method == "lora":
        loaded.model = add_adapter(loaded, recipe, "SEQ_CLS")
        return
    model = loaded.model
    model.requires_grad_(True)
    layers = encoder_layers(model)
    frozen = recipe.freeze_layers if recipe.method == "full" else max(recipe.freeze_layers, len(layers) - 1)
    if frozen > len(layers):
        raise RecipeError(
            f"`freeze_layers: {frozen}` is more than the model's {len(layers)} layers", "freeze fewer layers"
        )
    if frozen:
        model.get_input_embeddings().requires_grad_(False)
        for layer in layers[:frozen]:
            layer.requires_grad_(False)


def encoder_layers(model: Any) -> list[torch.nn.Module]:
    """The stack of transformer layers: the longest module list of the model."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return list(max(lists, key=len, default=[]))


class LabelObjective:
    """Cross-entropy over labels, on batches of like length."""

    def __init__(
        self,
        loaded: LoadedModel,
        train: list[Example],
        validation: list[Example],
        recipe: Recipe,
        hyper: Hyperparameters,
        compute: torch.dtype,
    ) -> None:
        self.loaded = loaded
        self.recipe = recipe
        self.compute = compute
        self.batch_size = hyper.per_device_batch_size
        labels = list(loaded.model.config.id2label.values())
        self.validation = validation
        self.gold = [labels.index(example.label or "") for example in validation]
        limit = min(hyper.max_seq_length, getattr(loaded.model.config, "max_position_embeddings", 512))
        texts = [example.text or "" for example in train]
        self.encoded: list[list[int]] = loaded.tokenizer(texts, truncation=True, max_length=limit)[
            "input_ids"
        ]
        self.targets = [labels.index(example.label or "") for example in train]
        self.lengths = [len(ids) for ids in self.encoded]

    def batches(self, epoch: int) -> list[list[int]]:
        """Batches of like length in random order."""
        seed = self.recipe.seed
        order = shuffled(len(self.encoded), seed=seed, epoch=epoch)
        return group_by_length(self.lengths, order, batch_size=self.batch_size, seed=seed, epoch=epoch)

    def size(self, batch: list[int]) -> tuple[int, int]:
        """Texts and tokens of a batch."""
        return len(batch), sum(self.lengths[index] for index in batch)

    def loss(self, batch: list[int]) -> torch.Tensor:
        """Summed cross-entropy of a batch."""
        device = self.loaded.device
        padded = self.loaded.tokenizer.pad(
            {"input_ids": [self.encoded[i] for i in batch]}, return_tensors="pt"
        )
        targets = torch.tensor([self.targets[index] for index in batch], device=device)
        with torch.autocast(device.type, dtype=self.compute, enabled=self.compute != torch.float32):
            logits = self.loaded.model(**padded.to(device)).logits
        return cross_entropy(
            logits.float(), targets, reduction="sum", label_smoothing=self.recipe.label_smoothing
        )

    def evaluate(self) -> Measured | None:
        """Loss, accuracy and macro F1 on the validation split; the checkpoint with the best F1 wins."""
        if not self.validation:
            return None
        device = self.loaded.device
        with torch.autocast(device.type, dtype=self.compute, enabled=self.compute != torch.float32):
            predicted, probabilities = classify(
                self.loaded, [example.text or "" for example in self.validation]
            )
        gold = self.gold
        loss = -sum(
            math.log(max(row[label], 1e-12)) for row, label in zip(probabilities, gold, strict=True)
        ) / len(gold)
        macro_f1 = float(f1_score(gold, predicted, average="macro", zero_division=0.0))
        metrics = {"macro_f1": macro_f1, "accuracy": float(accuracy_score(gold, predicted))}
        return Measured(loss=loss, score=-macro_f1, metrics=metrics)
