"""The GGUF file that servers load, written and then asked: one that answers otherwise is kept apart."""

from __future__ import annotations

import shutil
from pathlib import Path

from finetuneflow.artifacts import (
    GGUF_FOLDER,
    GGUF_MODEL,
    MODELFILE,
    PARITY,
    PARITY_TABLE,
    REJECTED,
    JobFolder,
    read_examples,
    write_text,
)
from finetuneflow.errors import JobCancelled, ParityError
from finetuneflow.export.gguf.file import WrittenGguf, write_gguf
from finetuneflow.export.modelfile import render_modelfile
from finetuneflow.export.parity.check import check_parity, render_parity
from finetuneflow.modeling.load import resolve
from finetuneflow.providers.modelfile import window
from finetuneflow.schemas.event import LogEvent, ProgressEvent
from finetuneflow.schemas.export import ExportConfig, ExportInputs, GgufResult, ParityResult
from finetuneflow.schemas.run import TrainResult


def write_served(
    config: ExportConfig, inputs: ExportInputs, train: TrainResult, job: JobFolder, license_text: str | None
) -> GgufResult:
    """Writes `gguf/` into the job folder: model, Modelfile, and the check against the trained model.

    Raises:
        ModelError: an architecture, a tokenizer or an adapter that GGUF cannot hold.
        DependencyError: no llama.cpp to ask, or no `llama-quantize` for a K-quant.
        ParityError: the file does not answer like the trained model; it lies in `rejected/` with its check.
        JobCancelled: the job was asked to stop.
    """
    # whatever ends the check, a file that has not passed it never lies where good ones do
    folder = job.path / REJECTED
    for stale in (folder, job.path / GGUF_FOLDER):
        shutil.rmtree(stale, ignore_errors=True)
    written = _write_model(folder / GGUF_MODEL, config, inputs, train, job, license_text)
    examples = read_examples(Path(inputs.test)) if inputs.test else []
    weights = Path(inputs.run_folder) / (train.adapter or train.model or "")
    parity = check_parity(
        folder / GGUF_MODEL,
        reference=train.base_model if train.adapter else str(weights),
        adapter=weights if train.adapter else None,
        config=config,
        examples=examples,
        on_progress=lambda done, total: _progress(job, "check", done, total),
    ).model_copy(update={"gguf_sha256": written.sha256})
    write_text(folder / PARITY, parity.model_dump_json(indent=2) + "\n")
    write_text(folder / PARITY_TABLE, render_parity(parity, config.language))
    if not parity.passed:
        raise ParityError(
            f"the GGUF file does not answer like the trained model: {parity.first_difference}",
            f"it is kept apart in `{folder}` with `{PARITY_TABLE}`; do not serve it. "
            "another number format (`--quantization f16`) may pass, and the merged model may be used",
        )
    tell(job, parity)
    modelfile = render_modelfile(
        system=inputs.system_prompt,
        parameters={"num_ctx": window(train.hyperparameters.max_seq_length)},
        license=license_text,
    )
    write_text(folder / MODELFILE, modelfile)
    folder.rename(job.path / GGUF_FOLDER)
    return GgufResult(
        path=f"{GGUF_FOLDER}/{GGUF_MODEL}",
        sha256=written.sha256,
        size_bytes=written.size_bytes,
        quantization=config.quantization,
        architecture=written.architecture,
        modelfile=f"{GGUF_FOLDER}/{MODELFILE}",
        parity=parity,
    )


def _write_model(
    path: Path,
    config: ExportConfig,
    inputs: ExportInputs,
    train: TrainResult,
    job: JobFolder,
    license_text: str | None,
) -> WrittenGguf:
    weights = Path(inputs.run_folder) / (train.adapter or train.model or "")
    megabyte = 1_000_000

    def progress(done: int, total: int) -> None:
        if job.cancelled():
            raise JobCancelled("the export was stopped", "start it again: finished parts are written anew")
        _progress(job, "GGUF, MB", done // megabyte, max(total // megabyte, 1))

    return write_gguf(
        path,
        resolve(train.base_model) if train.adapter else weights,
        adapter=weights if train.adapter else None,
        quantization=config.quantization,
        name=inputs.name,
        on_progress=progress,
        license=license_text,
    )


def _progress(job: JobFolder, stage: str, done: int, total: int) -> None:
    job.emit(ProgressEvent(stage=stage, step=done, total_steps=total))


def tell(job: JobFolder, parity: ParityResult) -> None:
    """Says in one line what the check found."""
    answers = (
        f"; {parity.metric.replace('_', ' ')} of {parity.answers} test answers {parity.served_score:.3f}, "
        f"trained model {parity.trained_score:.3f}"
        if parity.trained_score is not None and parity.served_score is not None
        else ""
    )
    job.emit(
        LogEvent(
            message=f"served = trained: {parity.prompts} prompts through {parity.runtime}, the same most "
            f"likely token at {parity.top1_agreement:.1%}, median largest log-probability difference "
            f"{parity.median_max_logprob_difference:.2g}{answers}"
        )
    )
