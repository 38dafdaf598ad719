"""The model, its optimizer (Muon and AdamW on fp32 master copies) and what is written to disk."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from corpus import CONTEXT_TOKENS, END_OF_TEXT, TURN_END, VOCABULARY
from priming import prime
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MUON_LEARNING_RATE = 0.015
EMBEDDING_LEARNING_RATE = 5e-3
NORM_LEARNING_RATE = 3e-3
WARMUP_STEPS = 60
DECAY_FROM = 0.62
LAST_FACTOR = 0.01
CLIP_NORM = 1.0


def build_model(tokenizer: PreTrainedTokenizerFast, device: str) -> LlamaForCausalLM:
    """An untrained Llama of 11.0 million parameters in bf16, its copying heads set (see `priming`)."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=1024,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(TURN_END),
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
        dtype="bfloat16",
    )
    model = LlamaForCausalLM(config).float()
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.normal_(parameter, std=0.02 / (2 * config.num_hidden_layers) ** 0.5)
    prime(model)
    ends = tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT])
    model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=False, max_new_tokens=128
    )
    return model.to(device=device, dtype=torch.bfloat16)


def learning_rate_factor(step: int, progress: float) -> float:
    """Warm-up, constant, then a linear decay from `DECAY_FROM` of the run on."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    decay = min(1.0, max(0.0, (1.0 - progress) / (1.0 - DECAY_FROM)))
    return warm * max(decay, LAST_FACTOR)


class MasterOptimizer:
    """Steps fp32 copies of bf16 weights: Muon for the layers' matrices, AdamW for embeddings and norms."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self._weights = list(model.parameters())
        self._masters = [torch.nn.Parameter(weight.detach().float().clone()) for weight in self._weights]
        named = zip((name for name, _ in model.named_parameters()), self._masters, strict=True)
        kinds: dict[str, list[torch.nn.Parameter]] = {"matrix": [], "embedding": [], "norm": []}
        for name, master in named:
            kinds["norm" if master.ndim == 1 else "matrix" if ".layers." in name else "embedding"].append(
                master
            )
        self._muon = torch.optim.Muon(
            [{"params": kinds["matrix"], "full_lr": MUON_LEARNING_RATE}], momentum=0.95, weight_decay=0.05
        )
        self._adam = torch.optim.AdamW(
            [
                {"params": kinds["embedding"], "full_lr": EMBEDDING_LEARNING_RATE},
                {"params": kinds["norm"], "full_lr": NORM_LEARNING_RATE},
            ],
            betas=(0.9, 0.95),
            weight_decay=0.0,
        )

    def step(self, factor: float) -> float:
        """One update at `factor` times the learning rates; returns the gradient norm before clipping."""
        for master, weight in zip(self._masters, self._weights, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        norm = float(torch.nn.utils.clip_grad_norm_(self._masters, CLIP_NORM))
        for group in [*self._muon.param_groups, *self._adam.param_groups]:
            group["lr"] = group["full_lr"] * factor
        self._muon.step()
        self._adam.step()
        with torch.no_grad():
            torch._foreach_copy_(self._weights, self._masters)
        return norm

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        masters = [master.detach() for master in self._masters]
        return {"masters": masters, "muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Takes over `state()` of an earlier run, and sets the model's weights from it."""
        with torch.no_grad():
            torch._foreach_copy_(
                self._masters, [saved.to(self._masters[0].device) for saved in state["masters"]]
            )
            torch._foreach_copy_(self._weights, self._masters)
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes `content` so that `path` is always whole."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the Hugging Face folder, replacing an earlier one by a rename."""
    partial, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
