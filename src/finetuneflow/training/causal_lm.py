"""Fine-tuning a causal language model: LoRA or all weights, loss on the assistant's words, packed rows."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from finetuneflow.artifacts import JobFolder, read_examples
from finetuneflow.errors import DatasetError, RecipeError
from finetuneflow.modeling.device import prepare
from finetuneflow.modeling.load import LoadedModel, load_causal_lm
from finetuneflow.modeling.lora import add_adapter
from finetuneflow.modeling.packed_attention import NAME as PACKED
from finetuneflow.modeling.packed_attention import segments
from finetuneflow.modeling.tokenize import IGNORED, Encoded, encode
from finetuneflow.schemas.event import LogEvent
from finetuneflow.schemas.recipe import Hyperparameters, Recipe
from finetuneflow.schemas.run import TrainInputs, TrainResult
from finetuneflow.training.batches import pack, shuffled
from finetuneflow.training.loop import Fit, Measured
from finetuneflow.training.outcome import filled, tell_plan, train_result, write_weights

EVAL_TOKENS = 4096
"""Tokens per evaluation row."""


def run(config: Recipe, inputs: TrainInputs, job: JobFolder) -> TrainResult:
    """Trains and writes `adapter/` (LoRA) or `model/` (full) into the job folder.

    Raises:
        DatasetError: no example is left to learn from.
        ModelError, NotFoundError: the base model cannot be had.
        TrainingError: the loss diverged or the memory does not suffice.
        JobCancelled: somebody asked to stop.
    """
    started = time.perf_counter()
    hyper = filled(config).model_copy(update={"reason": inputs.hyperparameters_reason})
    prepare(config.seed)
    loaded = load_causal_lm(config.base_model, precision=config.precision)
    if config.packing and getattr(loaded.model.config, "attn_logit_softcapping", None):
        config = config.model_copy(update={"packing": False})
        job.emit(LogEvent(message="rows are padded, not packed: this model caps its attention scores"))
    limit = min(
        hyper.max_seq_length, getattr(loaded.model.config, "max_position_embeddings", hyper.max_seq_length)
    )
    train, dropped = encode_split(loaded, inputs.train, config, limit, job)
    validation, _ = (
        encode_split(loaded, inputs.validation, config, limit, job) if inputs.validation else ([], 0)
    )
    if config.method == "lora":
        loaded.model = add_adapter(loaded, config, "CAUSAL_LM")
    elif config.method == "full":
        loaded.model.requires_grad_(True)
    else:
        raise RecipeError("`method: head` is for sequence classification", "use `lora` or `full`")
    objective = CausalObjective(loaded, train, validation, config, hyper, limit)
    fit = Fit(loaded.model, objective, config, job)
    tell_plan(job, loaded, fit, len(train), len(validation))
    fit.run()
    if config.method == "full" and config.packing:
        loaded.model.set_attn_implementation("sdpa")
    write_weights(loaded, config, job.path)
    result = train_result(loaded, config, hyper, fit, loaded.dtype, time.perf_counter() - started)
    perplexity = None if result.eval_loss is None else math.exp(min(result.eval_loss, 50))
    return result.model_copy(update={"perplexity": perplexity, "dropped_examples": dropped})


def encode_split(
    loaded: LoadedModel, path: str, recipe: Recipe, limit: int, job: JobFolder
) -> tuple[list[Encoded], int]:
    """Token ids and labels of a split, and how many examples were too long or had nothing to learn.

    Raises:
        DatasetError: nothing is left.
    """
    examples = read_examples(Path(path))
    encoded = [
        encode(loaded.tokenizer, item, completion_only=recipe.completion_only_loss) for item in examples
    ]
    long = sum(len(item) > limit for item in encoded)
    empty = sum(len(item) <= limit and item.supervised == 0 for item in encoded)
    kept = [item for item in encoded if len(item) <= limit and item.supervised]
    if not kept:
        raise DatasetError(
            f"none of {len(examples)} examples can be learnt from: {long} are longer than {limit} tokens, "
            f"{empty + len(examples) - len(encoded)} have no token with loss",
            "raise `max_seq_length`, or check that every example ends with a non-empty assistant turn",
            path=Path(path).name,
            code="no_supervised_tokens",
        )
    if long or empty:
        job.emit(
            LogEvent(
                level="warning",
                message=f"{Path(path).stem}: left out {long} examples longer than {limit} tokens "
                f"and {empty} without a token to learn",
            )
        )
    return kept, long + empty


class CausalObjective:
    """Next-token loss over packed (or padded) rows."""

    def __init__(
        self,
        loaded: LoadedModel,
        train: list[Encoded],
        validation: list[Encoded],
        recipe: Recipe,
        hyper: Hyperparameters,
        limit: int,
    ) -> None:
        self.loaded = loaded
        self.train = train
        self.validation = validation
        self.recipe = recipe
        self.lengths = [len(item) for item in train]
        mean = sum(self.lengths) / len(self.lengths)
        self.budget = max(max(self.lengths), min(round(mean * hyper.per_device_batch_size), 1 << 20))
        self.limit = limit
        self.batch_size = hyper.per_device_batch_size
        if recipe.packing:
            base = loaded.model.get_base_model() if recipe.method == "lora" else loaded.model
            base.set_attn_implementation(PACKED)

    def batches(self, epoch: int) -> list[list[int]]:
        """Packed rows of this epoch, or plain batches when packing is off."""
        order = shuffled(len(self.train), seed=self.recipe.seed, epoch=epoch)
        if self.recipe.packing:
            return pack(self.lengths, order, budget=self.budget)
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def size(self, batch: list[int]) -> tuple[int, int]:
        """Supervised tokens and tokens of a batch."""
        return sum(self.train[i].supervised for i in batch), sum(self.lengths[i] for i in batch)

    def loss(self, batch: list[int]) -> torch.Tensor:
        """Summed cross-entropy over the supervised tokens of a batch."""
        return self._loss([self.train[index] for index in batch])

    @torch.inference_mode()
    def evaluate(self) -> Measured | None:
        """Mean loss per supervised token of the validation split."""
        if not self.validation:
            return None
        rows = pack([len(item) for item in self.validation], range(len(self.validation)), budget=EVAL_TOKENS)
        total = sum(float(self._loss([self.validation[index] for index in row])) for row in rows)
        loss = total / sum(item.supervised for item in self.validation)
        return Measured(loss=loss, score=loss)

    def _loss(self, items: list[Encoded]) -> torch.Tensor:
        forward = self._packed_logits if self.recipe.packing else self._padded_logits
        logits, targets = forward(items)
        return cross_entropy(logits.float(), targets, reduction="sum")

    def _packed_logits(self, items: list[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, V) at the positions that predict a supervised token, and those tokens (N)."""
        device = self.loaded.device
        ids = torch.tensor([token for item in items for token in item.input_ids], device=device)
        labels = torch.tensor(
            [label for item in items for label in [IGNORED, *item.labels[1:]]], device=device
        )
        positions = torch.cat([torch.arange(len(item), device=device) for item in items])
        supervised = (labels != IGNORED).nonzero().squeeze(1)
        output = self.loaded.model(
            input_ids=ids[None],
            position_ids=positions[None],
            segments=segments([len(item) for item in items], device),
            logits_to_keep=supervised - 1,
            use_cache=False,
        )
        return output.logits[0], labels[supervised]

    def _padded_logits(self, items: list[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        """As `_packed_logits`, one row per example, for models that cannot be packed."""
        longest = max(len(item) for item in items)
        pad = self.loaded.tokenizer.pad_token_id
        ids = torch.tensor([item.input_ids + [pad] * (longest - len(item)) for item in items])
        labels = torch.tensor([item.labels + [IGNORED] * (longest - len(item)) for item in items])
        mask = torch.tensor([[1] * len(item) + [0] * (longest - len(item)) for item in items])
        device = self.loaded.device
        logits = self.loaded.model(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
        ).logits[:, :-1]
        targets = labels[:, 1:].to(device)
        supervised = targets != IGNORED
        return logits[supervised], targets[supervised]
