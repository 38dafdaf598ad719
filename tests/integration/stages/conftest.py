"""A random Llama with tied embeddings stored in bf16, and a run that taught it eight answers by LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from finetuneflow.artifacts import JobFolder, write_examples
from finetuneflow.schemas.example import Example, Message
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import TrainInputs, TrainResult
from finetuneflow.training import causal_lm

TEMPLATE = (
    "{% for message in messages %}"
    "<|start|>{{ message['role'][0] }} {{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start|>a {% endif %}"
)
FACTS = {
    "Orion": "oui",
    "Vega": "non",
    "Sirius": "Lyon",
    "Altaïr": "été",
    "Rigel": "3",
    "Deneb": "B",
    "Mira": "x y",
}


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    base: Path
    folder: Path
    recipe: Recipe
    result: TrainResult

    @property
    def adapter(self) -> Path:
        """Folder of the adapter."""
        return self.folder / (self.result.adapter or "")


def question(name: str) -> str:
    """What is asked about a name."""
    return f"{name} ?"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and three special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|start|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices this small are multiplied fastest by one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTF_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the random model."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def trained(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A LoRA run on the facts, in fp32."""
    folder = tmp_path_factory.mktemp("run")
    examples = [
        Example(
            messages=[Message(role="user", content=question(name)), Message(role="assistant", content=fact)]
        )
        for name, fact in FACTS.items()
    ]
    write_examples(folder / "train.jsonl", examples)
    recipe = Recipe(
        base_model=str(base_model),
        dataset="facts",
        max_steps=80,
        num_epochs=80,
        learning_rate=0.01,
        per_device_batch_size=8,
        max_seq_length=64,
        lora_r=16,
        lora_alpha=32,
        lora_dropout=0.0,
        precision="fp32",
    )
    result = causal_lm.run(recipe, TrainInputs(train=str(folder / "train.jsonl")), JobFolder(folder))
    return Trained(base_model, folder, recipe, result)
