"""What a config.json means to llama.cpp: fields, names, layouts, and refusals by name."""

from __future__ import annotations

import math
from typing import Any

import gguf
import numpy as np
import pytest

from finetuneflow.errors import ModelError
from finetuneflow.export.gguf.architectures import architecture_of
from finetuneflow.export.gguf.architectures_config import families

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
GEMMA3: dict[str, Any] = LLAMA | {
    "model_type": "gemma3_text",
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "num_hidden_layers": 7,
    "sliding_window": 64,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def values(config: dict[str, Any]) -> dict[str, Any]:
    """Fields of a config by key, without the name of the architecture."""
    architecture = architecture_of(config)
    return {
        field.key.removeprefix(f"{architecture.name}."): field.value for field in architecture.fields(config)
    }


def test_the_shape_of_a_model_becomes_fields() -> None:
    found = values(LLAMA | {"rms_norm_eps": 1e-5})
    assert found["block_count"] == 2
    assert found["attention.head_count_kv"] == 2
    assert found["attention.key_length"] == 16
    assert found["attention.layer_norm_rms_epsilon"] == 1e-5
    assert found["context_length"] == 512


@pytest.mark.parametrize(
    "stored",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
        {"rope_theta": 500000.0},
        {"rope_theta": 500000.0, "rope_scaling": None},
    ],
)
def test_the_rotary_base_is_found_wherever_it_is_kept(stored: dict[str, Any]) -> None:
    assert values(LLAMA | stored)["rope.freq_base"] == 500000.0


def test_the_rotary_base_of_gemma3_is_that_of_its_full_layers() -> None:
    nested = {
        "full_attention": {"rope_type": "linear", "rope_theta": 2e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    found = values(GEMMA3 | {"rope_parameters": nested})
    assert (found["rope.freq_base"], found["rope.scaling.type"]) == (2e6, "linear")
    assert found["rope.scaling.factor"] == 8.0
    older = values(GEMMA3 | {"rope_theta": 2e6, "rope_local_base_freq": 1e4})
    assert older["rope.freq_base"] == 2e6


def test_llama3_scaling_slows_low_frequencies_only() -> None:
    config = LLAMA | {"head_dim": 64, "rope_parameters": LLAMA3_ROPE}
    factors = architecture_of(config).extra_tensors(config)["rope_freqs.weight"]
    assert factors.dtype == np.float32
    assert factors.shape == (32,)
    assert factors[0] == 1.0
    assert factors[-1] == 8.0
    assert np.all(np.diff(factors) >= 0)
    # Half way between the two limits: wavelength 8192 / 2.5, so 1 / (0.5 / 8 + 0.5).
    wavelength = 2 * math.pi * 500000.0 ** (np.arange(0, 64, 2) / 64)
    between = (wavelength > 8192 / 4) & (wavelength < 8192)
    smooth = (8192 / wavelength[between] - 1) / 3
    assert factors[between] == pytest.approx(1 / ((1 - smooth) / 8 + smooth))


def test_a_window_that_llama_cpp_lacks_ends_the_context() -> None:
    mistral = LLAMA | {"model_type": "mistral", "sliding_window": 64}
    assert values(mistral)["context_length"] == 64
    assert values(mistral | {"sliding_window": None})["context_length"] == 512
    assert "attention.sliding_window" not in values(mistral)
    qwen = LLAMA | {"model_type": "qwen2", "sliding_window": 64}
    assert values(qwen)["context_length"] == 512
    assert values(qwen | {"use_sliding_window": True})["context_length"] == 64
    assert values(GEMMA3)["attention.sliding_window"] == 64
    assert values(GEMMA3)["context_length"] == 512


def test_longrope_gives_both_factors_and_the_scale_of_attention() -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    config = LLAMA | {
        "model_type": "phi3",
        "rope_scaling": rope | {"rope_type": "su"},
        "original_max_position_embeddings": 128,
    }
    found = values(config)
    assert found["rope.scaling.original_context_length"] == 128
    assert found["rope.scaling.attn_factor"] == pytest.approx(math.sqrt(1 + math.log(4) / math.log(128)))
    assert found["context_length"] == 128
    tensors = architecture_of(config).extra_tensors(config)
    assert tensors["rope_factors_long.weight"].tolist() == [2.0] * 8
    assert tensors["rope_factors_short.weight"].tolist() == [1.0] * 8


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "mamba2"}, "mamba2"),
        ({}, "None"),
        (LLAMA | {"model_type": "gemma3", "text_config": {}}, "gemma3"),
        (LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        (LLAMA | {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        (LLAMA | {"hidden_act": "relu"}, "relu"),
        (LLAMA | {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
        (LLAMA | {"model_type": "qwen3", "attention_bias": True}, "attention_bias"),
        (LLAMA | {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "50%"),
        (GEMMA3 | {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar"),
        (GEMMA3 | {"layer_types": ["full_attention"] * 7}, "order of layers"),
        (GEMMA3 | {"sliding_window_pattern": 2}, "order of layers"),
        (GEMMA3 | {"attn_logit_softcapping": 50.0}, "soft capping"),
        (GEMMA3 | {"use_bidirectional_attention": True}, "both directions"),
        (GEMMA3 | {"rope_local_base_freq": 5000.0}, "rotary base"),
        (
            LLAMA
            | {
                "model_type": "qwen2",
                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 64},
            },
            "yarn",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused_by_name(
    config: dict[str, Any], named: str
) -> None:
    with pytest.raises(ModelError, match=named) as caught:
        architecture_of(config)
    assert caught.value.code == "architecture_unsupported"


def test_an_unknown_architecture_is_told_which_there_are() -> None:
    with pytest.raises(ModelError) as caught:
        architecture_of({"model_type": "mamba2"})
    assert all(name in caught.value.hint for name in families())


def test_every_name_of_a_tensor_is_one_that_llama_cpp_knows() -> None:
    architectures = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    for family in families().values():
        names = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[architectures[family.name]]} | {
            "output"
        }
        written = set(family.tensors.values()) | {f"blk.{{bid}}.{name}" for name in family.blocks.values()}
        assert written <= names, family.model_type


def test_tied_heads_and_stored_rotary_tables_are_left_out() -> None:
    architecture = architecture_of(LLAMA)
    assert architecture.tensor("lm_head.weight", LLAMA | {"tie_word_embeddings": True}) is None
    kept = architecture.tensor("lm_head.weight", LLAMA)
    assert kept is not None
    assert kept.name == "output.weight"
    assert architecture.tensor("model.layers.1.self_attn.rotary_emb.inv_freq", LLAMA) is None


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.block_sparse_moe.gate.weight",
        "model.layers.0.self_attn.q_norm.weight",
        "score.weight",
        "model.norm.bias",
        "model.layers.0.input_layernorm.bias",
    ],
)
def test_a_tensor_that_the_architecture_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=name):
        architecture_of(LLAMA).tensor(name, LLAMA)


def test_queries_and_keys_are_reordered_head_by_head_even_in_slices() -> None:
    rule = architecture_of(LLAMA).tensor("model.layers.0.self_attn.q_proj.weight", LLAMA)
    assert rule is not None
    assert rule.transform is not None
    assert rule.row_multiple == 16
    rows = np.arange(64, dtype=np.float32)[:, None].repeat(3, axis=1)
    moved = rule.transform(rows)
    assert moved[:4, 0].tolist() == [0, 8, 1, 9]
    assert moved[16:20, 0].tolist() == [16, 24, 17, 25]
    assert np.array_equal(np.concatenate([rule.transform(rows[:32]), rule.transform(rows[32:])]), moved)
    bias = architecture_of(LLAMA).tensor("model.layers.0.self_attn.k_proj.bias", LLAMA)
    assert bias is not None
    assert bias.transform is not None
    assert bias.transform(np.arange(32, dtype=np.float32))[:3].tolist() == [0, 8, 1]


def test_only_llama_keeps_its_halves_apart() -> None:
    for model_type in families():
        config = (GEMMA3 if model_type.startswith("gemma") else LLAMA) | {"model_type": model_type}
        if model_type == "gemma2":
            config["num_hidden_layers"] = 2
        name = "qkv_proj" if model_type == "phi3" else "q_proj"
        rule = architecture_of(config).tensor(f"model.layers.0.self_attn.{name}.weight", config)
        assert rule is not None
        assert (rule.transform is not None) == (model_type in ("llama", "mistral"))


def test_gemma_stores_what_it_adds_to_its_norms() -> None:
    for name in ("model.norm.weight", "model.layers.3.self_attn.q_norm.weight"):
        rule = architecture_of(GEMMA3).tensor(name, GEMMA3)
        assert rule is not None
        assert rule.transform is not None
        assert rule.transform(np.zeros(2, dtype=np.float32)).tolist() == [1, 1]
    plain = architecture_of(LLAMA).tensor("model.norm.weight", LLAMA)
    assert plain is not None
    assert plain.transform is None
