"""A GGUF file from a transformers folder: rows are read, converted, hashed, written, a few MiB at a time."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gguf import GGML_QUANT_VERSION
from gguf import GGMLQuantizationType as TensorType
from numpy.typing import NDArray

from finetuneflow.artifacts import atomic_write, disk_errors, sha256_file
from finetuneflow.errors import ModelError, StorageError
from finetuneflow.export.gguf.architectures import Architecture, Field, TensorRule, architecture_of
from finetuneflow.export.gguf.checked_writer import CheckedWriter
from finetuneflow.export.gguf.header import Place, header_bytes, padded
from finetuneflow.export.gguf.llama_quantize import find_program, quantize
from finetuneflow.export.gguf.quantize import FILE_TYPES, encode, encoded_bytes, tensor_type
from finetuneflow.export.gguf.tokenizer import model_name, tokenizer_fields
from finetuneflow.export.gguf.weights import Weights, open_weights
from finetuneflow.schemas.export import Quantization

PIECE = 1 << 20
"""Numbers converted at a time, about."""
WORKERS = 2
WAITING = 6
"""Pieces converted or under way before the oldest is written."""
Progress = Callable[[int, int], None]
Read = Callable[[int, int], NDArray[np.float32] | NDArray[np.float16]]


class WrittenGguf(NamedTuple):
    """A finished GGUF file."""

    architecture: str
    """llama.cpp's name."""
    sha256: str
    size_bytes: int
    tensors: int


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file to be written."""

    name: str
    kind: TensorType
    shape: tuple[int, ...]
    read: Read
    """Rows [start, stop) in GGUF's layout."""
    row_multiple: int = 1
    """Rows can be had from multiples of this."""

    def place(self) -> Place:
        """What the header says of it."""
        return Place(self.name, self.shape, self.kind, self.size_bytes)

    @property
    def size_bytes(self) -> int:
        """Without the padding that follows."""
        return encoded_bytes(self.shape, self.kind)

    def pieces(self) -> Iterator[Callable[[], memoryview]]:
        """Functions that each give the bytes of some rows, in order."""
        rows = max(1, PIECE // math.prod(self.shape[1:]))
        rows = -(-rows // self.row_multiple) * self.row_multiple
        for start in range(0, self.shape[0], rows):
            yield partial(self._piece, start, min(start + rows, self.shape[0]))

    def _piece(self, start: int, stop: int) -> memoryview:
        return encode(self.read(start, stop), self.kind).data


def write_gguf(
    path: Path,
    folder: Path,
    *,
    adapter: Path | None = None,
    quantization: Quantization = "f16",
    name: str,
    on_progress: Progress | None = None,
    license: str | None = None,
) -> WrittenGguf:
    """Writes a model as one GGUF file, which appears whole and read back, or not at all.

    Args:
        path: The file; one that is there is replaced.
        folder: The base model, or a whole tuned one, as transformers saves it.
        adapter: A PEFT adapter to melt in, in fp32.
        quantization: Number format of the matrices.
        name: Of the model, for whoever lists the file's fields.
        on_progress: Called with bytes written and bytes in all. What it raises ends the work and leaves
            nothing behind.
        license: Goes into the file.

    Raises:
        ModelError: an architecture, tokenizer, weight or adapter that cannot be exported.
        DependencyError: a K-quant without the program `llama-quantize`.
        StorageError: not enough space, or the disk gave back other bytes than were written.
    """
    if quantization not in FILE_TYPES:
        again = partial(write_gguf, folder=folder, adapter=adapter, name=name, license=license)
        return _write_k_quant(path, quantization, again, on_progress)
    weights = open_weights(folder, adapter)
    architecture = architecture_of(weights.config)
    tensors = plan(weights, architecture, quantization)
    fields = [
        *general_fields(model_name(folder, name, tuned=adapter), quantization, license),
        *architecture.fields(weights.config),
        *tokenizer_fields(folder, weights.config, tuned=adapter),
    ]
    return write_tensors(path, architecture.name, fields, tensors, on_progress)


def _write_k_quant(
    path: Path, quantization: Quantization, write: Callable[..., WrittenGguf], on_progress: Progress | None
) -> WrittenGguf:
    """By way of an F16 file, which is gone afterwards; each half of the progress is one of the two."""
    program = find_program(quantization)

    def second_half(tensor: int, tensors: int) -> None:
        if on_progress:
            total = 2 * size
            on_progress(total + total * tensor // tensors, 2 * total)

    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".f16.") as folder:
            source = Path(folder) / "f16.gguf"
            first_half = (lambda done, total: on_progress(done, 2 * total)) if on_progress else None
            written = write(source, on_progress=first_half)
            size = written.size_bytes
            quantize(program, source, path, quantization, second_half)
    return written._replace(sha256=sha256_file(path), size_bytes=path.stat().st_size)


def general_fields(name: str, quantization: Quantization, license: str | None) -> list[Field]:
    """What the file says about itself."""
    fields = [
        Field("general.type", "model", "STRING"),
        Field("general.name", name, "STRING"),
        Field("general.file_type", int(FILE_TYPES[quantization][1]), "UINT32"),
        Field("general.quantization_version", GGML_QUANT_VERSION, "UINT32"),
    ]
    return [*fields, Field("general.license", license, "STRING")] if license else fields


def plan(weights: Weights, architecture: Architecture, quantization: Quantization) -> list[Tensor]:
    """The tensors of the file, in the order of the stored weights.

    Raises:
        ModelError: a tensor that the architecture does not have, or that is not floating point.
    """
    config = weights.config
    rules = {name: architecture.tensor(name, config) for name in weights.names()}
    kept = {name: rule for name, rule in rules.items() if rule is not None}
    tied = all(rule.name != "output.weight" for rule in kept.values())
    tensors = {
        extra: Tensor(extra, TensorType.F32, values.shape, partial(rows_of, values))
        for extra, values in architecture.extra_tensors(config).items()
    }
    for name, rule in kept.items():
        weights.stored_bytes(name)
        if rule.name in tensors:
            raise ModelError(f"`{name}` and another tensor both become `{rule.name}`", "check the weights")
        shape = weights.shape(name)
        kind = tensor_type(rule.name, shape, quantization, tied=tied)
        multiple = rule.row_multiple if rule.by_rows else shape[0]
        read: Read = partial(_rows, weights, name, rule)
        if kind is TensorType.F16 and rule.transform is None:
            read = partial(weights.read_half, name)
        tensors[rule.name] = Tensor(rule.name, kind, shape, read, multiple)
    return list(tensors.values())


def _rows(weights: Weights, name: str, rule: TensorRule, start: int, stop: int) -> NDArray[np.float32]:
    rows = weights.read(name, start, stop)
    if rule.transform is None:
        return rows
    moved: NDArray[np.float32] = rule.transform(rows)
    return moved


def rows_of(values: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
    """Rows [start, stop) of a matrix in memory."""
    return values[start:stop]


def write_tensors(
    path: Path,
    architecture: str,
    fields: list[Field],
    tensors: list[Tensor],
    on_progress: Progress | None = None,
) -> WrittenGguf:
    """Writes a GGUF file of these fields and tensors; reads it back before it takes its name.

    Raises:
        StorageError: not enough space, or the disk gave back other bytes than were written.
        ModelError: weights that cannot be read or held in their format.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        header = header_bytes(architecture, fields, [tensor.place() for tensor in tensors])
        size = len(header) + sum(padded(tensor.size_bytes) for tensor in tensors)
        _check_space(path, size)
    with atomic_write(path, binary=True) as file, CheckedWriter(file, size, on_progress) as output:
        output.write(header)
        for data in _converted(tensors):
            output.write(data)
        digest = output.finish()
    return WrittenGguf(architecture, digest, size, len(tensors))


def _check_space(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise StorageError(
            f"`{path.name}` needs {size / 1e9:.1f} GB and only {free / 1e9:.1f} GB are free",
            "free some space, or choose a smaller `--quantization`",
        )


def _converted(tensors: list[Tensor]) -> Iterator[memoryview]:
    """The data of all tensors in order, padding included; some pieces ahead are converted meanwhile."""
    waiting: deque[Future[memoryview] | memoryview] = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            for tensor in tensors:
                for piece in tensor.pieces():
                    waiting.append(pool.submit(piece))
                    if len(waiting) >= WAITING:
                        yield _result(waiting.popleft())
                waiting.append(memoryview(bytes(padded(tensor.size_bytes) - tensor.size_bytes)))
            while waiting:
                yield _result(waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _result(piece: Future[memoryview] | memoryview) -> memoryview:
    return piece if isinstance(piece, memoryview) else piece.result()
