"""Adapters trained for a moment on small random models, and the check run on a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from finetuneflow.export.parity.check import check_parity
from finetuneflow.modeling.load import load_causal_lm
from finetuneflow.modeling.lora import add_adapter, save_adapter
from finetuneflow.modeling.tokenize import encode
from finetuneflow.schemas.example import Example, Message
from finetuneflow.schemas.export import ExportConfig, ParityResult
from finetuneflow.schemas.recipe import Recipe

NAMES = [
    "Orion",
    "Vega",
    "Sirius",
    "Altaïr",
    "Rigel",
    "Deneb",
    "Mira",
    "Capella",
    "Spica",
    "Antarès",
    "Hadar",
]
STATES = ["en service", "à l'arrêt", "in use", "retired"]
STEPS = 12


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices this small are multiplied fastest by one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTF_THREADS", "1")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """Questions about stars, some of them the second of a conversation."""
    made = []
    for index, name in enumerate(NAMES * 2):
        state = STATES[index % len(STATES)]
        question = f"Où en est {name} ?" if index < len(NAMES) else f"What about {name}?"
        turns = [
            Message(role="user", content=question),
            # Answers that no adapter learns here have a run of spaces: Gemma has a token for it.
            Message(role="assistant", content=f"{name} : {'  ' if index >= STEPS else ''}{state}"),
        ]
        if index % 3 == 0:
            turns = [
                Message(role="user", content="Bonjour"),
                Message(role="assistant", content="Oui ?"),
                *turns,
            ]
        made.append(Example(messages=turns))
    return made


@pytest.fixture(scope="session")
def adapter_for(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> Callable[..., Path]:
    """Folder of a LoRA adapter on a model: a few steps of training on the examples."""
    made: dict[tuple[str, str], Path] = {}

    def train(base: Path, **settings: Any) -> Path:
        key = str(base), repr(settings)
        if key in made:
            return made[key]
        recipe = Recipe.model_validate(
            {"base_model": str(base), "dataset": "d", "lora_r": 8, "lora_alpha": 32, "lora_dropout": 0.0}
            | settings
        )
        torch.manual_seed(3)
        loaded = load_causal_lm(str(base), precision="fp32")
        model = add_adapter(loaded, recipe, "CAUSAL_LM").train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
        rows = [encode(loaded.tokenizer, example) for example in examples]
        for step in range(STEPS):
            row = rows[step % len(rows)]
            loss = model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        folder = tmp_path_factory.mktemp("adapter")
        save_adapter(model, folder, base_model=str(base), fingerprint=loaded.fingerprint)
        made[key] = folder
        return folder

    return train


@pytest.fixture(scope="session")
def check(examples: list[Example]) -> Callable[..., ParityResult]:
    """The check of a GGUF file against base and adapter, with short answers."""

    def run(
        gguf: Path, base: Path, adapter: Path | None, quantization: str = "f16", **settings: Any
    ) -> ParityResult:
        config = ExportConfig.model_validate(
            {"quantization": quantization, "parity_answers": 20, "max_new_tokens": 12} | settings
        )
        return check_parity(gguf, reference=str(base), adapter=adapter, config=config, examples=examples)

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return run
