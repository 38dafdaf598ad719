"""Weights of a model folder as float32 rows, and adapters melted in as PEFT would."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from finetuneflow.artifacts import BASE_FINGERPRINT
from finetuneflow.errors import ModelError
from finetuneflow.export.gguf.weights import Weights, open_weights
from finetuneflow.modeling.fingerprint import fingerprint

Q = "model.layers.0.self_attn.q_proj"
EMBED = "model.embed_tokens"
RNG = np.random.default_rng(5)
Tensors = dict[str, NDArray[Any]]
WriteAdapter = Callable[..., Path]


def write_safetensors(path: Path, tensors: Tensors, dtype: str = "F32") -> None:
    header: dict[str, Any] = {}
    data = b""
    for name, values in tensors.items():
        if dtype == "BF16":
            raw = (values.astype("<f4").view(np.uint32) >> 16).astype("<u2").tobytes()
        else:
            raw = values.astype({"F32": "<f4", "F16": "<f2", "I8": "i1"}[dtype]).tobytes()
        place = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": place}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def base_tensors() -> Tensors:
    return {
        f"{EMBED}.weight": RNG.standard_normal((40, 8)).astype(np.float32),
        f"{Q}.weight": RNG.standard_normal((12, 8)).astype(np.float32),
        f"{Q}.bias": RNG.standard_normal(12).astype(np.float32),
        "lm_head.weight": RNG.standard_normal((40, 8)).astype(np.float32),
    }


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": false}')
    write_safetensors(folder / "model.safetensors", base_tensors())
    return folder


def tie(base: Path) -> None:
    (base / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": true}')


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> WriteAdapter:
    def write(tensors: Tensors, **config: Any) -> Path:
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "base_model_name_or_path": "owner/base"}
        (folder / "adapter_config.json").write_text(json.dumps(settings | config))
        named = {f"base_model.model.{name}": values for name, values in tensors.items()}
        write_safetensors(folder / "adapter_model.safetensors", named)
        (folder / BASE_FINGERPRINT).write_text(fingerprint(base))
        return folder

    return write


def lora(module: str, rows: int, columns: int, rank: int = 2) -> Tensors:
    return {
        f"{module}.lora_A.weight": RNG.standard_normal((rank, columns)).astype(np.float32),
        f"{module}.lora_B.weight": RNG.standard_normal((rows, rank)).astype(np.float32),
    }


def delta(tensors: Tensors, module: str = Q) -> NDArray[np.float32]:
    product: NDArray[np.float32] = tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]
    return product


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_every_number_format_is_read_exactly(base: Path, dtype: str) -> None:
    values = RNG.standard_normal((10, 6)).astype(np.float16).astype(np.float32)
    values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    write_safetensors(base / "model.safetensors", {"a": values, "b": values[0]}, dtype)
    weights = open_weights(base)
    assert weights.names() == ["a", "b"]
    assert np.array_equal(weights.read("a"), values)
    assert np.array_equal(weights.read("a", 3, 7), values[3:7])
    assert np.array_equal(weights.read("b", 2, 5), values[0, 2:5])
    assert np.array_equal(weights.read_half("a", 3, 7), values[3:7].astype(np.float16))
    assert weights.shape("a") == (10, 6)
    assert weights.stored_bytes("a") == values.size * (4 if dtype == "F32" else 2)


def test_half_precision_is_the_same_for_every_bf16_number(base: Path) -> None:
    every = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    held = every[np.isfinite(every) & (np.abs(every) < 65536)].reshape(-1, 128)
    write_safetensors(base / "model.safetensors", {"a": held}, "BF16")
    weights = open_weights(base)
    expected = weights.read("a").astype(np.float16)
    assert np.array_equal(weights.read_half("a").view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("number", [65536.0, -70000.0, np.inf, np.nan])
def test_numbers_that_half_precision_cannot_hold_are_refused(base: Path, number: float) -> None:
    write_safetensors(base / "model.safetensors", {"a": np.full((2, 2), number, np.float32)}, "BF16")
    with pytest.raises(ModelError, match="beyond the range of F16"):
        open_weights(base).read_half("a")


def test_shards_are_found_through_the_index_alone(base: Path) -> None:
    tensors = base_tensors()
    (base / "model.safetensors").rename(base / "consolidated.safetensors")
    for number, name in enumerate(tensors):
        write_safetensors(base / f"model-{number}.safetensors", {name: tensors[name]})
    index = {"weight_map": {name: f"model-{number}.safetensors" for number, name in enumerate(tensors)}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    weights = open_weights(base)
    assert weights.names() == list(tensors)
    for name, values in tensors.items():
        assert np.array_equal(weights.read(name), values)
    (base / "model-1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-1\.safetensors` is missing"):
        open_weights(base)


@pytest.mark.parametrize("keep", [4, 60, -5])
def test_a_file_cut_short_is_refused(base: Path, keep: int) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        open_weights(base)


def test_an_index_cannot_lead_out_of_the_folder(base: Path) -> None:
    (base / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')
    with pytest.raises(ModelError, match="missing"):
        open_weights(base)


def test_quantised_weights_are_named(base: Path) -> None:
    write_safetensors(base / "model.safetensors", {"a": np.ones((2, 2))}, "I8")
    with pytest.raises(ModelError, match=r"`a` .* stored as I8"):
        open_weights(base).stored_bytes("a")


def read_twice(weights: Weights, name: str) -> NDArray[np.float32]:
    """The whole tensor, after the same in pieces."""
    whole = weights.read(name)
    rows = weights.shape(name)[0]
    parts = [weights.read(name, start, min(start + 5, rows)) for start in range(0, rows, 5)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-6, atol=1e-6)
    return whole


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 6 / 2),
        ({"use_rslora": True}, 6 / np.sqrt(2)),
        ({"alpha_pattern": {"k_proj": 1, "q_proj": 10}}, 10 / 2),
        ({"alpha_pattern": {"layers.1.self_attn.q_proj": 10}}, 6 / 2),
        ({"alpha_pattern": {r"model\.layers\.\d+\..*q_proj": 10}, "use_rslora": True}, 10 / np.sqrt(2)),
    ],
)
def test_lora_is_added_with_its_scale(
    base: Path, adapter: WriteAdapter, config: dict[str, Any], scale: float
) -> None:
    tensors = lora(Q, 12, 8)
    merged = read_twice(open_weights(base, adapter(tensors, **config)), f"{Q}.weight")
    expected = open_weights(base).read(f"{Q}.weight") + np.float32(scale) * delta(tensors)
    np.testing.assert_allclose(merged, expected, rtol=1e-5, atol=1e-5)


def test_a_rank_of_its_own_counts_in_the_scale(base: Path, adapter: WriteAdapter) -> None:
    tensors = lora(Q, 12, 8, rank=3)
    merged = open_weights(base, adapter(tensors, rank_pattern={"q_proj": 3})).read(f"{Q}.weight")
    expected = open_weights(base).read(f"{Q}.weight") + np.float32(6 / 3) * delta(tensors)
    np.testing.assert_allclose(merged, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key", ["lora_magnitude_vector", "lora_magnitude_vector.weight"])
def test_dora_sets_the_length_of_each_row(base: Path, adapter: WriteAdapter, key: str) -> None:
    magnitude = RNG.uniform(0.5, 2, 12).astype(np.float32)
    tensors = lora(Q, 12, 8)
    folder = adapter(tensors | {f"{Q}.{key}": magnitude}, use_dora=True)
    merged = read_twice(open_weights(base, folder), f"{Q}.weight")
    moved = open_weights(base).read(f"{Q}.weight") + np.float32(3) * delta(tensors)
    np.testing.assert_allclose(np.linalg.norm(merged, axis=1), magnitude, rtol=1e-5)
    np.testing.assert_allclose(
        merged, moved * (magnitude / np.linalg.norm(moved, axis=1))[:, None], rtol=1e-4, atol=1e-5
    )


def test_an_update_of_the_embeddings_is_added(base: Path, adapter: WriteAdapter) -> None:
    tensors = {
        f"{EMBED}.lora_embedding_A": RNG.standard_normal((2, 40)).astype(np.float32),
        f"{EMBED}.lora_embedding_B": RNG.standard_normal((8, 2)).astype(np.float32),
    }
    weights = open_weights(base, adapter(tensors))
    a, b = tensors.values()
    expected = open_weights(base).read(f"{EMBED}.weight") + 3 * (b @ a).T
    np.testing.assert_allclose(read_twice(weights, f"{EMBED}.weight"), expected, rtol=1e-5, atol=1e-5)
    half = weights.read_half(f"{EMBED}.weight", 3, 9)
    assert np.array_equal(half, weights.read(f"{EMBED}.weight", 3, 9).astype(np.float16))


@pytest.mark.parametrize("key", ["lm_head.weight", "lm_head.modules_to_save.weight"])
def test_a_module_saved_whole_takes_the_place_of_the_base(
    base: Path, adapter: WriteAdapter, key: str
) -> None:
    head = RNG.standard_normal((40, 8)).astype(np.float32)
    weights = open_weights(base, adapter({key: head}, modules_to_save=["lm_head"]))
    assert np.array_equal(weights.read("lm_head.weight", 3, 30), head[3:30])
    assert weights.replaced == {"lm_head.weight"}
    assert weights.names() == open_weights(base).names()


def test_a_trained_bias_takes_the_place_of_the_base(base: Path, adapter: WriteAdapter) -> None:
    bias = RNG.standard_normal(12).astype(np.float32)
    tensors = lora(Q, 12, 8) | {f"{Q}.base_layer.bias": bias}
    assert np.array_equal(open_weights(base, adapter(tensors, bias="lora_only")).read(f"{Q}.bias"), bias)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    "tensors",
    [
        lora("lm_head", 40, 8),
        {"lm_head.weight": np.ones((40, 8))},
        {f"{EMBED}.weight": np.ones((40, 8))},
        {f"{EMBED}.lora_embedding_A": np.ones((2, 40)), f"{EMBED}.lora_embedding_B": np.ones((8, 2))},
    ],
)
def test_changing_one_of_two_tied_matrices_is_refused(
    base: Path, adapter: WriteAdapter, tensors: Tensors, named: bool
) -> None:
    if named:
        tie(base)
    else:  # a config that is silent, and no output matrix of its own
        stored = {key: values for key, values in base_tensors().items() if key != "lm_head.weight"}
        write_safetensors(base / "model.safetensors", stored)
    with pytest.raises(ModelError, match="shares its embeddings") as caught:
        open_weights(base, adapter(tensors))
    assert caught.value.code == "tied_embeddings"


def test_embeddings_that_peft_saved_along_unchanged_are_no_change(base: Path, adapter: WriteAdapter) -> None:
    tie(base)
    same = open_weights(base).read(f"{EMBED}.weight")
    weights = open_weights(base, adapter(lora(Q, 12, 8) | {f"{EMBED}.base_layer.weight": same}))
    assert weights.replaced == set()


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"use_qalora": True}, "use_qalora"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"lora_bias": True}, "lora_bias"),
        ({"something_new": {"a": 1}}, "something_new"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"use_dora": True}, "magnitudes"),
    ],
)
def test_a_feature_that_is_not_understood_is_refused_by_name(
    base: Path, adapter: WriteAdapter, config: dict[str, Any], named: str
) -> None:
    with pytest.raises(ModelError, match=named):
        open_weights(base, adapter(lora(Q, 12, 8), **config))


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        (lora("model.layers.7.self_attn.q_proj", 12, 8), "does not have"),
        (lora(Q, 12, 16), "of shape"),
        ({f"{EMBED}.weight": np.ones((48, 8))}, "another vocabulary"),
        ({f"{Q}.lora_A.weight": np.ones((2, 8))}, "lora_B"),
        (lora(Q, 12, 8) | {f"{Q}.lora_bias_B": np.ones(12)}, "lora_bias_B"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    base: Path, adapter: WriteAdapter, tensors: Tensors, named: str
) -> None:
    with pytest.raises(ModelError) as caught:
        open_weights(base, adapter(tensors))
    assert named in caught.value.message + caught.value.hint


def test_an_adapter_of_another_base_is_refused(base: Path, adapter: WriteAdapter) -> None:
    folder = adapter(lora(Q, 12, 8))
    write_safetensors(base / "model.safetensors", base_tensors())
    with pytest.raises(ModelError, match="another base"):
        open_weights(base, folder)


def test_a_pickled_adapter_is_refused(base: Path, adapter: WriteAdapter) -> None:
    folder = adapter(lora(Q, 12, 8))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"no `adapter_model\.safetensors`") as caught:
        open_weights(base, folder)
    assert "pickled" in caught.value.hint
