"""The loop in one place: sources → examples → dataset version → run → evaluation → verdict → export."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from finetuneflow.schemas.dataset import DatasetVersion, QuestionType
from finetuneflow.schemas.evaluation import EvaluationConfig, EvaluationResult
from finetuneflow.schemas.event import NumberedEvent
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.export import ExportConfig
from finetuneflow.schemas.pipeline import PipelineResult, summarize
from finetuneflow.services import datasets, evaluations, exports, jobs, recipes, runs
from finetuneflow.services.context import Context

Tell = Callable[[str], None]
Show = Callable[[Iterator[NumberedEvent]], object]


@dataclass(frozen=True)
class Plan:
    """What to run the loop on."""

    name: str
    records: Path
    documents: Sequence[Path]
    recipe: dict[str, Any]
    """A recipe's keys, but for `dataset`, which the loop makes."""
    num_questions: int
    """From the records, held-out wordings not counted."""
    num_document_questions: int
    """From all the documents together."""
    question_types: Sequence[QuestionType]
    evaluation: EvaluationConfig
    export: ExportConfig
    add_negatives: bool = False
    seed: int = 0


@dataclass
class _Clock:
    started: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)

    def stop(self, stage: str) -> None:
        """Books the time since the previous stage."""
        self.stages[stage] = round(time.perf_counter() - self.started - sum(self.stages.values()), 2)


def run(context: Context, plan: Plan, *, tell: Tell, show: Show) -> PipelineResult:
    """Runs the whole loop and waits for it.

    Args:
        context: Workspace to write to.
        plan: Sources and settings.
        tell: Called with a sentence at each stage.
        show: Called with the events of each job, to be read until it has ended.

    Raises:
        FineTuneFlowError: whatever stopped a stage; the stages before it are kept.
    """
    clock = _Clock()
    tell(f"1/5  Sources: {plan.records.name} and {len(plan.documents)} documents")
    examples = make_examples(plan, tell)
    tell("2/5  Dataset")
    version = make_dataset(context, plan, examples, tell)
    clock.stop("dataset")

    tell("3/5  Training")
    recipe = recipes.parse_recipe(plan.recipe | {"dataset": version.id, "seed": plan.seed}, place=plan.name)
    training = runs.start(context, recipe, name=plan.name)
    finish(context, training.id, show)
    clock.stop("train")

    tell("4/5  Evaluation: base, base with retrieval, tuned, on the same questions")
    job = evaluations.start(
        context, training.id, sources=[plan.records, *plan.documents], config=plan.evaluation
    )
    finish(context, job.id, show)
    evaluation = evaluations.result(context, job.id)
    clock.stop("evaluate")

    tell("5/5  Export: adapter, merged model, GGUF with its check, report, zip")
    export = exports.start(context, training.id, config=plan.export)
    finish(context, export.id, show)
    clock.stop("export")
    return summary(context, version, training.id, job.id, export.id, evaluation, clock)


def make_examples(plan: Plan, tell: Tell) -> list[Example]:
    """Question-answer examples from the records (held-out wordings included) and from the documents."""
    records = datasets.from_records(
        plan.records,
        num_questions=plan.num_questions,
        question_types=plan.question_types,
        add_negatives=plan.add_negatives,
        seed=plan.seed,
        held_out_wordings=True,
    )
    documents = datasets.from_documents(
        list(plan.documents), num_questions=plan.num_document_questions, seed=plan.seed
    )
    tell(
        f"     {len(records.examples):,} examples from {records.records} records, "
        f"{len(documents.examples):,} from the documents"
    )
    return [*records.examples, *documents.examples]


def make_dataset(context: Context, plan: Plan, examples: list[Example], tell: Tell) -> DatasetVersion:
    """A dataset version split by paraphrase: facts are learnt by heart and asked in other words."""
    version = datasets.create_version(
        context, examples, name=plan.name, strategy="paraphrase", seed=plan.seed
    )
    counts = version.counts
    tell(
        f"     {version.id}: {counts.train:,} train, {counts.validation:,} validation, {counts.test:,} test; "
        "no test question stands in training"
    )
    return version


def finish(context: Context, job_id: str, show: Show) -> None:
    """Shows a job's events until it has ended; raises its failure."""
    show(jobs.follow(context, job_id))
    jobs.wait(context, job_id)
    jobs.ensure_success(context, job_id)


def summary(
    context: Context,
    version: DatasetVersion,
    run_id: str,
    evaluation_id: str,
    export_id: str,
    evaluation: EvaluationResult,
    clock: _Clock,
) -> PipelineResult:
    """The figures, the files and what to do next."""
    exported = exports.result(context, export_id)
    folder = context.workspace.job("export", export_id)
    made = {
        "adapter": exported.adapter,
        "merged model": exported.merged,
        "GGUF": exported.gguf.path if exported.gguf else None,
        "report": exported.report,
        "zip": exported.zip,
    }
    arms = {name: summarize(arm) for name, arm in evaluation.arms.items()}
    return PipelineResult(
        arms={name: arm for name, arm in arms.items() if arm},
        verdict=evaluation.verdict.outcome if evaluation.verdict else "",
        reasons=evaluation.verdict.reasons if evaluation.verdict else [],
        seconds=round(time.perf_counter() - clock.started, 2),
        stage_seconds=clock.stages,
        examples=version.counts.model_dump(),
        dataset_id=version.id,
        run_id=run_id,
        evaluation_id=evaluation_id,
        export_id=export_id,
        parity=exported.gguf.parity if exported.gguf else None,
        artifacts={
            "dataset": version.path,
            "run": str(context.workspace.job("train", run_id)),
            "predictions": evaluation.predictions_path,
            **{name: str(folder / path) for name, path in made.items() if path},
        },
        evaluation=evaluation,
    )


def demo_plan(*, seed: int = 0, language: Literal["en", "fr"] = "en", quick: bool = False) -> Plan:
    """The loop on the sample in the package: a catalogue of fictional applications, two documents."""
    sample = Path(str(resources.files("finetuneflow.assets") / "sample"))
    settings: dict[str, Any] = yaml.safe_load((sample / "demo.yaml").read_text(encoding="utf-8"))
    recipe = settings["recipe"] | (settings["quick"] if quick else {})
    return Plan(
        name="demo",
        records=sample / settings["records"],
        documents=[sample / name for name in settings["documents"]],
        recipe=recipe,
        num_questions=settings["num_questions"],
        num_document_questions=settings["num_document_questions"],
        question_types=settings["question_types"],
        add_negatives=settings["add_negatives"],
        evaluation=EvaluationConfig(seed=seed, language=language, **settings["evaluation"]),
        export=ExportConfig(seed=seed, language=language, **settings["export"]),
        seed=seed,
    )


def demo(
    context: Context,
    *,
    seed: int = 0,
    language: Literal["en", "fr"] = "en",
    quick: bool = False,
    tell: Tell,
    show: Show,
) -> PipelineResult:
    """`finetuneflow demo`: the loop on the sample, with what to try next."""
    plan = demo_plan(seed=seed, language=language, quick=quick)
    result = run(context, plan, tell=tell, show=show)
    return result.model_copy(
        update={
            "next_commands": [
                f'finetuneflow predict {result.run_id} "Quel est le statut de GESTOR ?"',
                f"finetuneflow chat {result.export_id}",
                f"finetuneflow runs show {result.run_id}",
                "finetuneflow dataset from-records YOUR_FILE.csv --num-questions 1000 --out dataset.jsonl",
            ]
        }
    )
