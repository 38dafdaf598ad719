"""Whether this machine and the workspace are ready, and what to do where they are not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from finetuneflow import __version__
from finetuneflow.errors import FineTuneFlowError
from finetuneflow.schemas.base import Schema
from finetuneflow.services import jobs
from finetuneflow.services.catalogue import embedded_models
from finetuneflow.services.context import using_context
from finetuneflow.settings import Settings

State = Literal["ok", "note", "fault"]
GIB = 2**30
LITTLE_DISK_BYTES = 5 * GIB
TOO_LITTLE_DISK_BYTES = GIB // 2
TRAINING_PACKAGES = ("torch", "transformers", "peft", "safetensors")
NVIDIA_SMI = "nvidia-smi"


class Check(Schema):
    """One thing looked at."""

    name: str
    state: State
    """ok; note: works, with something to know; fault: something cannot work."""
    finding: str
    remedy: str = ""


def check_machine(settings: Settings) -> list[Check]:
    """Looks at everything that a run needs; makes the workspace when there is none."""
    return [
        _python(),
        _training_packages(),
        *_embedded_models(),
        _processor(),
        _memory(),
        _gpu(),
        _disk(settings.home),
        _writable(settings.home),
        _database(settings),
    ]


def _python() -> Check:
    finding = f"{platform.python_version()} ({sys.executable}), finetuneflow {__version__}"
    return Check(name="python", state="ok", finding=finding)


def _training_packages() -> Check:
    versions: dict[str, str] = {}
    for name in TRAINING_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    missing = [name for name in TRAINING_PACKAGES if name not in versions]
    if missing:
        return Check(
            name="training",
            state="note",
            finding=f"not installed: {', '.join(missing)}; datasets work, training does not",
            remedy='pip install "finetuneflow[train]"',
        )
    return Check(
        name="training",
        state="ok",
        finding=", ".join(f"{name} {version}" for name, version in versions.items()),
    )


def _embedded_models() -> list[Check]:
    return [
        Check(
            name=model.name,
            state="ok" if model.available else "note",
            finding=f"{model.task}, in {model.folder}" if model.available else "not available",
            remedy="" if model.available else model.hint,
        )
        for model in embedded_models()
    ]


def _processor() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    amx = "bf16 in hardware (AMX)" if "amx_bf16" in flags else "no AMX: trains in fp32"
    return Check(name="processor", state="ok", finding=f"{cores} cores, {amx}")


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    enough = total >= 4 * GIB
    return Check(
        name="memory",
        state="ok" if enough else "note",
        finding=f"{total / GIB:.1f} GiB",
        remedy="" if enough else "`embedded:tiny` trains in 2 GiB; larger models will not fit",
    )


def _gpu() -> Check:
    program = shutil.which(NVIDIA_SMI)
    if program is None:
        return Check(name="gpu", state="ok", finding="none; the processor will do for small models")
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed command, found on the PATH
            [program, "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Check(
            name="gpu",
            state="note",
            finding=f"`{NVIDIA_SMI}` fails ({error})",
            remedy="check the NVIDIA driver",
        )
    return Check(name="gpu", state="ok", finding="; ".join(answer.stdout.strip().splitlines()) or "none")


def _disk(home: Path) -> Check:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    finding = f"{free / GIB:.1f} GiB free in {existing}"
    if free < TOO_LITTLE_DISK_BYTES:
        return Check(
            name="disk", state="fault", finding=finding, remedy="free some space, or set FTF_HOME elsewhere"
        )
    if free < LITTLE_DISK_BYTES:
        return Check(name="disk", state="note", finding=finding, remedy="large models need more")
    return Check(name="disk", state="ok", finding=finding)


def _writable(home: Path) -> Check:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        return Check(
            name="workspace",
            state="fault",
            finding=f"{home} is not writable ({(error.strerror or str(error)).lower()})",
            remedy="set FTF_HOME to a folder of yours",
        )
    return Check(name="workspace", state="ok", finding=str(home))


def _database(settings: Settings) -> Check:
    try:
        with using_context(settings) as context:
            settled = jobs.settle(context)
    except (FineTuneFlowError, OSError) as error:
        hint = error.hint if isinstance(error, FineTuneFlowError) else ""
        return Check(
            name="database",
            state="fault",
            finding=str(error),
            remedy=hint or "check FTF_DATABASE_URL and FTF_HOME",
        )
    return Check(
        name="database",
        state="ok",
        finding=f"up to date; {len(settled)} jobs settled" if settled else "up to date",
    )
