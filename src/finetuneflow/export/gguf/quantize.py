"""Number formats of GGUF: which tensor gets which, and float32 rows turned into its bytes.

Bytes are those of `gguf.quants.quantize`, and so of llama.cpp, save where a scale is too small to be stored
(see `_inverse`). They are made several times as fast: in blocks that stay in the cache, and the largest of a
group of 32 over a transposed copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as TensorType
from numpy.typing import NDArray

from finetuneflow.export.gguf.safetensors_file import to_half
from finetuneflow.schemas.export import Quantization

Rows = NDArray[np.float32]
Bytes = NDArray[np.uint8]
GROUP = 32
"""Numbers that share a scale."""
CACHED = 1 << 16
"""Numbers encoded at a time: their fp32 and scratch arrays fit a core's second-level cache."""
BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0)).view(np.uint32)
SIGN = np.uint32(1 << 31)
FILE_TYPES: dict[Quantization, tuple[TensorType, LlamaFileType]] = {
    "f32": (TensorType.F32, LlamaFileType.ALL_F32),
    "f16": (TensorType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (TensorType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (TensorType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (TensorType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "mxfp4": (TensorType.MXFP4, LlamaFileType.MOSTLY_MXFP4_MOE),
}
"""Formats written here: of most tensors, and llama.cpp's name for such a file."""


def tensor_type(name: str, shape: tuple[int, ...], quantization: Quantization, *, tied: bool) -> TensorType:
    """The number format of one tensor.

    As llama.cpp's own quantiser has it: vectors stay fp32; the output matrix (the embeddings, where the
    model uses them for both) of a 4-bit file gets a finer format, here Q8_0; a row that is no multiple of 32
    gets fp16.

    Args:
        name: GGUF name.
        shape: Output rows first.
        quantization: One of `FILE_TYPES`.
        tied: Whether the embeddings are also the output matrix.
    """
    most = FILE_TYPES[quantization][0]
    if len(shape) < 2 or not name.endswith(".weight"):
        return TensorType.F32
    if most in (TensorType.Q8_0, TensorType.Q4_0, TensorType.MXFP4) and shape[-1] % GROUP:
        return TensorType.F16
    output = name == "output.weight" or (tied and name == "token_embd.weight")
    if output and most in (TensorType.Q4_0, TensorType.MXFP4):
        return TensorType.Q8_0
    if name == "token_embd.weight" and most is TensorType.MXFP4:
        return TensorType.Q8_0
    return most


def encoded_bytes(shape: tuple[int, ...], kind: TensorType) -> int:
    """Size of a tensor in a format."""
    group, size = GGML_QUANT_SIZES[kind]
    return math.prod(shape) // group * size


def encode(rows: Rows | NDArray[np.float16], kind: TensorType) -> Bytes:
    """The bytes of whole rows, one after the other; float16 rows for F16 only.

    Raises:
        ModelError: a number too large for fp16.
    """
    flat = np.ascontiguousarray(rows).reshape(-1)
    if kind is TensorType.F16:
        half = flat if flat.dtype == np.float16 else to_half(flat.astype(np.float32, copy=False))
        return half.astype("<f2", copy=False).view(np.uint8)
    numbers: Rows = flat.astype("<f4", copy=False)
    if kind is TensorType.F32:
        return numbers.view(np.uint8)
    group, size = GGML_QUANT_SIZES[kind]
    out = np.empty(numbers.size // group * size, np.uint8)
    step = CACHED // group * size
    for start in range(0, numbers.size, CACHED):
        place = start // CACHED * step
        ENCODERS[kind](numbers[start : start + CACHED], out[place : place + step])
    return out


def _bf16(numbers: Rows, out: Bytes) -> None:
    bits = numbers.view(np.uint32)
    # to the nearest, halves to even; adding cannot overflow but for a NaN, which is kept as a quiet one
    rounded = ((bits >> 16) & 1) + np.uint32(0x7FFF) + bits
    nan = np.isnan(numbers)
    if nan.any():
        rounded[nan] = bits[nan] | np.uint32(0x400000)
    np.right_shift(rounded, 16, out=out.view("<u2"), casting="unsafe")


def _largest(groups: Rows) -> Rows:
    """Largest magnitude of each group, (n,)."""
    size = np.abs(groups)
    half = np.maximum(size[:, : GROUP // 2], size[:, GROUP // 2 :])
    # maxima along a short row are slow in numpy, those along a long column are not
    largest: Rows = np.ascontiguousarray(half.T).max(axis=0)
    return largest


def _inverse(scale: Rows) -> Rows:
    """1/scale; 0 where a scale is too small for its inverse to exist, and so far too small for fp16."""
    usable = np.abs(scale) >= np.finfo(np.float32).tiny
    inverse: Rows = np.zeros_like(scale)
    np.divide(np.float32(1), scale, out=inverse, where=usable)
    return inverse


def _q8_0(numbers: Rows, out: Bytes) -> None:
    groups, blocks = numbers.reshape(-1, GROUP), out.reshape(-1, 2 + GROUP)
    scale = _largest(groups) / np.float32(127)
    blocks[:, :2] = scale.astype("<f2").view(np.uint8).reshape(-1, 2)
    scaled = groups * _inverse(scale)[:, None]
    # halves away from zero: just under a half, with the number's sign, is added; the cast cuts off the rest
    half = scaled.view(np.uint32) & SIGN
    half |= BELOW_HALF
    scaled += half.view(np.float32)
    np.copyto(blocks[:, 2:].view(np.int8), scaled, casting="unsafe")


def _q4_0(numbers: Rows, out: Bytes) -> None:
    groups, blocks = numbers.reshape(-1, GROUP), out.reshape(-1, 2 + GROUP // 2)
    scale = _first_largest(groups) / np.float32(-8)
    blocks[:, :2] = scale.astype("<f2").view(np.uint8).reshape(-1, 2)
    scaled = groups * _inverse(scale)[:, None]
    scaled += np.float32(8.5)
    _pack(np.minimum(scaled, np.float32(15)).astype(np.uint8), blocks[:, 2:])


def _first_largest(groups: Rows) -> Rows:
    """The number of largest magnitude in each group, with its sign; of equals the first."""
    columns = np.ascontiguousarray(groups.T)
    high, low = columns.max(axis=0), columns.min(axis=0)
    chosen: Rows = np.where(high > -low, high, low)
    doubtful = np.flatnonzero(high == -low)
    if doubtful.size:
        some = groups[doubtful]
        chosen[doubtful] = some[np.arange(len(some)), np.abs(some).argmax(axis=1)]
    return chosen


def _pack(nibbles: Bytes, out: Bytes) -> None:
    """Two 4-bit numbers to a byte: the first half of the group in the lower bits, the second in the upper."""
    half = GROUP // 2
    np.bitwise_or(nibbles[:, :half], nibbles[:, half:] << np.uint8(4), out=out)


STEPS = tuple(np.float32(step) for step in (0.5, 1.5, 2.5, 3.5, 5, 7, 10))
"""Halfway between the magnitudes 0, 1, 2, 3, 4, 6, 8, 12 of a 4-bit float; at a tie the smaller one."""


def _mxfp4(numbers: Rows, out: Bytes) -> None:
    groups, blocks = numbers.reshape(-1, GROUP), out.reshape(-1, 1 + GROUP // 2)
    largest = _largest(groups)
    with np.errstate(divide="ignore"):
        exponent = np.where(largest > 0, np.floor(np.log2(largest)) - 2 + 127, 0)
    blocks[:, 0] = exponent = np.maximum(exponent, 0).astype(np.uint8)
    # half of 2 ** (exponent - 127), exact; comparisons with its multiples are exact, too
    unit = np.ldexp(np.float32(1), exponent.astype(np.int32) - 128).astype(np.float32)[:, None]
    size = np.abs(groups)
    index = np.zeros(groups.shape, np.uint8)
    for step in STEPS:
        index += size > unit * step
    negative = (groups < 0) & (index > 0)
    index += negative.view(np.uint8) << np.uint8(3)
    _pack(index, blocks[:, 1:])


ENCODERS: dict[TensorType, Callable[[Rows, Bytes], None]] = {
    TensorType.BF16: _bf16,
    TensorType.Q8_0: _q8_0,
    TensorType.Q4_0: _q4_0,
    TensorType.MXFP4: _mxfp4,
}
