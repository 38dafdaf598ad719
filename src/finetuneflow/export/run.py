"""The export stage: adapter, merged model, report with loss curve, zip; each whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from finetuneflow.artifacts import (
    ADAPTER,
    CARD,
    GGUF_ADAPTER,
    GGUF_FOLDER,
    LICENSE,
    LOSS_CURVE,
    MANIFEST,
    MERGED,
    METRICS,
    RECIPE,
    REPORT,
    JobFolder,
    write_folder,
    write_text,
)
from finetuneflow.errors import FineTuneFlowError, JobCancelled, NotFoundError, UsageError
from finetuneflow.export.bundle import list_files, write_manifest, write_zip
from finetuneflow.export.gguf.adapter import write_gguf_adapter
from finetuneflow.export.license import License, base_license
from finetuneflow.export.loss_curve import draw
from finetuneflow.export.merge import Merged, merge, save_tokenizer
from finetuneflow.export.report import render_card, render_report, report_context
from finetuneflow.export.served import write_served
from finetuneflow.modeling.load import load_tokenizer, resolve
from finetuneflow.schemas.event import LogEvent, ProgressEvent
from finetuneflow.schemas.export import ExportConfig, ExportInputs, ExportResult
from finetuneflow.schemas.run import TrainResult

NAME_CHARACTERS = 80
LINE = 100_000
"""Paths in a recipe are never folded over two lines."""


def run(config: ExportConfig, inputs: ExportInputs, job: JobFolder) -> ExportResult:
    """Writes what was asked for into the job folder; the report, its picture and the recipe always.

    Raises:
        NotFoundError: the run's weights are gone.
        UsageError: nothing that was asked for can come of this run.
        ModelError: base and adapter do not fit, or the merge is not what the adapter was.
        StorageError: the disk is full.
        JobCancelled: the job was asked to stop.
    """
    started = time.monotonic()
    export = _Export(config, inputs, job)
    steps: list[tuple[str, Callable[[], None]]] = []
    if "adapter" in config.kinds:
        steps.append(("adapter", export.write_adapter))
    if "merged" in config.kinds:
        steps.append(("merged model", export.write_merged))
    if "gguf" in config.kinds:
        steps.append(("GGUF", export.write_gguf))
    if "gguf-adapter" in config.kinds:
        steps.append(("adapter as GGUF", export.write_gguf_adapter))
    steps.append(("report", export.write_report))
    if "zip" in config.kinds:
        steps.append(("zip", export.write_zip))
    export.check()
    for done, (name, write) in enumerate(steps):
        if job.cancelled():
            raise JobCancelled("the export was stopped", "start it again: finished parts are written anew")
        job.emit(ProgressEvent(stage="export", step=done, total_steps=len(steps)))
        write()
        job.emit(LogEvent(message=f"{name} written"))
    job.emit(ProgressEvent(stage="export", step=len(steps), total_steps=len(steps)))
    export.result.seconds = time.monotonic() - started
    return export.result


class _Export:
    """One export under way: what the run gave, and what has been written so far."""

    def __init__(self, config: ExportConfig, inputs: ExportInputs, job: JobFolder) -> None:
        self.config = config
        self.inputs = inputs
        self.job = job
        self.folder = job.path
        self.train = TrainResult.model_validate(inputs.train_result)
        self.result = ExportResult(run_id=inputs.run_id)
        self.license = _license(self.train.base_model)
        self.context = report_context(inputs, config.language) | {"license_id": self.license.id}

    @property
    def weights(self) -> Path:
        """The folder that training wrote: adapter or model."""
        return Path(self.inputs.run_folder) / (self.train.adapter or self.train.model or "")

    def check(self) -> None:
        """Refuses before anything is written."""
        if not (self.train.adapter or self.train.model) or not self.weights.is_dir():
            raise NotFoundError(
                f"the weights of run `{self.inputs.run_id}` are not in `{self.inputs.run_folder}`",
                "train again: `finetuneflow runs resume` goes on from the last checkpoint",
            )
        kinds = set(self.config.kinds)
        if self.train.adapter is None and ({"gguf-adapter"} & kinds or kinds == {"adapter"}):
            raise UsageError(
                f"run `{self.inputs.run_id}` tuned all its weights ({self.train.method}): it has no adapter",
                "export the whole model: `--to merged` or `--to gguf`",
            )
        if self.train.labels and {"gguf", "gguf-adapter"} & kinds:
            raise UsageError(
                f"run `{self.inputs.run_id}` is a classifier, and llama.cpp serves none of its kind",
                f"`finetuneflow deploy serve {self.inputs.run_id}` serves it, or `--to merged` writes it",
            )

    def write_adapter(self) -> None:
        """Copies the adapter, with tokenizer, chat template and card."""
        if self.train.adapter is None:
            message = (
                f"the run tuned the model's own weights ({self.train.method}): there is no adapter to export"
            )
            self.job.emit(LogEvent(level="warning", message=message))
            return
        self._replace(ADAPTER, lambda folder: self._copy(folder, "adapter"))
        self.result.adapter = ADAPTER

    def write_merged(self) -> None:
        """Merges the adapter into its base, or copies the whole model that the run made."""

        def fill(folder: Path) -> None:
            if self.train.adapter is None:
                self._copy(folder, "merged")
                return
            found.append(merge(self.train.base_model, self.weights, folder, labels=self.train.labels or None))
            self._write_card(folder, "merged")

        found: list[Merged] = []
        self._replace(MERGED, fill)
        self.result.merged = MERGED
        for merged in found:
            self.result.merge_max_difference = merged.max_difference
            self.job.emit(
                LogEvent(
                    message=f"merged in fp32, stored as {merged.dtype}: logits differ from adapter on "
                    f"base by {merged.max_difference:.2g} at most, the most likely answer is the same at "
                    f"{merged.top1_agreement:.1%} of positions"
                )
            )

    def write_gguf(self) -> None:
        """Writes the GGUF file and asks it what the trained model was asked."""
        self.result.gguf = write_served(self.config, self.inputs, self.train, self.job, self.license.text)
        self._write_card(self.folder / GGUF_FOLDER, "gguf")

    def write_gguf_adapter(self) -> None:
        """Writes the adapter as GGUF, for servers that load adapters onto a base."""
        path = self.folder / GGUF_FOLDER / GGUF_ADAPTER
        write_gguf_adapter(path, resolve(self.train.base_model), self.weights)
        self.result.gguf_adapter = path.relative_to(self.folder).as_posix()

    def write_report(self) -> None:
        """Writes recipe, figures, loss curve, licence and report."""
        language = self.config.language
        if self.license.text:
            write_text(self.folder / LICENSE, self.license.text)
        write_text(
            self.folder / RECIPE,
            yaml.safe_dump(self.inputs.recipe, sort_keys=False, allow_unicode=True, width=LINE),
        )
        # a path of this machine means nothing elsewhere
        figures = {
            "train": without(self.inputs.train_result, "base_folder"),
            "evaluation": without(self.inputs.evaluation, "predictions_path"),
        }
        write_text(self.folder / METRICS, json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
        history = self.train.history
        if draw(history, self.folder / LOSS_CURVE, best_step=self.train.best_step, language=language):
            self.result.loss_curve = LOSS_CURVE
        context = self.context | {
            "loss_curve": self.result.loss_curve,
            "merge_max_difference": self.result.merge_max_difference,
            "gguf": self.result.gguf,
        }
        write_text(self.folder / REPORT, render_report(context, language))
        parts = [
            self.result.adapter,
            self.result.merged,
            GGUF_FOLDER if self.result.gguf or self.result.gguf_adapter else None,
            LICENSE if self.license.text else None,
            REPORT,
            self.result.loss_curve,
            RECIPE,
            METRICS,
        ]
        self.result.files = list_files(self.folder, [part for part in parts if part])
        write_manifest(self.folder, self.inputs.name, self.inputs.run_id, self.result.files)
        self.result.files += list_files(self.folder, [MANIFEST])

    def write_zip(self) -> None:
        """Packs all that was written, with its manifest."""
        name = file_name(self.inputs.name) + ".zip"
        write_zip(self.folder / name, self.folder, self.result.files)
        self.result.zip = name
        self.result.files += list_files(self.folder, [name])

    def _replace(self, name: str, fill: Callable[[Path], None]) -> None:
        # an export that was interrupted and started again writes its parts anew
        shutil.rmtree(self.folder / name, ignore_errors=True)
        write_folder(self.folder / name, fill)

    def _copy(self, folder: Path, kind: str) -> None:
        shutil.copytree(self.weights, folder, dirs_exist_ok=True)
        save_tokenizer(load_tokenizer(folder), folder, chat=not self.train.labels)
        self._write_card(folder, kind)

    def _write_card(self, folder: Path, kind: str) -> None:
        card = render_card(self.context | {"kind": kind, "gguf": self.result.gguf}, self.config.language)
        (folder / CARD).write_text(card, encoding="utf-8")


def without(figures: dict[str, Any] | None, key: str) -> dict[str, Any] | None:
    """Figures less one of them."""
    return None if figures is None else {name: value for name, value in figures.items() if name != key}


def _license(base_model: str) -> License:
    try:
        return base_license(resolve(base_model), base_model)
    except FineTuneFlowError:  # gone since training: an adapter can be exported all the same
        return License(None, None)


def file_name(name: str) -> str:
    """A run's name as a file name: letters, digits, dot, dash, underscore."""
    safe = re.sub(r"[^\w.-]+", "-", name)[:NAME_CHARACTERS].strip("-.")
    return safe or "model"
