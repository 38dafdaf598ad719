"""Will the chosen exports work? Said before training, from the base model's files alone.

Light on purpose: services ask here, so no numpy, no gguf, no torch.
"""

from __future__ import annotations

import importlib.util
import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from finetuneflow.errors import FineTuneFlowError, ModelError
from finetuneflow.export.gguf import architectures_config as architectures
from finetuneflow.export.gguf import tokenizer as gguf_tokenizer
from finetuneflow.export.gguf.llama_quantize import find_program
from finetuneflow.modeling.locate import read_config, weight_files
from finetuneflow.schemas.export import ExportKind, Preflight, PreflightCheck, Quantization

EMBEDDINGS = ("embed_tokens", "lm_head")
BITS: dict[Quantization, float] = {
    "f32": 32,
    "f16": 16,
    "bf16": 16,
    "q8_0": 8.5,
    "q4_0": 4.5,
    "mxfp4": 4.25,
    "q3_k_m": 4,
    "q4_k_s": 4.7,
    "q4_k_m": 5,
    "q5_k_s": 5.6,
    "q5_k_m": 5.8,
    "q6_k": 6.6,
}
"""Bits per weight, rounded up."""
WEIGHT_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8}
MAX_HEADER_BYTES = 100_000_000
PADDING = 1.02
"""Vocabulary, chat template and alignment, over the weights alone."""


def check(
    folder: Path | None,
    *,
    reference: str,
    kinds: Sequence[ExportKind],
    method: str,
    target_modules: Sequence[str] | Literal["all-linear"],
    modules_to_save: Sequence[str],
    quantization: Quantization,
    free_bytes: int,
) -> Preflight:
    """What each chosen export needs, and whether it is there.

    Args:
        folder: The base model; None while it has to be fetched: then only what the recipe says is checked.
        reference: What the user calls it.
        kinds: What is to be written.
        method: `lora`, `full` or `head`.
        target_modules: Linear layers that an adapter changes.
        modules_to_save: Layers that are trained and kept whole beside an adapter.
        quantization: Number format of a GGUF file.
        free_bytes: Room on the disk of the exports.
    """
    served = {"gguf", "gguf-adapter"} & set(kinds)
    checks = _method_checks(kinds, method, modules_to_save)
    if served:
        checks += [_try("quantization", lambda: _quantization(kinds, quantization)), _runtime()]
    if folder is None:
        message = f"`{reference}` is not on this machine yet; its files are checked once it is"
        checks.append(PreflightCheck(name="model", ok=True, message=message))
    else:
        config, place = read_config(folder), folder
        checks.append(_embeddings(config, method, target_modules, modules_to_save))
        if served:
            checks.append(_try("architecture", lambda: _architecture(place, config)))
            checks.append(_try("tokenizer", lambda: _tokenizer(place, config)))
        checks.append(_try("disk", lambda: _disk(place, kinds, quantization, free_bytes)))
    return Preflight(ok=all(one.ok for one in checks), checks=checks)


def _try(name: str, look: Callable[[], str]) -> PreflightCheck:
    try:
        return PreflightCheck(name=name, ok=True, message=look())
    except FineTuneFlowError as error:
        return PreflightCheck(name=name, ok=False, message=error.message, hint=error.hint)


def _method_checks(
    kinds: Sequence[ExportKind], method: str, modules_to_save: Sequence[str]
) -> list[PreflightCheck]:
    adapters = [kind for kind in kinds if kind in ("adapter", "gguf-adapter")]
    if adapters and method != "lora":
        message = f"method `{method}` makes no adapter, so `{adapters[0]}` cannot be exported"
        hint = "export `merged` or `gguf`, or train with `method: lora`"
        return [PreflightCheck(name="adapter", ok=False, message=message, hint=hint)]
    if "gguf-adapter" in kinds and modules_to_save:
        message = f"an adapter in GGUF cannot hold `modules_to_save` ({', '.join(modules_to_save)})"
        hint = "export `gguf`, which holds the whole model, or leave `modules_to_save` out"
        return [PreflightCheck(name="adapter", ok=False, message=message, hint=hint)]
    return []


def _embeddings(
    config: dict[str, Any],
    method: str,
    target_modules: Sequence[str] | Literal["all-linear"],
    modules_to_save: Sequence[str],
) -> PreflightCheck:
    """Tied embeddings are one matrix in two places: an adapter that changes one place cannot be merged."""
    named = () if target_modules == "all-linear" else target_modules
    changed = [name for name in EMBEDDINGS if any(part.endswith(name) for part in (*named, *modules_to_save))]
    if method == "lora" and changed and _tied(config):
        return PreflightCheck(
            name="embeddings",
            ok=False,
            message=f"the adapter changes `{changed[0]}`, which this model shares with its other end",
            hint="leave `embed_tokens` and `lm_head` out of `target_modules` and `modules_to_save`",
        )
    return PreflightCheck(name="embeddings", ok=True, message="shared" if _tied(config) else "apart")


def _tied(config: dict[str, Any]) -> bool:
    family = architectures.families().get(str(config.get("model_type")))
    if "tie_word_embeddings" in config or family is None:
        return bool(config.get("tie_word_embeddings"))
    return bool(family.defaults.get("tie_word_embeddings"))


def _architecture(folder: Path, config: dict[str, Any]) -> str:
    family = architectures.family_of(config)
    for tensor, _ in _stored(folder):
        architectures.tensor_name(family, tensor, config)
    context = architectures.context_length(family, config)
    longest = int(architectures.setting(family, config, "max_position_embeddings"))
    cut = f"; contexts end at {context:,} tokens: llama.cpp computes longer ones otherwise"
    shorter = cut if context < longest else ""
    return f"`{family.model_type}` is llama.cpp's `{family.name}`{shorter}"


def _tokenizer(folder: Path, config: dict[str, Any]) -> str:
    fields = {field.key: field.value for field in gguf_tokenizer.tokenizer_fields(folder, config)}
    kind = "byte-level BPE" if fields["tokenizer.ggml.model"] == "gpt2" else "SentencePiece"
    end = fields["tokenizer.ggml.tokens"][fields["tokenizer.ggml.eos_token_id"]]
    return f"{kind}, `{fields['tokenizer.ggml.pre']}`; `{end}` ends an answer"


def _quantization(kinds: Sequence[ExportKind], quantization: Quantization) -> str:
    if "_k" in quantization and "gguf" in kinds:
        return f"`{quantization}` by `{find_program(quantization)}`"
    return f"`{quantization}`"


def _runtime() -> PreflightCheck:
    missing = [name for name in ("gguf", "xllamacpp") if importlib.util.find_spec(name) is None]
    return PreflightCheck(
        name="runtime",
        ok=not missing,
        message=f"`{missing[0]}` is not installed" if missing else "llama.cpp answers here",
        hint='pip install "finetuneflow[export]"' if missing else "",
    )


def _disk(folder: Path, kinds: Sequence[ExportKind], quantization: Quantization, free_bytes: int) -> str:
    weights = stored_bytes = 0
    for _, (count, size) in _stored(folder):
        weights += count
        stored_bytes += size
    sizes = {"merged": stored_bytes, "gguf": 0}
    if "gguf" in kinds:
        bits = BITS[quantization] + (BITS["f16"] if "_k" in quantization else 0)
        sizes["gguf"] = math.ceil(weights * bits / 8 * PADDING)
    needed = sum(size for kind, size in sizes.items() if kind in kinds)
    if "zip" in kinds:
        needed *= 2
    if needed > free_bytes:
        raise ModelError(
            f"the exports need about {_gigabytes(needed)}, and {_gigabytes(free_bytes)} are free",
            "free some space, export fewer kinds, or choose a smaller `quantization`",
        )
    return f"about {_gigabytes(needed)} of {_gigabytes(free_bytes)}"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def _stored(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Each tensor's name, with its number of weights and its bytes, from the headers alone."""
    for path in weight_files(folder):
        with path.open("rb") as file:
            start = file.read(8)
            size = struct.unpack("<Q", start)[0] if len(start) == 8 else MAX_HEADER_BYTES + 1
            header = file.read(size) if size <= MAX_HEADER_BYTES else b""
        try:
            entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
            for name, entry in entries.items():
                count = math.prod(entry["shape"])
                yield name, (count, count * WEIGHT_BITS.get(entry["dtype"], 32) // 8)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(
                f"`{path}` is not a safetensors file", "the download may be incomplete"
            ) from error
