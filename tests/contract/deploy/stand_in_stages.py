"""A worker that trains and exports in no time and deploys for real: the commands end to end, no torch."""

from __future__ import annotations

import hashlib
import sys

from finetuneflow.artifacts import (
    GGUF_ADAPTER,
    GGUF_FOLDER,
    GGUF_MODEL,
    LICENSE,
    MODELFILE,
    PARITY,
    JobFolder,
    write_text,
)
from finetuneflow.export.modelfile import render_modelfile
from finetuneflow.jobs.stages import STAGES
from finetuneflow.jobs.worker import main
from finetuneflow.schemas.export import (
    ExportConfig,
    ExportInputs,
    ExportResult,
    GgufResult,
    ParityPrompt,
    ParityResult,
    ParityThresholds,
)
from finetuneflow.schemas.recipe import Hyperparameters, Recipe
from finetuneflow.schemas.run import TrainInputs, TrainResult

PROMPTS = 20


def train(config: Recipe, inputs: TrainInputs, job: JobFolder) -> TrainResult:
    """An adapter of nothing."""
    (job.path / "adapter").mkdir()
    names = [name for name in Hyperparameters.model_fields if name != "reason"]
    return TrainResult(
        adapter="adapter",
        base_model=config.base_model,
        base_fingerprint="0",
        method=config.method,
        steps=1,
        epochs=1,
        best_step=1,
        train_loss=1,
        trainable_parameters=1,
        parameters=1,
        tokens=1,
        supervised_tokens=1,
        tokens_per_second=1,
        seconds=0.1,
        precision="fp32",
        device="cpu",
        hyperparameters=Hyperparameters.model_validate({name: getattr(config, name) for name in names}),
        labels=inputs.labels,
    )


def export(config: ExportConfig, inputs: ExportInputs, job: JobFolder) -> ExportResult:
    """A file that begins like a GGUF, a check that passed, and the licence of the base."""
    adapter = GGUF_ADAPTER if "gguf-adapter" in config.kinds else None
    if adapter:
        (job.path / adapter).write_bytes(b"GGUF adapter")
    if "gguf" not in config.kinds:
        return ExportResult(run_id=inputs.run_id, gguf_adapter=adapter)
    folder = job.path / GGUF_FOLDER
    data = b"GGUF" + config.quantization.encode() * 1000
    parity = ParityResult(
        passed=True,
        quantization=config.quantization,
        prompts=PROMPTS,
        top1_agreement=1,
        median_max_logprob_difference=0,
        max_logprob_difference=0,
        vocabulary=100,
        rendered_equal=PROMPTS,
        ids_equal=PROMPTS,
        continuations=PROMPTS,
        continuations_equal=PROMPTS,
        thresholds=ParityThresholds(median_max_logprob_difference=0.02, top1_agreement=0.99),
        runtime="llama.cpp",
        seconds=1,
        examples=[
            ParityPrompt(
                messages=[{"role": "user", "content": f"Question {number} ?"}],
                source="test",
                ids=[1, 2, 3],
                trained_text="Oui.",
                continuation_equal=True,
            )
            for number in range(PROMPTS)
        ],
    )
    folder.mkdir()
    (folder / GGUF_MODEL).write_bytes(data)
    write_text(folder / PARITY, parity.model_dump_json())
    write_text(folder / MODELFILE, render_modelfile())
    write_text(job.path / LICENSE, "Licence of the base\n")
    gguf = GgufResult(
        path=f"{GGUF_FOLDER}/{GGUF_MODEL}",
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        quantization=config.quantization,
        architecture="llama",
        modelfile=f"{GGUF_FOLDER}/{MODELFILE}",
        parity=parity,
    )
    return ExportResult(run_id=inputs.run_id, gguf=gguf, gguf_adapter=adapter)


if __name__ == "__main__":
    own = {"train/causal_lm": "train", "train/sequence_classification": "train", "export": "export"}
    table = {key: STAGES[key]._replace(function=f"__main__:{name}") for key, name in own.items()}
    sys.exit(main(sys.argv[1:], {**STAGES, **table}))
