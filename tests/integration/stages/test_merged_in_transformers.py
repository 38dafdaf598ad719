"""The merged folder of an export: transformers alone loads it, and it answers as the run does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from finetuneflow.artifacts import JobFolder
from finetuneflow.export.run import run
from finetuneflow.modeling.generate import generate
from finetuneflow.modeling.load import load_causal_lm
from finetuneflow.schemas.export import ExportConfig, ExportInputs

pytestmark = pytest.mark.integration
NAMES = ("Orion", "Vega", "Altaïr", "Deneb")


def asked(name: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{name} ?"}]


def answers(folder: Path) -> list[str]:
    """What transformers says with nothing of ours."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = []
    for name in NAMES:
        prompt = tokenizer.apply_chat_template(
            asked(name), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        made = model.generate(**prompt, max_new_tokens=8, do_sample=False)
        words = made[0, prompt["input_ids"].shape[1] :]
        said.append(tokenizer.decode(words, skip_special_tokens=True).strip())
    return said


def test_transformers_alone_answers_as_the_run_does(trained: Any, tmp_path: Path) -> None:
    inputs = ExportInputs(
        run_folder=str(trained.folder),
        run_id="run-1",
        name="facts",
        recipe=trained.recipe.model_dump(),
        train_result=trained.result.model_dump(),
    )
    folder = tmp_path / str(run(ExportConfig(kinds=["merged"]), inputs, JobFolder(tmp_path)).merged)
    tuned = load_causal_lm(str(trained.base), precision="fp32", adapter=trained.adapter)
    given = generate(tuned, [asked(name) for name in NAMES], max_new_tokens=8, batch_size=1)
    expected = [answer.text for answer in given]
    assert expected == ["oui", "non", "été", "B"]
    assert answers(folder) == expected
    assert answers(trained.adapter) == expected

    chat = pipeline("text-generation", model=str(folder), dtype=torch.float32)
    said = chat(asked(NAMES[0]), max_new_tokens=8, do_sample=False)
    assert said[0]["generated_text"][-1]["content"].strip() == expected[0]
