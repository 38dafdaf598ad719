"""Adapters that PEFT made: melted in without torch, and written as GGUF; both against PEFT itself."""

import ctypes
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as TensorType
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from finetuneflow.errors import ModelError
from finetuneflow.export.gguf.adapter import write_gguf_adapter
from finetuneflow.export.gguf.file import write_gguf
from finetuneflow.export.gguf.quantize import encode, encoded_bytes
from finetuneflow.export.gguf.weights import open_weights
from finetuneflow.modeling.fingerprint import fingerprint
from finetuneflow.modeling.llama_cpp import open_llama
from finetuneflow.modeling.lora import save_adapter
from finetuneflow.schemas.export import Quantization

pytestmark = pytest.mark.integration

SmallModel = Callable[[str], Path]
PLAIN: dict[str, Any] = {"target_modules": "all-linear"}
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": PLAIN,
    "rslora": PLAIN | {"use_rslora": True},
    "dora": PLAIN | {"use_dora": True},
    "dora and rslora": PLAIN | {"use_dora": True, "use_rslora": True},
    "patterns": PLAIN
    | {
        "rank_pattern": {"o_proj": 2, "layers.1.mlp.down_proj": 7},
        "alpha_pattern": {"down_proj": 1, "o_proj": 24},
    },
    "patterns and rslora": PLAIN
    | {"rank_pattern": {"o_proj": 2}, "alpha_pattern": {"down_proj": 1}, "use_rslora": True},
    "head saved whole": PLAIN | {"modules_to_save": ["lm_head"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj", "lm_head"]},
    "biases": PLAIN | {"bias": "lora_only"},
    "some layers": {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
}


def make_adapter(base: Path, folder: Path, **config: Any) -> Any:
    """A random adapter in a folder, as training saves it; gives the PeftModel."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, **config))
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if parameter.requires_grad:
                scale = 0.3 if "magnitude" in name else 0.1
                parameter.add_(torch.randn_like(parameter) * scale)
    folder.mkdir(parents=True)
    save_adapter(peft, folder, base_model=str(base), fingerprint=fingerprint(base))
    return peft.eval()


def ids(base: Path) -> list[int]:
    rows = open_weights(base).shape("model.embed_tokens.weight")[0]
    return [int(number) for number in np.random.default_rng(9).integers(10, rows - 70, 24)]


@torch.inference_mode()
def log_probabilities(model: Any, tokens: list[int]) -> np.ndarray:
    logits = model(input_ids=torch.tensor([tokens])).logits[0, -1].double()
    return torch.log_softmax(logits, -1).numpy()


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("architecture", ["qwen2", "llama_linear"])
def test_weights_are_those_that_peft_merges(
    small_model: SmallModel, tmp_path: Path, architecture: str, kind: str
) -> None:
    base = small_model(architecture)
    peft = make_adapter(base, tmp_path / "adapter", **ADAPTERS[kind])
    merged = dict(peft.merge_and_unload(safe_merge=True).named_parameters())
    weights = open_weights(base, tmp_path / "adapter")
    untouched = open_weights(base)
    changed = 0
    for name in weights.names():
        np.testing.assert_allclose(
            weights.read(name), merged[name].detach().numpy(), rtol=1e-5, atol=2e-6, err_msg=name
        )
        changed += not np.array_equal(weights.read(name), untouched.read(name))
    assert changed >= 2


@pytest.mark.parametrize("kind", ["lora", "rslora", "patterns", "patterns and rslora"])
@pytest.mark.parametrize("architecture", ["llama3", "qwen2", "phi3", "gemma2"])
def test_an_adapter_in_gguf_answers_like_peft(
    small_model: SmallModel, tmp_path: Path, architecture: str, kind: str
) -> None:
    base, tokens = small_model(architecture), ids(small_model(architecture))
    expected = log_probabilities(make_adapter(base, tmp_path / "adapter", **ADAPTERS[kind]), tokens)
    plain = log_probabilities(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tokens)
    write_gguf(tmp_path / "base.gguf", base, quantization="f32", name="base")
    written = write_gguf_adapter(tmp_path / "adapter.gguf", base, tmp_path / "adapter")
    assert written.tensors % 2 == 0
    with open_llama(tmp_path / "base.gguf", adapter=tmp_path / "adapter.gguf", threads=1) as llama:
        served = llama.log_probabilities(tokens)
    assert np.abs(served - expected).max() < 0.02
    assert np.abs(served - plain).max() > 0.2, "the adapter must matter for this test to mean anything"


def test_an_adapter_of_the_embeddings_works_in_gguf(small_model: SmallModel, tmp_path: Path) -> None:
    base, tokens = small_model("llama3"), ids(small_model("llama3"))
    with pytest.warns(UserWarning, match="save_embedding_layers"):
        peft = make_adapter(base, tmp_path / "adapter", **ADAPTERS["embeddings"])
    expected = log_probabilities(peft, tokens)
    write_gguf(tmp_path / "base.gguf", base, quantization="f32", name="base")
    write_gguf_adapter(tmp_path / "adapter.gguf", base, tmp_path / "adapter")
    with open_llama(tmp_path / "base.gguf", adapter=tmp_path / "adapter.gguf", threads=1) as llama:
        assert np.abs(llama.log_probabilities(tokens) - expected).max() < 0.02


@pytest.mark.parametrize("kind", ["dora and rslora", "head saved whole"])
def test_what_an_adapter_in_gguf_cannot_hold_is_melted_in(
    small_model: SmallModel, tmp_path: Path, kind: str
) -> None:
    base, tokens = small_model("llama3"), ids(small_model("llama3"))
    expected = log_probabilities(make_adapter(base, tmp_path / "adapter", **ADAPTERS[kind]), tokens)
    with pytest.raises(ModelError, match="DoRA" if "dora" in kind else "modules_to_save") as caught:
        write_gguf_adapter(tmp_path / "adapter.gguf", base, tmp_path / "adapter")
    assert caught.value.code == "adapter_unsupported"
    assert not (tmp_path / "adapter.gguf").exists()
    write_gguf(tmp_path / "model.gguf", base, adapter=tmp_path / "adapter", name="merged")
    with open_llama(tmp_path / "model.gguf", threads=1) as llama:
        assert np.abs(llama.log_probabilities(tokens) - expected).max() < 0.05


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize(
    "config", [{"target_modules": ["embed_tokens"]}, PLAIN | {"modules_to_save": ["embed_tokens"]}]
)
def test_an_adapter_that_changes_tied_embeddings_is_refused(
    small_model: SmallModel, tmp_path: Path, config: dict[str, Any]
) -> None:
    base = small_model("qwen3")
    make_adapter(base, tmp_path / "adapter", **config)
    for write in (
        lambda: write_gguf(tmp_path / "m.gguf", base, adapter=tmp_path / "adapter", name="m"),
        lambda: write_gguf_adapter(tmp_path / "m.gguf", base, tmp_path / "adapter"),
    ):
        with pytest.raises(ModelError, match="shares its embeddings"):
            write()
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize(
    ("quantization", "alike"),
    [("f32", 0.9999), ("bf16", 0.9999), ("f16", 0.9999), ("q8_0", 0.999), ("q4_0", 0.95), ("mxfp4", 0.9)],
)
def test_llama_cpp_reads_every_number_format(
    small_model: SmallModel, tmp_path: Path, quantization: Quantization, alike: float
) -> None:
    base, tokens = small_model("llama3"), ids(small_model("llama3"))
    expected = log_probabilities(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tokens)
    write_gguf(tmp_path / "model.gguf", base, quantization=quantization, name="model")
    with open_llama(tmp_path / "model.gguf", threads=1) as llama:
        served = llama.log_probabilities(tokens)
    assert np.corrcoef(served, expected)[0, 1] > alike


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_0", "MXFP4"])
def test_the_bytes_are_those_of_llama_cpp(name: str) -> None:
    module = importlib.util.find_spec("xllamacpp.xllamacpp")
    assert module is not None
    assert module.origin is not None
    library = ctypes.CDLL(module.origin)
    if not hasattr(library, "ggml_quantize_chunk"):
        pytest.skip("this build of xllamacpp does not show ggml's functions")
    rows = np.random.default_rng(1).standard_normal((256, 512)).astype(np.float32)
    rows[3] = 0
    expected = np.zeros(encoded_bytes(rows.shape, TensorType[name]), np.uint8)
    library.ggml_quantize_chunk(
        ctypes.c_int(TensorType[name]),
        rows.ctypes.data_as(ctypes.c_void_p),
        expected.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(0),
        ctypes.c_int64(rows.shape[0]),
        ctypes.c_int64(rows.shape[1]),
        None,
    )
    assert np.array_equal(encode(rows, TensorType[name]), expected)
