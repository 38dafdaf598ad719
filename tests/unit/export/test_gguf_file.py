"""The GGUF file: what another reader finds in it, and that it appears whole, checked, or not at all."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as TensorType
from gguf import GGUFReader, dequantize

from finetuneflow.artifacts import sha256_file
from finetuneflow.errors import DependencyError, ModelError, StorageError
from finetuneflow.export.gguf import checked_writer
from finetuneflow.export.gguf import file as gguf_file
from finetuneflow.export.gguf.architectures import Field
from finetuneflow.export.gguf.file import Tensor, WrittenGguf, rows_of, write_gguf, write_tensors
from finetuneflow.export.gguf.weights import open_weights
from finetuneflow.modeling.locate import embedded_folder
from finetuneflow.schemas.export import Quantization

TINY = embedded_folder("embedded:tiny")
STAND_IN = """#!/bin/sh
# Stands in for llama.cpp's llama-quantize in tests: says what that says, and copies its input.
echo "[   1/   2]  token_embd.weight - converting to $3 .. "
echo "[   2/   2]  output_norm.weight - f32"
{body}
"""


def tensor(name: str, values: np.ndarray, kind: str = "F32") -> Tensor:
    return Tensor(name, TensorType[kind], values.shape, lambda start, stop: rows_of(values, start, stop))


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((3000, 416)).astype(np.float32)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WrittenGguf]:
    path = tmp_path_factory.mktemp("f16") / "model.gguf"
    return path, write_gguf(path, TINY, name="Été 1", license="apache-2.0")


def test_another_reader_finds_fields_and_weights(written: tuple[Path, WrittenGguf]) -> None:
    path, result = written
    reader = GGUFReader(path)
    assert result.architecture == reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["general.name"].contents() == "Été 1"
    assert reader.fields["general.license"].contents() == "apache-2.0"
    assert reader.fields["general.file_type"].contents() == 1
    assert reader.fields["llama.block_count"].contents() == 5
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == 8192
    weights = open_weights(TINY)
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert len(found) == result.tensors == len(weights.names())
    embedding = found["token_embd.weight"]
    assert embedding.tensor_type is TensorType.F16
    expected = weights.read("model.embed_tokens.weight").astype(np.float16)
    assert np.array_equal(embedding.data, expected)
    norm = found["blk.3.ffn_norm.weight"]
    assert norm.tensor_type is TensorType.F32
    assert np.array_equal(norm.data, weights.read("model.layers.3.post_attention_layernorm.weight"))


def test_what_is_reported_is_what_lies_there(written: tuple[Path, WrittenGguf]) -> None:
    path, result = written
    assert result.sha256 == sha256_file(path)
    assert result.size_bytes == path.stat().st_size
    assert left_over(path.parent) == ["model.gguf"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_same_model_gives_the_same_bytes(written: tuple[Path, WrittenGguf], tmp_path: Path) -> None:
    again = write_gguf(tmp_path / "again.gguf", TINY, name="Été 1", license="apache-2.0")
    assert again == written[1]


@pytest.mark.parametrize(
    ("quantization", "most", "output", "tolerance"),
    [
        ("f32", "F32", "F32", 0.0),
        ("bf16", "BF16", "BF16", 0.0),
        ("q8_0", "Q8_0", "Q8_0", 0.01),
        ("q4_0", "Q4_0", "Q8_0", 0.14),
        ("mxfp4", "MXFP4", "Q8_0", 0.26),
    ],
)
def test_every_number_format_keeps_the_weights(
    tmp_path: Path, quantization: Quantization, most: str, output: str, tolerance: float
) -> None:
    write_gguf(tmp_path / "model.gguf", TINY, quantization=quantization, name="tiny")
    found = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "model.gguf").tensors}
    assert found["blk.0.ffn_up.weight"].tensor_type.name == most
    assert found["token_embd.weight"].tensor_type.name == output
    data = found["blk.0.ffn_up.weight"]
    back = dequantize(data.data, data.tensor_type)
    expected = open_weights(TINY).read("model.layers.0.mlp.up_proj.weight")
    largest = np.abs(expected.reshape(-1, 32)).max(axis=1, keepdims=True)
    assert np.abs((back - expected).reshape(-1, 32) / np.maximum(largest, 1e-9)).max() <= tolerance


def test_tensors_are_aligned_and_in_order_whatever_their_pieces(tmp_path: Path, values: np.ndarray) -> None:
    tensors = [tensor("odd", values[:7, :3]), tensor("large", values, "Q8_0"), tensor("one", values[0])]
    fields = [Field("a.text", "déjà", "STRING"), Field("a.list", ["é", ""], "ARRAY:STRING")]
    fields += [Field("a.flags", [True, False], "ARRAY:BOOL"), Field("a.real", 0.1, "FLOAT32")]
    write_tensors(tmp_path / "t.gguf", "test", fields, tensors)
    reader = GGUFReader(tmp_path / "t.gguf")
    assert [one.name for one in reader.tensors] == ["odd", "large", "one"]
    assert all(one.data_offset % 32 == 0 for one in reader.tensors)
    assert np.array_equal(reader.tensors[0].data, values[:7, :3])
    assert np.array_equal(reader.tensors[2].data, values[0])
    back = dequantize(reader.tensors[1].data, TensorType.Q8_0)
    assert np.abs(back - values).max() < 0.03
    assert reader.fields["a.list"].contents() == ["é", ""]
    assert reader.fields["a.flags"].contents() == [True, False]
    assert reader.fields["a.text"].contents() == "déjà"
    assert reader.fields["a.real"].contents() == pytest.approx(0.1)


def test_progress_grows_and_ends_at_the_size(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = write_gguf(
        tmp_path / "m.gguf", TINY, quantization="f32", name="t", on_progress=lambda *now: seen.append(now)
    )
    assert seen == sorted(seen)
    assert seen[-1] == (result.size_bytes, result.size_bytes)


def test_a_cancelled_export_leaves_nothing_and_keeps_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"older")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gguf(path, TINY, quantization="f32", name="tiny", on_progress=stop)
    assert left_over(tmp_path) == ["model.gguf"]
    assert path.read_bytes() == b"older"


@pytest.mark.parametrize("place", [10, 3 << 20, -1])
def test_a_byte_that_the_disk_flips_is_noticed(
    tmp_path: Path, values: np.ndarray, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    read = os.preadv
    size = write_tensors(tmp_path / "right.gguf", "test", [], [tensor("large", values)]).size_bytes

    def flipping(descriptor: int, buffers: list, offset: int) -> int:
        count = read(descriptor, buffers, offset)
        at = place % size - offset
        if 0 <= at < count:
            buffers[0][at] ^= 1
        return count

    monkeypatch.setattr(checked_writer.os, "preadv", flipping)
    with pytest.raises(StorageError, match="other bytes"):
        write_tensors(tmp_path / "wrong.gguf", "test", [], [tensor("large", values)])
    assert left_over(tmp_path) == ["right.gguf"]


def test_a_file_of_many_blocks_is_whole(
    tmp_path: Path, values: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_writer, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(gguf_file, "PIECE", 30_000)
    result = write_tensors(tmp_path / "t.gguf", "test", [], [tensor("large", values)])
    assert hashlib.sha256((tmp_path / "t.gguf").read_bytes()).hexdigest() == result.sha256
    assert np.array_equal(GGUFReader(tmp_path / "t.gguf").tensors[0].data, values)


class NoSpace:
    free = 1000


def refuse_direct(monkeypatch: pytest.MonkeyPatch, when: str) -> list[str]:
    """A file system that cannot pass by the cache: says so when a file is opened, or when it is written."""
    refused: list[str] = []
    opened, put = os.open, os.pwrite

    def refuse() -> None:
        refused.append(when)
        raise OSError(errno.EINVAL, "Invalid argument")

    def open_(path: Path, flags: int, *more: int) -> int:
        if when == "open" and flags & os.O_DIRECT:
            refuse()
        return opened(path, flags, *more)

    def pwrite(descriptor: int, data: memoryview, place: int) -> int:
        if when == "write" and not refused:
            refuse()
        return put(descriptor, data, place)

    monkeypatch.setattr(checked_writer.os, "open", open_)
    monkeypatch.setattr(checked_writer.os, "pwrite", pwrite)
    return refused


@pytest.mark.parametrize("when", ["open", "write"])
def test_a_file_system_that_cannot_pass_by_the_cache_gets_the_same_file(
    tmp_path: Path, values: np.ndarray, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(checked_writer, "BLOCK_BYTES", 1 << 20)
    right = write_tensors(tmp_path / "right.gguf", "test", [], [tensor("large", values)])
    refused = refuse_direct(monkeypatch, when)
    assert write_tensors(tmp_path / "other.gguf", "test", [], [tensor("large", values)]) == right
    assert refused
    assert (tmp_path / "other.gguf").read_bytes() == (tmp_path / "right.gguf").read_bytes()


def test_a_disk_that_fills_up_meanwhile_is_named(
    tmp_path: Path, values: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_writer.os, "pwrite", lambda descriptor, data, place: len(data) // 2)
    with pytest.raises(StorageError, match="the disk is full"):
        write_tensors(tmp_path / "t.gguf", "test", [], [tensor("large", values)])
    assert left_over(tmp_path) == []


def test_a_disk_without_space_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_file.shutil, "disk_usage", lambda path: NoSpace)
    with pytest.raises(StorageError, match=r"only 0\.0 GB are free"):
        write_gguf(tmp_path / "model.gguf", TINY, name="tiny")
    assert left_over(tmp_path) == []


def test_a_weight_beyond_fp16_leaves_nothing(tmp_path: Path, values: np.ndarray) -> None:
    with pytest.raises(ModelError, match="65504"):
        write_tensors(tmp_path / "t.gguf", "test", [], [tensor("large", values * 1e6, "F16")])
    assert left_over(tmp_path) == []


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A program in place of llama-quantize, which is not to be had from a package index."""

    def make(body: str) -> None:
        program = tmp_path / "bin" / "stand-in-for-llama-quantize"
        program.parent.mkdir()
        program.write_text(STAND_IN.format(body=body))
        program.chmod(0o755)
        monkeypatch.setenv("LLAMA_QUANTIZE", str(program))

    return make


def test_a_k_quant_is_made_by_the_program(tmp_path: Path, stand_in: Callable[[str], None]) -> None:
    stand_in('test "$3" = Q4_K_M && cp "$1" "$2"')
    seen: list[tuple[int, int]] = []
    path = tmp_path / "out" / "model.gguf"
    result = write_gguf(
        path, TINY, quantization="q4_k_m", name="tiny", on_progress=lambda *now: seen.append(now)
    )
    assert result.sha256 == sha256_file(path)
    assert result.size_bytes == path.stat().st_size
    assert left_over(path.parent) == ["model.gguf"]
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(
    "body", ["echo out of memory; exit 3", "true", "echo not a model > $2", 'head -c 999 "$1" > "$2"; exit 1']
)
def test_a_program_that_fails_leaves_nothing(
    tmp_path: Path, stand_in: Callable[[str], None], body: str
) -> None:
    stand_in(body)
    path = tmp_path / "out" / "model.gguf"
    with pytest.raises(ModelError, match="did not make a q6_k file"):
        write_gguf(path, TINY, quantization="q6_k", name="tiny")
    assert left_over(path.parent) == []


def test_a_missing_program_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLAMA_QUANTIZE", raising=False)
    with pytest.raises(DependencyError, match="llama-quantize") as caught:
        write_gguf(tmp_path / "out" / "model.gguf", TINY, quantization="q4_k_m", name="tiny")
    assert "LLAMA_QUANTIZE=" in caught.value.hint
    assert "q8_0" in caught.value.hint
    assert left_over(tmp_path) == []
