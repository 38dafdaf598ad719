"""Tensors of safetensors files as float32 rows: read in pieces from any thread, never mapped, never whole."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetuneflow.errors import ModelError

ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4}
MAX_HEADER_BYTES = 100 << 20
CACHED = 1 << 16
"""Numbers looked up at a time: `take` makes indices of eight bytes, which shall stay in the cache."""
BEYOND_HALF = 0x4780
"""65536 in bf16: the first magnitude that float16 cannot hold; infinite and undefined numbers come after."""


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies."""

    path: Path
    name: str
    dtype: str
    """safetensors' name of the number format."""
    shape: tuple[int, ...]
    offset: int
    """First byte, from the start of the file."""
    size_bytes: int

    def check(self) -> None:
        """Refuses a number format that is not plain floating point.

        Raises:
            ModelError: integers, 8-bit floats or packed bits.
        """
        if self.dtype not in ITEM_BYTES:
            raise ModelError(
                f"`{self.name}` in `{self.path.name}` is stored as {self.dtype}",
                "weights in bf16, f16 or f32 can be exported: give the model that is not quantised",
            )

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows [start, stop) as float32, writable.

        Raises:
            ModelError: the file ends early, or holds another number format.
        """
        raw = self._read_raw(start, stop)
        return _as_float32(raw, self.dtype).reshape(-1, *self.shape[1:])

    def read_half(self, first: int = 0, stop: int | None = None) -> NDArray[np.float16]:
        """Rows [first, stop) as float16; the same as `read` and a cast, in half the time.

        Raises:
            ModelError: as `read`, and for numbers beyond the range of float16.
        """
        if self.dtype != "BF16":
            return to_half(self.read(first, stop))
        bits = self._read_raw(first, stop).view("<u2")
        if bits.size and (bits & 0x7FFF).max() >= BEYOND_HALF:
            raise beyond_half()
        half = np.empty(bits.shape, np.float16)
        for start in range(0, bits.size, CACHED):
            block = slice(start, start + CACHED)
            _half_of_bf16().take(bits[block], mode="clip", out=half[block])
        return half.reshape(-1, *self.shape[1:])

    def _read_raw(self, start: int, stop: int | None) -> NDArray[np.uint8]:
        self.check()
        stop = self.shape[0] if stop is None else stop
        row = math.prod(self.shape[1:]) * ITEM_BYTES[self.dtype]
        raw = np.empty((stop - start) * row, np.uint8)
        # each read opens the file anew: no shared position between threads, no handle left open
        with self.path.open("rb", buffering=0) as file:
            whole = read_at(file.fileno(), raw, self.offset + start * row)
        if not whole:
            raise ModelError(
                f"`{self.path}` ends before `{self.name}` does", "the download may be incomplete"
            )
        return raw


def read_at(descriptor: int, raw: NDArray[np.uint8], offset: int) -> bool:
    """Fills an array from a file; False when the file ends before.

    The system's cache is left as it was found: a model larger than what is free would drive everything else
    out, and pages that are used again cost less than new ones (several times less in virtual machines).
    """
    last = offset + raw.size - 1
    passing = sys.platform == "linux" and not _cached(descriptor, last)
    left, place = memoryview(raw.data), offset
    while left:
        count = os.preadv(descriptor, [left], place)
        if not count:
            return False
        left, place = left[count:], place + count
    if passing:
        os.posix_fadvise(descriptor, offset, raw.size, os.POSIX_FADV_DONTNEED)
    return True


def _cached(descriptor: int, offset: int) -> bool:
    """Whether a byte of a file is in memory already; True where the system cannot say."""
    try:
        return bool(os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT))
    except BlockingIOError:
        return False
    except OSError:
        return True


def to_half(numbers: NDArray[np.float32]) -> NDArray[np.float16]:
    """The nearest float16 of each number.

    Raises:
        ModelError: a number beyond the range of float16.
    """
    with np.errstate(over="raise"):
        try:
            return numbers.astype(np.float16)
        except FloatingPointError as error:
            raise beyond_half() from error


def beyond_half() -> ModelError:
    """What is said of weights that float16 cannot hold."""
    return ModelError(
        "the weights have numbers beyond the range of F16 (65504)",
        "export with `--quantization bf16` or `f32`",
    )


@cache
def _half_of_bf16() -> NDArray[np.float16]:
    """The float16 of every bf16, by its bits."""
    bits = np.arange(1 << 16, dtype=np.uint32) << 16
    with np.errstate(over="ignore", invalid="ignore"):
        return bits.view(np.float32).astype(np.float16)


def _as_float32(raw: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    if dtype == "F32":
        return raw.view("<f4").astype(np.float32, copy=False)
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    # bf16 is the upper half of an fp32
    wide: NDArray[np.uint32] = raw.view("<u2").astype(np.uint32)
    np.left_shift(wide, 16, out=wide)
    return wide.view(np.float32)


def open_tensors(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of one safetensors file by name, in the order in which they are stored.

    Raises:
        ModelError: not a safetensors file, or cut short.
    """
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if header_bytes > MAX_HEADER_BYTES:
                raise ValueError("the header is too long")
            header = json.loads(file.read(header_bytes))
        size = path.stat().st_size
        found = [
            _stored(path, name, entry, 8 + header_bytes, size)
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"`{path}` is not a whole safetensors file: {str(error)[:200]}", "the download may be incomplete"
        ) from error
    return {tensor.name: tensor for tensor in sorted(found, key=lambda tensor: tensor.offset)}


def _stored(path: Path, name: str, entry: dict[str, Any], data: int, size: int) -> StoredTensor:
    dtype, shape = str(entry["dtype"]), tuple(int(length) for length in entry["shape"])
    begin, end = (int(offset) for offset in entry["data_offsets"])
    expected = math.prod(shape) * ITEM_BYTES[dtype] if dtype in ITEM_BYTES else end - begin
    if not 0 <= begin <= end or end - begin != expected:
        raise ValueError(f"`{name}` does not have the size of its shape")
    if data + end > size:
        raise ValueError(f"`{name}` lies beyond its end")
    return StoredTensor(path, name, dtype, shape, data + begin, end - begin)
