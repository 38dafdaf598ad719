"""Which device, which number format, how many threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["bf16", "fp32"]


def choose_device() -> torch.device:
    """CUDA when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_amx() -> bool:
    """Whether the CPU multiplies bf16 in tiles.

    There bf16 is about 7 times as fast as fp32, elsewhere about 12 times slower.
    """
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text(encoding="utf-8", errors="replace")


def choose_precision(requested: Literal["auto", "bf16", "fp32"], device: torch.device) -> Precision:
    """The number format to compute in; `auto` takes bf16 only where the hardware is fast at it."""
    if requested != "auto":
        return requested
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else has_amx()
    return "bf16" if fast else "fp32"


def torch_dtype(precision: Precision) -> torch.dtype:
    """The torch name of a precision."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def prepare(seed: int) -> None:
    """Seeds torch, fixes the number of threads and asks for repeatable kernels."""
    torch.manual_seed(seed)
    threads = int(os.environ.get("FTF_THREADS", "0")) or len(os.sched_getaffinity(0))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = False


def describe(device: torch.device) -> str:
    """The device in words, for reports."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads{', AMX' if has_amx() else ''}"
