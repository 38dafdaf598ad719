"""What can be exported is said before training: each check alone, from files of a few bytes."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.export import preflight
from finetuneflow.modeling.locate import embedded_folder
from finetuneflow.schemas.export import Preflight, PreflightCheck

GIGABYTE = 10**9


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The embedded model without its weights: two tensors of a million weights, in a header only."""
    folder = tmp_path / "model"
    shutil.copytree(embedded_folder("embedded:tiny"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors(folder, ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"])
    return folder


def tensors(folder: Path, names: list[str]) -> None:
    """Writes the header of a weights file."""
    entries = {name: {"dtype": "BF16", "shape": [1000, 1000], "data_offsets": [0, 0]} for name in names}
    header = json.dumps(entries).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def change(folder: Path, **more: Any) -> None:
    """Other settings in config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | more), encoding="utf-8")


def check(folder: Path | None, **more: Any) -> Preflight:
    """A preflight of a GGUF export with room to spare."""
    chosen: dict[str, Any] = {
        "reference": "owner/name",
        "kinds": ["adapter", "gguf", "zip"],
        "method": "lora",
        "target_modules": "all-linear",
        "modules_to_save": [],
        "quantization": "f16",
        "free_bytes": GIGABYTE,
    }
    return preflight.check(folder, **(chosen | more))


def failed(found: Preflight) -> PreflightCheck:
    """The only check that failed."""
    assert not found.ok
    (one,) = [check for check in found.checks if not check.ok]
    return one


def test_the_embedded_model_can_be_served() -> None:
    found = check(embedded_folder("embedded:tiny"))
    assert found.ok
    said = {check.name: check.message for check in found.checks}
    assert said["architecture"] == "`llama` is llama.cpp's `llama`"
    assert said["tokenizer"] == "byte-level BPE, `smollm`; `<|im_end|>` ends an answer"


def test_an_architecture_beyond_the_list_is_named(model: Path) -> None:
    change(model, model_type="mamba2")
    one = failed(check(model))
    assert one.name == "architecture"
    assert "mamba2" in one.message
    assert "qwen3" in one.hint


def test_it_may_still_be_merged(model: Path) -> None:
    change(model, model_type="mamba2")
    assert check(model, kinds=["adapter", "merged", "zip"]).ok


def test_a_tensor_beyond_the_architecture_is_named(model: Path) -> None:
    tensors(model, ["model.layers.0.block_sparse_moe.gate.weight"])
    assert "block_sparse_moe" in failed(check(model)).message


def test_a_shorter_context_is_told(model: Path) -> None:
    change(model, model_type="mistral", sliding_window=256)
    found = check(model)
    assert found.ok
    assert any("contexts end at 256 tokens" in check.message for check in found.checks)


def test_an_unknown_tokenizer_is_named(model: Path) -> None:
    path = model / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["pre_tokenizer"]["pretokenizers"][0] = {"type": "Punctuation", "behavior": "Isolated"}
    path.write_text(json.dumps(data), encoding="utf-8")
    one = failed(check(model))
    assert one.name == "tokenizer"
    assert "Punctuation" in one.message


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(model: Path) -> None:
    change(model, vocab_size=8000)
    assert "8000 rows" in failed(check(model)).message


def test_a_broken_template_is_refused(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{% for %}", encoding="utf-8")
    assert "chat template" in failed(check(model)).message


@pytest.mark.parametrize(
    "changed", [{"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "model.embed_tokens"]}]
)
def test_an_adapter_on_shared_embeddings_is_refused(model: Path, changed: dict[str, Any]) -> None:
    assert failed(check(model, **changed)).name == "embeddings"
    change(model, tie_word_embeddings=False)
    assert check(model, **changed).ok


def test_what_the_config_does_not_say_is_what_transformers_assumes(model: Path) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    del config["tie_word_embeddings"]
    (model / "config.json").write_text(json.dumps(config | {"model_type": "gemma2"}), encoding="utf-8")
    found = check(model, kinds=["adapter"], modules_to_save=["lm_head"])
    assert failed(found).name == "embeddings"


def test_an_adapter_needs_a_method_that_makes_one(model: Path) -> None:
    assert failed(check(model, method="full")).name == "adapter"
    assert check(model, method="full", kinds=["merged", "gguf"], modules_to_save=[]).ok


def test_an_adapter_in_gguf_holds_no_whole_layers(model: Path) -> None:
    one = failed(check(model, kinds=["gguf-adapter"], modules_to_save=["norm"]))
    assert "modules_to_save" in one.message


def test_a_full_disk_is_seen_before_training(model: Path) -> None:
    # Two million weights in 16 bit, and once more in the zip.
    one = failed(check(model, free_bytes=7_900_000))
    assert one.name == "disk"
    assert "0.01 GB" in one.message
    assert check(model, free_bytes=8_200_000).ok
    assert check(model, free_bytes=4_500_000, quantization="q8_0").ok


def test_k_quants_need_their_program(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLAMA_QUANTIZE", raising=False)
    one = failed(check(model, quantization="q4_k_m"))
    assert one.name == "quantization"
    assert "llama-quantize" in one.message
    program = tmp_path / "llama-quantize"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    assert check(model, quantization="q4_k_m").ok


def test_a_missing_runtime_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    one = failed(check(model))
    assert one.name == "runtime"
    assert "finetuneflow[export]" in one.hint


def test_a_model_to_be_fetched_is_checked_later() -> None:
    found = check(None)
    assert found.ok
    assert any("`owner/name` is not on this machine yet" in check.message for check in found.checks)
    assert not check(None, method="full").ok


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 20, struct.pack("<Q", 2) + b"[]"])
def test_broken_weights_are_named(model: Path, content: bytes) -> None:
    (model / "model.safetensors").write_bytes(content)
    found = check(model)
    assert {check.name for check in found.checks if not check.ok} == {"architecture", "disk"}
    assert "not a safetensors file" in next(check.message for check in found.checks if not check.ok)


def test_the_question_costs_no_heavy_import() -> None:
    heavy = ["numpy", "gguf", "torch", "transformers", "tokenizers", "safetensors"]
    script = (
        "import sys, finetuneflow.export.preflight; "
        f"sys.exit(','.join(name for name in {heavy} if name in sys.modules) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.strip()) == (0, "")
