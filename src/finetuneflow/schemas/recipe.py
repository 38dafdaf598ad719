"""A recipe: the whole configuration of a run, in YAML or JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.export import ExportKind, Quantization

Task = Literal["causal_lm", "sequence_classification"]
Method = Literal["lora", "full", "head"]


class Recipe(Schema):
    """Everything that decides a run. What is left null is chosen from the size of the dataset."""

    base_model: str = Field(validation_alias=AliasChoices("base_model", "model_to_fine_tune"))
    """`embedded:tiny`, `embedded:minilm`, a local folder, or a Hugging Face model id."""
    dataset: str = Field(validation_alias=AliasChoices("dataset", "dataset_path"))
    """A dataset file or folder, or the id of a dataset version (`ds-…`)."""
    output_model_name: str | None = None
    """Name of the model to be made, for the registry and for Ollama."""
    task: Task = "causal_lm"
    method: Method = "lora"
    """lora: low-rank adapters; full: all weights; head: only the classifier and the top layers."""
    num_epochs: float | None = Field(
        None, gt=0, le=1000, validation_alias=AliasChoices("num_epochs", "epochs", "num_train_epochs")
    )
    max_steps: int | None = Field(None, gt=0)
    """Stop after this many optimizer steps, whatever the epochs say."""
    learning_rate: float | None = Field(None, gt=0, le=1)
    per_device_batch_size: int | None = Field(
        None,
        gt=0,
        validation_alias=AliasChoices("per_device_batch_size", "batch_size", "per_device_train_batch_size"),
    )
    """Examples per forward pass; with packing, the mean number of examples in a packed row."""
    gradient_accumulation_steps: int = Field(1, gt=0)
    max_seq_length: int | None = Field(None, gt=8)
    """Longest example, tokens. Longer examples are dropped and counted, never cut in silence."""
    lora_r: int | None = Field(None, gt=0, validation_alias=AliasChoices("lora_r", "lora_rank"))
    lora_alpha: int | None = Field(None, gt=0)
    lora_dropout: float | None = Field(None, ge=0, lt=1)
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    use_rslora: bool = False
    """Scale by alpha over the square root of the rank: large ranks keep learning."""
    use_dora: bool = False
    """Learn size and direction of the weights apart; some servers load no such adapter."""
    modules_to_save: list[str] = Field(default_factory=list)
    """Modules learnt whole beside the adapter, such as `lm_head`; some servers load no such adapter."""
    warmup_ratio: float = Field(0.05, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "cosine"
    packing: bool = True
    """Fill rows up to the token budget; examples never see each other."""
    completion_only_loss: bool = True
    """Loss on the assistant's words only; false: on every token."""
    freeze_layers: int = Field(0, ge=0)
    """Sequence classification: number of lower encoder layers that stay as they are."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    eval_steps: int | None = Field(None, gt=0)
    """Evaluate every so many optimizer steps; null: about ten times a run."""
    save_steps: int | None = Field(None, gt=0)
    """Checkpoint every so many optimizer steps; null: with every evaluation."""
    early_stopping_patience: int | None = Field(None, gt=0)
    """Stop after this many evaluations without improvement; null: never."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 where the hardware multiplies it fast (CUDA, CPU with AMX), else fp32."""
    seed: int = 0
    export: list[ExportKind] | None = None
    """What `finetuneflow export` writes; null: all that this model can become. What is named here and cannot
    be written is refused before training."""
    quantization: Quantization = "f16"
    """Number format of the weights in the exported GGUF file."""


class Hyperparameters(Schema):
    """A recipe's blanks filled in: what the training loop really uses."""

    num_epochs: float
    learning_rate: float
    per_device_batch_size: int
    max_seq_length: int
    lora_r: int
    lora_alpha: int
    lora_dropout: float
    reason: str = ""
    """Why these values: the size class of the dataset, and what the recipe fixed itself."""
