"""Low-rank adapters: putting one on, writing one out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from peft import LoraConfig, TaskType, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from finetuneflow.artifacts import BASE_FINGERPRINT
from finetuneflow.errors import ModelError
from finetuneflow.modeling.load import LoadedModel
from finetuneflow.schemas.recipe import Recipe


def add_adapter(loaded: LoadedModel, recipe: Recipe, task: Literal["CAUSAL_LM", "SEQ_CLS"]) -> Any:
    """Puts a fresh, seeded LoRA adapter on a model; only the adapter (and a classifier's head) will learn.

    Raises:
        ModelError: a target module that the model does not have, or one of two matrices that it keeps equal.
    """
    config = LoraConfig(
        task_type=TaskType[task],
        r=recipe.lora_r or 16,
        lora_alpha=recipe.lora_alpha or 32,
        lora_dropout=recipe.lora_dropout or 0.0,
        target_modules=recipe.target_modules,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        modules_to_save=recipe.modules_to_save or None,
    )
    try:
        model = get_peft_model(loaded.model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise ModelError(
            f"the adapter does not fit the model: {str(error).splitlines()[0][:200]}",
            "set `target_modules: all-linear`, or name linear layers that the model has",
        ) from error
    refuse_tied(model)
    return model


def refuse_tied(model: Any) -> None:
    """Refuses an adapter that changes one of two matrices that the model keeps equal.

    Raises:
        ModelError: embeddings are tied and the adapter changes them: merged, both uses would change.
    """
    if not getattr(model.config, "tie_word_embeddings", False):
        return
    base = model.get_base_model()
    tied = {base.get_input_embeddings(), base.get_output_embeddings()}
    wrapped = [
        type(module).__name__ for module in tied if module is not None and len(list(module.children()))
    ]
    if wrapped:
        raise ModelError(
            "the adapter changes the embeddings, which this model shares with its output layer",
            "leave `embed_tokens` and `lm_head` out of `target_modules` and `modules_to_save`",
        )


def save_adapter(model: Any, folder: Path, *, base_model: str, fingerprint: str) -> None:
    """Writes adapter weights and configuration in PEFT's layout, without reaching for a model hub.

    Args:
        model: A PeftModel.
        folder: An existing folder.
        base_model: Reference of the base, for whoever loads the adapter.
        fingerprint: Of the base's weights; checked when the adapter is loaded.
    """
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in get_peft_model_state_dict(model).items()
    }
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    config = {
        key: sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        for key, value in config.items()
    }
    config |= {"base_model_name_or_path": base_model, "inference_mode": True}
    (folder / "adapter_config.json").write_text(
        json.dumps(config, indent=2, default=str) + "\n", encoding="utf-8"
    )
    (folder / BASE_FINGERPRINT).write_text(fingerprint + "\n", encoding="utf-8")
