"""Loading models: safetensors only, no remote code, one clear error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from finetuneflow.errors import ModelError
from finetuneflow.modeling.device import choose_device, choose_precision, torch_dtype
from finetuneflow.modeling.fingerprint import check_adapter, fingerprint
from finetuneflow.modeling.locate import check_folder, locate, read_config

SECOND_COPIES = ["consolidated*", "original/*"]
"""The same weights in another layout."""
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "LICENSE*", "README.md"]

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@dataclass
class LoadedModel:
    """A model ready to answer or to learn."""

    model: Any
    """A transformers model, or a PeftModel around one."""
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    """Hash of the base's config and weights."""
    folder: Path
    """Where the base's files are."""


def resolve(reference: str) -> Path:
    """Folder with the model's files, fetched from the hub when it is a hub id.

    Raises:
        NotFoundError: unknown reference.
        ModelError: not loadable, or the hub cannot be reached and nothing is cached.
    """
    folder = locate(reference)
    if folder is not None:
        return folder
    try:
        fetched = snapshot_download(reference, allow_patterns=HUB_FILES, ignore_patterns=SECOND_COPIES)
        return check_folder(Path(fetched), reference)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"`{reference}` could not be fetched from the model hub",
            "check the name and the network, or download it elsewhere and give its folder; "
            "`embedded:tiny` needs no network",
        ) from error


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder, with a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load(auto: Any, folder: Path, dtype: torch.dtype, **kwargs: Any) -> Any:
    # Capped attention scores (Gemma 2) are in no fused kernel.
    attention = "eager" if read_config(folder).get("attn_logit_softcapping") else "sdpa"
    try:
        return auto.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation=attention,
            trust_remote_code=False,
            **kwargs,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ModelError(
            f"the model in `{folder}` cannot be loaded: {reason}", "check that its files are whole"
        ) from error


def load_causal_lm(
    reference: str,
    *,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    adapter: Path | None = None,
) -> LoadedModel:
    """A causal language model in evaluation mode, with an adapter on top when one is given.

    Args:
        reference: `embedded:…`, a folder, or a hub id.
        precision: Number format to compute in.
        adapter: Folder of a LoRA adapter made for this base.

    Raises:
        NotFoundError: unknown reference.
        ModelError: the files cannot be loaded, or the adapter was made for another base.
    """
    folder = resolve(reference)
    device = choose_device()
    dtype = torch_dtype(choose_precision(precision, device))
    model = _load(AutoModelForCausalLM, folder, dtype).to(device).eval()
    tokenizer = load_tokenizer(folder)
    mark = fingerprint(folder)
    if adapter is not None:
        check_adapter(adapter, mark)
        model = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False).eval()
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
    return LoadedModel(model, tokenizer, device, dtype, mark, folder)


def load_classifier(
    reference: str,
    *,
    labels: list[str],
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    adapter: Path | None = None,
) -> LoadedModel:
    """A sequence classifier in evaluation mode; its head is new (seeded) when the folder has none.

    Raises:
        NotFoundError: unknown reference.
        ModelError: the files cannot be loaded.
    """
    folder = resolve(reference)
    device = choose_device()
    dtype = torch_dtype(choose_precision(precision, device))
    model = _load(
        AutoModelForSequenceClassification,
        folder,
        dtype,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        ignore_mismatched_sizes=True,
    )
    mark = fingerprint(folder)
    if adapter is not None:
        check_adapter(adapter, mark)
        model = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
    return LoadedModel(model.to(device).eval(), load_tokenizer(folder), device, dtype, mark, folder)
