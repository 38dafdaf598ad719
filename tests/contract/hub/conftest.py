"""A workspace with a finished run, to export, deploy, promote and push."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetuneflow.artifacts import RESULT
from finetuneflow.export.bundle import list_files, write_manifest, write_zip
from finetuneflow.schemas.deployment import OllamaConfig, OllamaDeployment, OllamaInputs
from finetuneflow.schemas.evaluation import EvaluationConfig, EvaluationResult, Prediction, Verdict
from finetuneflow.schemas.export import ExportResult, GgufResult, ParityResult
from finetuneflow.schemas.job import JobKind, JobResult, JobSpec
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import TrainResult
from finetuneflow.services import datasets
from finetuneflow.services.context import Context, using_context
from finetuneflow.store import queue
from finetuneflow.store import runs as store

NUMBERS = itertools.count(1)


@dataclass
class Finished:
    """A workspace in which a run has ended well."""

    home: Path
    data: Path
    rows: list[str]
    """What no other machine may ever see: questions and answers."""
    secret: str
    """Where the base model lies: nobody else's business either."""
    run_id: str = "run-1"
    dataset_id: str = ""

    def _job(
        self,
        context: Context,
        job_id: str,
        kind: JobKind,
        inputs: dict[str, Any],
        result: Any,
        config: dict[str, Any] | None = None,
    ) -> None:
        spec = JobSpec(id=job_id, kind=kind, config=config or {}, inputs=inputs)
        done = JobResult(status="success", result=result.model_dump(mode="json"))
        folder = context.workspace.job(kind, job_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).write_text(done.model_dump_json(), encoding="utf-8")
        with context.store.write() as session:
            queue.add_job(session, spec, request_hash=job_id)
            queue.claim(session, "test", job_id=job_id)
        with context.store.write() as session:
            queue.finish(session, job_id, 1, done)

    def another(self, run_id: str) -> Finished:
        """A second run of the same recipe, with the verdict PASS."""
        other = replace(self, run_id=run_id)
        with using_context() as context:
            other.train(context)
        other.evaluate("PASS")
        return other

    def train(self, context: Context) -> None:
        """The run, and its dataset version."""
        version = datasets.create_version(context, self.data, seed=0, task="causal_lm", project_id=None)
        recipe = Recipe(
            base_model=self.secret,
            dataset=str(self.data),
            output_model_name="qwen3-sfd-analyzer-v2",
            num_epochs=1,
        )
        settings = {"num_epochs": 1, "learning_rate": 1e-4, "per_device_batch_size": 4, "max_seq_length": 256}
        settings |= {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "reason": "small"}
        known = {
            "adapter": "adapter",
            "base_model": self.secret,
            "base_fingerprint": "0" * 16,
            "method": "lora",
        }
        known |= {"steps": 10, "epochs": 1, "best_step": 10, "train_loss": 0.1, "tokens": 3}
        known |= {"trainable_parameters": 1, "parameters": 2, "supervised_tokens": 2, "tokens_per_second": 1}
        known |= {"seconds": 1, "precision": "fp32", "device": "cpu"}
        trained = TrainResult.model_validate(known | {"hyperparameters": settings})
        self._job(context, self.run_id, "train", {}, trained)
        self.dataset_id = version.id
        with context.store.write() as session:
            store.add_run(
                session,
                self.run_id,
                name="analyser",
                dataset_id=version.id,
                recipe=recipe,
                project_id=None,
            )

    def evaluate(self, outcome: str | None) -> None:
        """An evaluation with that verdict."""
        result = self._evaluation(outcome)
        job_id = f"eval-{next(NUMBERS):03d}"
        with using_context() as context:
            self._job(context, job_id, "evaluate", {"run_id": self.run_id}, result)
            with context.store.write() as session:
                store.add_evaluation(session, job_id, run_id=self.run_id, dataset_id=self.dataset_id)

    def _evaluation(self, outcome: str | None) -> EvaluationResult:
        wrong = Prediction(
            item_id="test-1",
            question=self.rows[0],
            expected=self.rows[1],
            predicted="no",
            exact_match=0,
            token_f1=0,
            rouge_l=0,
            latency_seconds=0.1,
        )
        known = {"reasons": [f"The verdict is {outcome}."], "metric": "exact_match", "score": 0.9, "items": 9}
        known |= {"baseline": "base", "baseline_score": 0.1, "improvement": 0.8, "p_value": 0.001}
        return EvaluationResult(
            run_id=self.run_id,
            items=100,
            test_set_hash="0",
            verdict=Verdict.model_validate(known | {"outcome": outcome}) if outcome else None,
            errors=[wrong],
            seconds=1.0,
            config=EvaluationConfig(),
        )

    def export(self, *, kinds: tuple[str, ...] = ("adapter", "merged", "gguf"), large: int = 3 << 20) -> Path:
        """An export as the stage lays it out; report, metrics and parity hold rows of the dataset."""
        with using_context() as context:
            export_id = f"export-{next(NUMBERS):03d}"
            folder = context.workspace.job("export", export_id)
            for kind in kinds:
                self._fill(folder / kind, kind, large)
            cited = "\n".join(f"| {row} | wrong |" for row in self.rows)
            figures = {
                "train": {"base_model": self.secret, "train_loss": 0.1},
                "evaluation": self._evaluation("PASS").model_dump(mode="json"),
            }
            (folder / "report.md").write_text(f"# Report\n{cited}\n", encoding="utf-8")
            (folder / "metrics.json").write_text(json.dumps(figures, ensure_ascii=False), encoding="utf-8")
            recipe = yaml.safe_dump({"base_model": self.secret, "seed": 0}, allow_unicode=True)
            (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
            (folder / "LICENSE").write_text("Apache-2.0\n", encoding="utf-8")
            (folder / "loss_curve.png").write_bytes(b"\x89PNG" + bytes(200))
            names = [*kinds, "report.md", "metrics.json", "recipe.yaml", "LICENSE", "loss_curve.png"]
            files = list_files(folder, names)
            write_manifest(folder, "analyser", self.run_id, files)
            write_zip(folder / "analyser.zip", folder, files)
            files += list_files(folder, ["manifest.json", "analyser.zip"])
            gguf = self._gguf(folder) if "gguf" in kinds else None
            result = ExportResult(run_id=self.run_id, gguf=gguf, zip="analyser.zip", files=files)
            self._job(context, export_id, "export", {"run_id": self.run_id}, result)
            with context.store.write() as session:
                store.add_export(session, export_id, run_id=self.run_id)
        return folder

    def _gguf(self, folder: Path) -> GgufResult:
        (model,) = list_files(folder, ["gguf/model.gguf"])
        parity = ParityResult.model_validate(
            {"passed": True, "quantization": "f16", "prompts": 32, "top1_agreement": 1, "vocabulary": 512}
            | {"median_max_logprob_difference": 0, "max_logprob_difference": 0, "rendered_equal": 32}
            | {"ids_equal": 32, "continuations": 32, "continuations_equal": 32, "runtime": "llama.cpp"}
            | {"thresholds": {"median_max_logprob_difference": 0.02, "top1_agreement": 0.99}, "seconds": 1}
        )
        return GgufResult(
            path=model.path,
            sha256=model.sha256,
            size_bytes=model.size_bytes,
            quantization="f16",
            architecture="llama",
            modelfile="gguf/Modelfile",
            parity=parity,
        )

    def _fill(self, folder: Path, kind: str, large: int) -> None:
        folder.mkdir(parents=True)
        weights = hashlib.shake_256(kind.encode()).digest(large)
        base = self.secret.replace("_", "\\_")  # as Markdown cells are written
        card = f"---\ntags: [finetuneflow]\n---\n\n# analyser\n\nTuned from {base}.\n"
        (folder / "README.md").write_text(card, encoding="utf-8")
        if kind == "gguf":
            (folder / "model.gguf").write_bytes(b"GGUF" + weights)
            (folder / "Modelfile").write_text('FROM ./model.gguf\nSYSTEM """Be brief."""\n', encoding="utf-8")
            prompts = [
                {"messages": [{"role": "user", "content": row}], "trained_text": row} for row in self.rows
            ]
            parity = {
                "passed": True,
                "quantization": "f16",
                "prompts": 32,
                "top1_agreement": 1.0,
                "median_max_logprob_difference": 0.001,
                "first_difference": self.rows[0],
                "failures": [self.rows[1]],
                "examples": prompts,
            }
            (folder / "parity.json").write_text(json.dumps(parity), encoding="utf-8")
            (folder / "parity.md").write_text("\n".join(self.rows), encoding="utf-8")
            return
        name = "adapter_model.safetensors" if kind == "adapter" else "model.safetensors"
        (folder / name).write_bytes(weights)
        config = "adapter_config.json" if kind == "adapter" else "config.json"
        (folder / config).write_text(json.dumps({"base_model_name_or_path": self.secret}), encoding="utf-8")
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
        (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
        (folder / "optimizer.pt").write_bytes(b"no file of a model")

    def deploy(self, name: str, export: Path, url: str = "http://127.0.0.1:11434") -> None:
        """A deployment that answers as it should."""
        config = OllamaConfig(name=name, url=url)
        inputs = OllamaInputs(run_id=self.run_id, export_id=export.name, gguf="", sha256="", parity="")
        result = OllamaDeployment(
            name=name,
            url=url,
            server_version="0.34.1",
            digest="sha256:0",
            created=True,
            uploaded_bytes=1,
            prompts=20,
            answers_equal=20,
            passed=True,
            modelfile="FROM ./model.gguf",
            seconds=1.0,
        )
        with using_context() as context:
            job_id = f"deploy-{next(NUMBERS):03d}"
            self._job(context, job_id, "deploy", inputs.model_dump(), result, config.model_dump())


@pytest.fixture
def secret() -> str:
    """A path of this machine."""
    return "/data/lea_private/base-model"


@pytest.fixture
def finished(workspace: Path, tmp_path: Path, secret: str) -> Finished:
    """A run that ended well, on forty questions about applications, not evaluated, not exported."""
    questions = [
        f'Quel est le statut de l\'application "Cœur {n}*", chef·fe de projet compris ?' for n in range(40)
    ]
    answers = [f"L'application Cœur {n} est en production depuis l'été {2000 + n}." for n in range(40)]
    data = tmp_path / "private.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in zip(questions, answers, strict=True)
    ]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    finished = Finished(workspace, data, [*questions, *answers], secret)
    with using_context() as context:
        finished.train(context)
    return finished
