"""A LoRA adapter melted into each architecture, as GGUF, answers through llama.cpp as it was trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from finetuneflow.export.gguf.file import write_gguf
from finetuneflow.export.parity.check import check_parity
from finetuneflow.export.parity.findings import Findings
from finetuneflow.export.parity.prompts import thresholds_of
from finetuneflow.export.parity.sides import Sides
from finetuneflow.modeling.llama_cpp import Llama
from finetuneflow.modeling.load import load_causal_lm
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.export import ExportConfig, ParityResult, Quantization

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SmallModel = Callable[[str], Path]
Adapter = Callable[..., Path]
Check = Callable[..., ParityResult]

ADAPTERS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama_linear": {"target_modules": ["q_proj", "v_proj", "down_proj"]},
    "llama3": {},
    "mistral": {"use_rslora": True, "modules_to_save": ["lm_head"]},
    "smollm": {},
    "qwen2": {"lora_r": 4},
    "qwen2_yarn": {},
    "qwen3": {"use_rslora": True},
    "gemma2": {},
    "gemma3_text": {},
    "phi3": {"use_dora": True},
    "phi3_longrope": {},
}
"""Architecture to what is special about its adapter."""


@pytest.mark.parametrize("architecture", ADAPTERS)
def test_what_was_trained_is_what_is_served(
    architecture: str, small_model: SmallModel, adapter_for: Adapter, check: Check, tmp_path: Path
) -> None:
    base = small_model(architecture)
    adapter = adapter_for(base, **ADAPTERS[architecture])

    for quantization in ("f16", "q8_0"):
        file = tmp_path / f"{quantization}.gguf"
        write_gguf(file, base, adapter=adapter, quantization=quantization, name="stars")  # type: ignore[arg-type]
        result = check(file, base, adapter, quantization)

        assert result.passed, (quantization, result.first_difference, result.failures)
        assert result.prompts >= 32
        assert result.rendered_equal == result.ids_equal == result.prompts
        assert result.tokenizer_texts > 100
        assert sum(prompt.source == "test" for prompt in result.examples) >= 20
        assert result.answers == 20
        assert result.first_difference is None


def test_a_template_that_begins_with_text_gets_the_space_of_the_tokenizer(
    small_model: SmallModel, adapter_for: Adapter, check: Check, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(small_model("mistral"), base)
    template = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    (base / "chat_template.jinja").write_text(template, encoding="utf-8")
    adapter = adapter_for(base)
    write_gguf(tmp_path / "model.gguf", base, adapter=adapter, name="stars")

    result = check(tmp_path / "model.gguf", base, adapter)

    assert result.passed, result.first_difference
    assert result.rendered_equal == result.ids_equal == result.prompts


def test_the_adapter_matters_or_the_check_would_prove_nothing(
    small_model: SmallModel, adapter_for: Adapter, check: Check, tmp_path: Path
) -> None:
    base = small_model("llama3")
    write_gguf(tmp_path / "base.gguf", base, name="base alone")

    result = check(tmp_path / "base.gguf", base, adapter_for(base))

    assert not result.passed
    assert result.first_difference is not None
    assert "the adapter is not in the file" in result.first_difference


def test_progress_reaches_its_end(small_model: SmallModel, tmp_path: Path, examples: list[Example]) -> None:
    base = small_model("smollm")
    write_gguf(tmp_path / "model.gguf", base, name="base alone")
    steps: list[tuple[int, int]] = []

    check_parity(
        tmp_path / "model.gguf",
        reference=str(base),
        adapter=None,
        config=ExportConfig(parity_answers=0, max_new_tokens=2),
        examples=examples,
        on_progress=lambda done, total: steps.append((done, total)),
    )

    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]


def test_a_tie_is_a_swap_of_two_tokens_that_are_as_likely(small_model: SmallModel) -> None:
    loaded = load_causal_lm(str(small_model("smollm")), precision="fp32")
    nothing = cast(Llama, None)

    def agrees(quantization: Quantization, gap: float) -> bool:
        sides = Sides(loaded, nothing, quantization, thresholds_of(quantization), Findings("en"), [])
        return sides.same_choice(np.array([-1.0, -1.0 - gap, -9.0]), 1)

    assert agrees("f16", 0.019)
    assert not agrees("f16", 0.021)
    assert agrees("q8_0", 0.4)
    assert not agrees("q4_0", 0.6)  # coarse, but six tenths are no tie
