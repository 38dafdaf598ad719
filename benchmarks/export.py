"""Speed and memory of the GGUF export at the size of a real model: `python benchmarks/export.py [folder]`.

A model of the shape of Llama 3.2 1B (1.24 billion parameters, a vocabulary of 128,256, bf16 in two shards) is
made of random numbers in a folder of its own, exported to F16 and to Q8_0 in processes of their own, and
deleted. It needs 8 GB of disk for some minutes.

Times are those of the whole `write_gguf`: reading (the input is dropped from the cache before), converting,
hashing, writing, fsync, and reading back from the disk. The disk's own speed is that of as many random bytes
written in order, fsync included, before, between and after; the best of the three counts.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from finetuneflow.export.gguf.file import write_gguf

GB = 1e9
BLOCK = 8 << 20
MAX_EXTRA_BYTES = 2 * GB
DISK_SHARE = 0.5
Q8_0_INPUT_RATE = 200e6
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "dtype": "bfloat16",
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "rope_type": "llama3",
    },
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
SPECIAL = 256
KINDS = ("VmHWM", "RssAnon", "RssFile", "RssShmem")
"""All kinds of resident memory together at their peak; the process's own, mapped files, shared buffers."""
LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def tensors(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes as transformers has them."""
    yield "model.embed_tokens.weight", (128256, 2048)
    for layer in range(layers):
        block = f"model.layers.{layer}."
        for name, shape in {
            "input_layernorm": (2048,),
            "post_attention_layernorm": (2048,),
            "self_attn.q_proj": (2048, 2048),
            "self_attn.k_proj": (512, 2048),
            "self_attn.v_proj": (512, 2048),
            "self_attn.o_proj": (2048, 2048),
            "mlp.gate_proj": (8192, 2048),
            "mlp.up_proj": (8192, 2048),
            "mlp.down_proj": (2048, 8192),
        }.items():
            yield f"{block}{name}.weight", shape
    yield "model.norm.weight", (2048,)


def write_model(folder: Path, layers: int) -> int:
    """Makes the model; gives the size of its weights in bytes."""
    every = list(tensors(layers))
    half = len(every) // 3
    generator = np.random.default_rng(0)
    total, weight_map = 0, {}
    for number, shard in enumerate((every[:half], every[half:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        header, end = {}, 0
        for name, shape in shard:
            size = 2 * int(np.prod(shape))
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
            end += size
            weight_map[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for _, shape in shard:
                left = int(np.prod(shape))
                while left:
                    numbers = generator.standard_normal(min(left, 1 << 22), dtype=np.float32) * np.float32(
                        0.02
                    )
                    out.write((numbers.view(np.uint32) >> 16).astype(np.uint16).data)
                    left -= numbers.size
            out.flush()
            os.fsync(out.fileno())
        total += end
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    config = CONFIG | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_tokenizer(folder)
    return total


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer of the structure of Llama 3's, with made-up merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]
    known, merges = dict.fromkeys(letters), []
    for left in iter(lambda: list(known), None):
        for one in left:
            for other in letters:
                if len(known) < CONFIG["vocab_size"] - SPECIAL and one + other not in known:
                    known[one + other] = None
                    merges.append([one, other])
        if len(known) == CONFIG["vocab_size"] - SPECIAL:
            break
    names = {
        0: "begin_of_text",
        1: "end_of_text",
        6: "start_header_id",
        7: "end_header_id",
        8: "eom_id",
        9: "eot_id",
    }
    added = [
        {
            "id": len(known) + number,
            "content": f"<|{names.get(number, f'reserved_special_token_{number}')}|>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number in range(SPECIAL)
    ]
    split = {"type": "Split", "pattern": {"Regex": LLAMA_3_SPLIT}, "behavior": "Isolated", "invert": False}
    levels = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, levels]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                "<|begin_of_text|>": {
                    "id": "<|begin_of_text|>",
                    "ids": [128000],
                    "tokens": ["<|begin_of_text|>"],
                }
            },
        },
        "decoder": levels | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {token: number for number, token in enumerate(known)},
            "merges": merges,
        },
    }
    special = {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(special), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")


def disk_rate(folder: Path, size: int, *, direct: bool = False) -> float:
    """Bytes a second of writing `size` random bytes in order, fsync included; `direct`: past the cache."""
    path = folder / "disk"
    with mmap.mmap(-1, BLOCK) as block:  # aligned, which direct writes ask for
        block.write(np.random.default_rng(1).bytes(BLOCK))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | (os.O_DIRECT if direct else 0)
        started = time.perf_counter()
        descriptor = os.open(path, flags)
        for _ in range(size // BLOCK):
            os.write(descriptor, block)
        os.fsync(descriptor)
        os.close(descriptor)
        seconds = time.perf_counter() - started
    path.unlink()
    return size // BLOCK * BLOCK / seconds


def disk_rates(folder: Path, size: int) -> tuple[float, float]:
    """Through the cache as programs write, and past it."""
    through, past = disk_rate(folder, size), disk_rate(folder, size, direct=True)
    print(f"disk: {through / 1e6:.0f} MB/s through the cache, {past / 1e6:.0f} MB/s past it", flush=True)
    return through, past


def memory() -> dict[str, int]:
    """Resident memory of this process in bytes: the peak of all kinds together, and each kind now."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(":", 1) for line in lines)
    return {key: int(value.split()[0]) * 1024 for key, value in pairs if key in KINDS}


@contextmanager
def sampled() -> Iterator[dict[str, int]]:
    """The highest of each kind of memory, looked at fifty times a second."""
    peak, stop = memory(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            for key, value in memory().items():
                peak[key] = max(peak[key], value)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def child(model: Path, target: Path, quantization: str) -> None:
    """One export in a process of its own; says what it cost, as JSON."""
    with sampled() as peak:
        started = time.perf_counter()
        before = sum(os.times()[:2])
        written = write_gguf(target, model, quantization=quantization, name="benchmark")  # type: ignore[arg-type]
        seconds = time.perf_counter() - started
        cpu = sum(os.times()[:2]) - before
    peak["VmHWM"] = memory()["VmHWM"]
    cost = {"seconds": seconds, "cpu": cpu, "size": written.size_bytes, "peak": peak}
    print(json.dumps(cost))


def export(model: Path, target: Path, quantization: str) -> dict[str, Any]:
    """What `child` says, of a fresh interpreter; the file is deleted."""
    for path in model.glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, __file__, "--child", str(model), str(target), quantization]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    target.unlink()
    found: dict[str, Any] = json.loads(said)
    return found


def interpreter_bytes() -> int:
    """Resident memory of a Python that has done nothing."""
    code = "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout  # noqa: S603
    return int(said) * 1024


def row(name: str, value: str, promise: str, kept: bool) -> bool:
    """Prints one line of the result; gives whether the promise was kept."""
    print(f"{name:<44} {value:>28}   promised {promise:<22} {'kept' if kept else 'BROKEN'}", flush=True)
    return kept


def measure(folder: Path, layers: int) -> bool:
    """Makes the model, exports it, prints the figures; whether every promise was kept."""
    model = folder / "model"
    model.mkdir()
    size = write_model(model, layers)
    print(f"{size / 2e6:,.0f} million parameters, {size / GB:.2f} GB in bf16, {os.cpu_count()} cores")
    bare, disk, kept, found = interpreter_bytes(), [disk_rates(folder, size)], [], {}
    for format_ in ("f16", "q8_0"):
        found[format_] = export(model, folder / "model.gguf", format_)
        tell(format_, found[format_], bare)
        disk.append(disk_rates(folder, size))
    for format_, result in found.items():
        extra = result["peak"]["VmHWM"] - bare
        name = f"{format_}: peak memory above the interpreter"
        kept.append(row(name, f"{extra / 1e6:.0f} MB", "< 2000 MB", extra < MAX_EXTRA_BYTES))
    rate, best = found["f16"]["size"] / found["f16"]["seconds"], max(through for through, _ in disk)
    value = f"{rate / 1e6:.0f} MB/s = {rate / best:.2f} of disk"
    kept.append(row("f16: output, start to read back", value, ">= 0.50 of disk", rate >= DISK_SHARE * best))
    rate = size / found["q8_0"]["seconds"]
    value = f"{rate / 1e6:.0f} MB/s"
    kept.append(row("q8_0: input, start to read back", value, ">= 200 MB/s", rate >= Q8_0_INPUT_RATE))
    return all(kept)


def tell(format_: str, result: dict[str, Any], bare: int) -> None:
    """Prints what one export cost."""
    peak, mega = result["peak"], 1e6
    print(
        f"{format_}: {result['seconds']:.1f} s and {result['cpu']:.1f} s of CPU for "
        f"{result['size'] / GB:.2f} GB, load {os.getloadavg()[0]:.1f}; peak resident "
        f"{peak['VmHWM'] / mega:.0f} MB, of it anonymous {peak['RssAnon'] / mega:.0f}, shared "
        f"buffers {peak['RssShmem'] / mega:.0f}, mapped files {peak['RssFile'] / mega:.0f}; "
        f"a bare interpreter {bare / mega:.0f}",
        flush=True,
    )


def main() -> int:
    """Measures and gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="where to work, on the disk to measure")
    parser.add_argument(
        "--layers", type=int, default=CONFIG["num_hidden_layers"], help="fewer for a quick look"
    )
    parser.add_argument("--child", nargs=3, metavar=("MODEL", "TARGET", "FORMAT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        model, target, quantization = arguments.child
        child(Path(model), Path(target), quantization)
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="export-benchmark-") as folder:
        return int(not measure(Path(folder), arguments.layers))


if __name__ == "__main__":
    sys.exit(main())
