"""A worker whose stages answer at once, with the real schemas: what services need, without torch."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from finetuneflow.artifacts import JobFolder, read_examples
from finetuneflow.errors import JobCancelled, TrainingError
from finetuneflow.jobs.stages import STAGES
from finetuneflow.jobs.worker import main
from finetuneflow.schemas.evaluation import EvaluateInputs, EvaluationConfig, EvaluationResult, TestItem
from finetuneflow.schemas.event import ProgressEvent
from finetuneflow.schemas.export import ExportConfig, ExportInputs, ExportResult
from finetuneflow.schemas.recipe import Hyperparameters, Recipe
from finetuneflow.schemas.run import TrainInputs, TrainResult


def train(config: Recipe, inputs: TrainInputs, job: JobFolder) -> TrainResult:
    """Reads its data, and does what the name of the base model says."""
    rows = len(read_examples(Path(inputs.train)))
    assert inputs.validation is not None
    assert read_examples(Path(inputs.validation))
    if config.base_model == "stand-in/fails-once" and not job.resume:
        raise TrainingError("the loss is not a number", "lower learning_rate")
    for step in range(200 if config.base_model == "stand-in/slow" else 0):
        if job.cancelled():
            raise JobCancelled("cancelled")
        job.emit(ProgressEvent(stage="train", step=step, total_steps=200))
        time.sleep(0.05)
    (job.path / "adapter").mkdir(exist_ok=True)
    names = [name for name in Hyperparameters.model_fields if name != "reason"]
    return TrainResult(
        adapter="adapter",
        base_model=config.base_model,
        base_fingerprint="0",
        method=config.method,
        steps=1,
        epochs=1,
        best_step=1,
        train_loss=1.0,
        trainable_parameters=1,
        parameters=1,
        tokens=rows,
        supervised_tokens=rows,
        tokens_per_second=1,
        seconds=0.1,
        precision="fp32",
        device="cpu",
        hyperparameters=Hyperparameters.model_validate({name: getattr(config, name) for name in names}),
        resumed_from=1 if job.resume else None,
    )


def evaluate(config: EvaluationConfig, inputs: EvaluateInputs, job: JobFolder) -> EvaluationResult:
    """Counts the items and checks that the adapter is where it is said to be."""
    assert inputs.adapter is not None
    assert Path(inputs.adapter).is_dir()
    lines = Path(inputs.items).read_text(encoding="utf-8").splitlines()
    items = [TestItem.model_validate_json(line) for line in lines]
    return EvaluationResult(
        run_id=inputs.run_id, items=len(items), test_set_hash="0", seconds=0.1, config=config
    )


def export(config: ExportConfig, inputs: ExportInputs, job: JobFolder) -> ExportResult:
    """Says whether it was told of an evaluation."""
    return ExportResult(run_id=inputs.run_id, adapter=inputs.name, zip=str(inputs.evaluation is not None))


if __name__ == "__main__":
    own = {"train/causal_lm": "train", "evaluate": "evaluate", "export": "export"}
    table = {key: STAGES[key]._replace(function=f"__main__:{name}") for key, name in own.items()}
    sys.exit(main(sys.argv[1:], table))
