"""K-quants, which only llama.cpp's own program `llama-quantize` makes: found, run, and its file checked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from finetuneflow.artifacts import disk_errors
from finetuneflow.errors import DependencyError, ModelError
from finetuneflow.schemas.export import Quantization

PROGRAM = "llama-quantize"
VARIABLE = "LLAMA_QUANTIZE"
THREADS = 2
STEP = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
"""The program's own count of tensors."""
LAST_WORDS = 300


def find_program(quantization: Quantization) -> Path:
    """The program `llama-quantize`: where `LLAMA_QUANTIZE` says, else on the search path.

    Raises:
        DependencyError: not there.
    """
    named = os.environ.get(VARIABLE)
    found = shutil.which(named or PROGRAM)
    if found is None:
        error = DependencyError(named or PROGRAM, "export", f"for `{quantization}`")
        error.hint = (
            f"install llama.cpp (it brings `{PROGRAM}`) and put it on the search path, or say where it is "
            f"with {VARIABLE}=…; `q8_0`, `q4_0` and `mxfp4` need no program"
        )
        raise error
    return Path(found)


def quantize(
    program: Path,
    source: Path,
    target: Path,
    quantization: Quantization,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Runs the program on an F16 file; the target appears whole or not at all.

    Args:
        program: From `find_program`.
        source: GGUF, F16.
        target: File to write.
        quantization: A K-quant.
        on_progress: Called with tensors done and tensors in all; what it raises stops the program.

    Raises:
        ModelError: the program failed, or wrote something else than the model.
    """
    with disk_errors(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=".quantize.") as folder:
        result = Path(folder) / target.name
        command = [str(program), str(source), str(result), quantization.upper(), str(THREADS)]
        with subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            encoding="utf-8", errors="replace",
        ) as process:  # fmt: skip
            try:
                said = _follow(process, on_progress)
            except BaseException:
                with suppress(ProcessLookupError):
                    process.kill()
                raise
        if process.returncode or not result.is_file() or _tensors(result) != _tensors(source):
            raise ModelError(
                f"`{program.name}` did not make a {quantization} file (exit code {process.returncode}): "
                f"{said.strip()[-LAST_WORDS:]}",
                "try it on the F16 export by hand, or choose `q8_0`",
            )
        with result.open("rb") as file:
            os.fsync(file.fileno())
        result.replace(target)


def _follow(process: subprocess.Popen[str], on_progress: Callable[[int, int], None] | None) -> str:
    said = ""
    for line in process.stdout or ():
        said = (said + line)[-10 * LAST_WORDS :]
        step = STEP.search(line)
        if step and on_progress:
            on_progress(int(step[1]), int(step[2]))
    return said


def _tensors(path: Path) -> int:
    """Number of tensors in a GGUF file; -1 for another file."""
    with path.open("rb") as file:
        head = file.read(16)
    return int.from_bytes(head[8:16], "little") if head[:4] == b"GGUF" and len(head) == 16 else -1
