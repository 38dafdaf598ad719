"""Number formats of GGUF: the same bytes as the reference, and the right format for each tensor."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as TensorType

from finetuneflow.errors import ModelError
from finetuneflow.export.gguf.quantize import encode, encoded_bytes, tensor_type
from finetuneflow.schemas.export import Quantization

SHAPE = (64, 2048)
FORMATS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "MXFP4"]


def numbers(kind: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    normal = rng.standard_normal(SHAPE).astype(np.float32)
    ties = np.array([0, 0.5, 1.5, 2.5, 3.5, 5, 7, 10, 12], np.float32)
    signs = rng.choice(np.array([-1, 1], np.float32), SHAPE)
    made = {
        "weights": lambda: normal * np.float32(0.02),
        "bf16 weights": lambda: ((normal * 0.02).view(np.uint32) & 0xFFFF0000).view(np.float32),
        "zeros": lambda: np.zeros(SHAPE, np.float32),
        "negative zeros": lambda: -np.zeros(SHAPE, np.float32),
        "some zero groups": lambda: normal * (np.arange(2048) // 32 % 2).astype(np.float32),
        "whole numbers": lambda: rng.integers(-127, 128, SHAPE).astype(np.float32),
        "halves": lambda: (rng.integers(-254, 255, SHAPE) / 2).astype(np.float32),
        "just under halves": lambda: just_under_halves(rng),
        "powers of two": lambda: np.ldexp(np.float32(1), rng.integers(-30, 10, SHAPE)).astype(np.float32),
        "ties": lambda: rng.choice(ties, SHAPE) * signs,
        "equal size, both signs": lambda: signs.copy(),
        "tiny": lambda: normal * np.float32(1e-30),
        "large": lambda: normal * np.float32(1e4),
    }
    return made[kind]()


def just_under_halves(rng: np.random.Generator) -> np.ndarray:
    """Numbers that adding a half would round up; a scale of one, so that they stay what they are."""
    rows = np.nextafter((rng.integers(-252, 253, SHAPE) / 2).astype(np.float32), np.float32(0))
    rows[:, ::32] = 127
    return rows


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "kind",
    [
        "weights",
        "bf16 weights",
        "zeros",
        "negative zeros",
        "some zero groups",
        "whole numbers",
        "halves",
        "just under halves",
        "powers of two",
        "ties",
        "equal size, both signs",
        "tiny",
        "large",
    ],
)
def test_the_bytes_are_those_of_the_reference(name: str, kind: str) -> None:
    rows = numbers(kind)
    expected = gguf.quants.quantize(rows, TensorType[name]).view(np.uint8).ravel()
    assert np.array_equal(encode(rows, TensorType[name]), expected)


@pytest.mark.parametrize("name", FORMATS)
def test_rows_give_the_same_bytes_in_pieces(name: str) -> None:
    rows = numbers("weights")
    whole = encode(rows, TensorType[name])
    parts = [encode(rows[start : start + 7], TensorType[name]) for start in range(0, len(rows), 7)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert whole.size == encoded_bytes(rows.shape, TensorType[name])


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "MXFP4"])
def test_a_group_too_small_for_a_scale_becomes_zeros(name: str) -> None:
    # The reference divides by such a scale and stores what comes of infinity.
    rows = np.full((1, 32), 1e-41, np.float32)
    back = gguf.quants.dequantize(encode(rows, TensorType[name]).reshape(1, -1), TensorType[name])
    assert np.abs(back).max() < 1e-37


def test_a_number_beyond_fp16_is_refused_and_bf16_takes_it() -> None:
    rows = np.full((1, 32), 70000.0, np.float32)
    with pytest.raises(ModelError, match="65504") as caught:
        encode(rows, TensorType.F16)
    assert "bf16" in caught.value.hint
    assert encode(rows, TensorType.BF16).size == 64


@pytest.mark.parametrize(
    ("name", "shape", "quantization", "tied", "expected"),
    [
        ("blk.0.attn_norm.weight", (64,), "q8_0", False, "F32"),
        ("blk.0.attn_q.bias", (64,), "f16", False, "F32"),
        ("rope_freqs.weight", (32,), "q4_0", False, "F32"),
        ("blk.0.attn_q.weight", (64, 64), "f16", False, "F16"),
        ("blk.0.attn_q.weight", (64, 64), "bf16", False, "BF16"),
        ("blk.0.attn_q.weight", (64, 64), "f32", False, "F32"),
        ("blk.0.attn_q.weight", (64, 64), "q8_0", False, "Q8_0"),
        ("blk.0.attn_q.weight", (64, 64), "q4_0", False, "Q4_0"),
        ("blk.0.attn_q.weight", (64, 64), "mxfp4", False, "MXFP4"),
        ("blk.0.attn_q.weight", (64, 48), "q8_0", False, "F16"),
        ("blk.0.attn_q.weight", (64, 48), "q4_0", False, "F16"),
        ("output.weight", (512, 64), "q8_0", False, "Q8_0"),
        ("output.weight", (512, 64), "q4_0", False, "Q8_0"),
        ("output.weight", (512, 64), "mxfp4", False, "Q8_0"),
        ("token_embd.weight", (512, 64), "q4_0", False, "Q4_0"),
        ("token_embd.weight", (512, 64), "q4_0", True, "Q8_0"),
        ("token_embd.weight", (512, 64), "mxfp4", False, "Q8_0"),
    ],
)
def test_each_tensor_gets_its_format(
    name: str, shape: tuple[int, ...], quantization: Quantization, tied: bool, expected: str
) -> None:
    assert tensor_type(name, shape, quantization, tied=tied).name == expected
