"""A workspace in which a run has ended well and was evaluated, answer by answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.artifacts import ITEMS, PREDICTIONS, RESULT, read_examples, split_file, write_lines
from finetuneflow.cli import app
from finetuneflow.evaluation.items import question_of, test_set_hash
from finetuneflow.schemas.evaluation import EvaluationConfig, EvaluationResult, TestItem
from finetuneflow.schemas.forgetting import ForgettingConfig, ForgettingResult
from finetuneflow.schemas.interval import Interval
from finetuneflow.schemas.job import JobKind, JobResult, JobSpec
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import TrainResult
from finetuneflow.services import datasets
from finetuneflow.services.context import Context, using_context
from finetuneflow.services.evaluations import build_items
from finetuneflow.store import queue
from finetuneflow.store import runs as store

TRAINED = {
    "adapter": "adapter",
    "base_model": "embedded:tiny",
    "base_fingerprint": "0" * 16,
    "method": "lora",
    **{"steps": 10, "epochs": 1, "best_step": 10, "train_loss": 0.1, "tokens": 3, "seconds": 1},
    **{"trainable_parameters": 1, "parameters": 2, "supervised_tokens": 2, "tokens_per_second": 1},
    **{"precision": "fp32", "device": "cpu"},
    "hyperparameters": {
        **{"num_epochs": 1, "learning_rate": 1e-4, "per_device_batch_size": 4, "max_seq_length": 256},
        **{"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0},
    },
}


@dataclass
class Evaluated:
    """Makes evaluations of `run-1`."""

    home: Path
    dataset: Path
    dataset_id: str
    number: int = 0

    def test_items(self) -> list[TestItem]:
        """One for every example of the test split."""
        return build_items(read_examples(split_file(self.dataset, "test")))

    def training_questions(self) -> list[str]:
        """What the model was trained on."""
        return [example.question for example in read_examples(split_file(self.dataset, "train"))]

    def evaluate(self, items: list[TestItem] | None = None, **right: float) -> str:
        """The id of an evaluation in which each arm answers this share of the items right."""
        self.number += 1
        evaluation_id = f"eval-{self.number}"
        items = items or self.test_items()
        with using_context() as context:
            folder = context.workspace.job("evaluate", evaluation_id)
            write_lines(folder / ITEMS, (item.model_dump_json() for item in items))
            write_lines(
                folder / PREDICTIONS,
                (
                    json.dumps(_answer(arm, item, place < round(share * len(items))), ensure_ascii=False)
                    for arm, share in right.items()
                    for place, item in enumerate(items)
                ),
            )
            result = EvaluationResult(
                run_id="run-1",
                dataset_id=self.dataset_id,
                items=len(items),
                test_set_hash=test_set_hash(items),
                seconds=1.0,
                config=EvaluationConfig(bootstrap_samples=200),
            )
            self.job(context, evaluation_id, "evaluate", {}, {}, result.model_dump(mode="json"))
            with context.store.write() as session:
                store.add_evaluation(session, evaluation_id, run_id="run-1", dataset_id=self.dataset_id)
        return evaluation_id

    def folder(self, evaluation_id: str) -> Path:
        """Where an evaluation's files are."""
        return self.home / "evaluations" / evaluation_id

    def forget(self, divergence: float) -> None:
        """A look for forgetting with that divergence."""
        result = ForgettingResult(
            run_id="run-1",
            base_model="embedded:tiny",
            suite_hash="0",
            items=0,
            divergence=Interval(value=divergence, low=divergence, high=divergence),
            prompts=100,
            outcome="PASS",
            reasons=[],
            seconds=1,
            config=ForgettingConfig(),
        )
        config = ForgettingConfig().model_dump(mode="json")
        with using_context() as context:
            self.job(
                context, "forget-1", "evaluate", config, {"run_id": "run-1"}, result.model_dump(mode="json")
            )

    def fail_export(self, code: str) -> None:
        """A GGUF export that failed for that reason."""
        with using_context() as context:
            self.job(context, "export-1", "export", {"kinds": ["gguf"]}, {}, {}, error=code)
            with context.store.write() as session:
                store.add_export(session, "export-1", run_id="run-1")

    def job(
        self,
        context: Context,
        job_id: str,
        kind: JobKind,
        config: dict[str, Any],
        inputs: dict[str, Any],
        result: dict[str, Any],
        *,
        error: str = "",
    ) -> None:
        """A job that has ended."""
        spec = JobSpec(id=job_id, kind=kind, config=config, inputs=inputs)
        done = JobResult(
            status="failed" if error else "success",
            result=result,
            error_code=error,
            error="the file answers otherwise" if error else "",
        )
        folder = context.workspace.job(kind, job_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).write_text(done.model_dump_json(), encoding="utf-8")
        with context.store.write() as session:
            queue.add_job(session, spec, request_hash=job_id)
            queue.claim(session, "test", job_id=job_id)
        with context.store.write() as session:
            queue.finish(session, job_id, 1, done)


def _answer(arm: str, item: TestItem, right: bool) -> dict[str, Any]:
    score = float(right)
    return {
        "arm": arm,
        "item_id": item.id,
        "question": question_of(item),
        "expected": item.expected,
        "predicted": item.expected if right else "!",
        **{"exact_match": score, "token_f1": score, "rouge_l": score, "latency_seconds": 0.1},
        "question_type": "status" if item.id < "test-00040" else "domain",
    }


@pytest.fixture
def evaluated(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluated:
    """A trained run over 800 questions, not evaluated yet."""
    monkeypatch.setitem(app.COMMANDS, "gate", "Say whether a model may be deployed")
    data = tmp_path / "data.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Quel est le statut de l'application Cœur{n} ?"},
                {"role": "assistant", "content": f"L'application Cœur{n} est en production depuis {n}."},
            ]
        }
        for n in range(800)
    ]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    with using_context() as context:
        version = datasets.create_version(context, data, seed=0, task="causal_lm", project_id=None)
        made = Evaluated(workspace, Path(version.path), version.id)
        result = TrainResult.model_validate(TRAINED).model_dump(mode="json")
        made.job(context, "run-1", "train", {}, {}, result)
        adapter = context.workspace.job("train", "run-1") / "adapter"
        adapter.mkdir()
        (adapter / "adapter_model.safetensors").write_bytes(b"weights")
        (adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
        recipe = Recipe(base_model="embedded:tiny", dataset=str(data), num_epochs=1)
        with context.store.write() as session:
            store.add_run(
                session, "run-1", name="mine", dataset_id=version.id, recipe=recipe, project_id=None
            )
    return made
