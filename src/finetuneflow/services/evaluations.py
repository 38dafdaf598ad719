"""Evaluations: base, base with retrieval and tuned model on the test split of the run's dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from finetuneflow.artifacts import (
    ANSWERERS,
    ITEMS,
    SPEEDS,
    read_examples,
    split_file,
    write_lines,
    write_text,
)
from finetuneflow.dataset.field_mapping import guess_mapping, load_mapping
from finetuneflow.dataset.record_text import record_passage
from finetuneflow.errors import DatasetError
from finetuneflow.ingest.chunk import chunk_document
from finetuneflow.ingest.read import RECORD_SUFFIXES, read_document, read_records
from finetuneflow.retrieval.index import build_index
from finetuneflow.retrieval.prompt import Language, rag_messages
from finetuneflow.schemas.answerer import AnswererSpec, Answering, ArmSpeeds
from finetuneflow.schemas.evaluation import EvaluateInputs, EvaluationConfig, EvaluationResult, TestItem
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.job import Job, JobSpec
from finetuneflow.schemas.run import Run, TrainResult
from finetuneflow.services import datasets, jobs, runs
from finetuneflow.services.context import Context
from finetuneflow.store import runs as store
from finetuneflow.store.database import Session

ANSWERS = "answers"
"""In the workspace: answers by content, for evaluations to come. It may be deleted at any time."""
BATCH_SIZE = 64
"""Questions that a local model reads together unless asked otherwise; what pays on a CPU stops there."""
PASSAGES = 3
"""Passages that the retrieval arm is given with each question."""


def start(
    context: Context,
    run_id: str,
    *,
    sources: Sequence[Path] = (),
    config: EvaluationConfig | None = None,
    mapping: Path | None = None,
    answerers: Mapping[str, AnswererSpec] | None = None,
    fresh: bool = False,
    idempotency_key: str | None = None,
) -> Job:
    """Starts an evaluation of a finished run; the job's id is the evaluation's id.

    Args:
        context: Workspace.
        run_id: The run.
        sources: Record files and documents that the retrieval arms search; without any, these are left out.
        config: Arms and settings; null: the defaults, with the recipe's seed.
        mapping: Field mapping of the record files; null: guessed.
        answerers: Who answers further arms, or `tuned` in place of the run's model (`answerers.named`).
        fresh: Ask everything again, also what the same models were asked before.
        idempotency_key: The same key gives the same job.

    Raises:
        NotFoundError: no such run.
        UsageError: the run has not ended well.
        DatasetError: an empty test split.
    """
    run, trained = runs.finished(context, run_id)
    version = datasets.get_dataset(context, run.dataset_id)
    config = config or EvaluationConfig(seed=run.recipe.seed, batch_size=BATCH_SIZE)
    examples = read_examples(split_file(Path(version.path), "test"))
    if not examples:
        raise DatasetError(
            f"dataset {version.id} has an empty test split", "split it again with more examples for the test"
        )
    answerers = dict(answerers or {})
    arms = [*config.arms, *(arm for arm in answerers if arm not in {*config.arms, "tuned", "tuned_rag"})]
    searching = {"rag", "tuned_rag", *(arm for arm, spec in answerers.items() if spec.retrieval)}
    if not sources or run.recipe.task != "causal_lm":
        arms = [arm for arm in arms if arm not in searching]
    config = config.model_copy(update={"arms": arms})
    items = build_items(examples, sources if searching & set(arms) else (), mapping)
    evaluation_id = jobs.new_id("eval")
    folder = context.workspace.job("evaluate", evaluation_id)
    write_lines(folder / ITEMS, (item.model_dump_json() for item in items))
    answering = Answering(arms=answerers, cache=None if fresh else str(context.workspace.home / ANSWERS))
    write_text(folder / ANSWERERS, answering.model_dump_json() + "\n")
    inputs = _inputs(run, trained, folder / ITEMS)
    spec = JobSpec(
        id=evaluation_id,
        kind="evaluate",
        config=config.model_dump(mode="json"),
        inputs=inputs.model_dump(mode="json"),
    )

    def record(session: Session) -> None:
        store.add_evaluation(session, evaluation_id, run_id=run.id, dataset_id=run.dataset_id)

    return jobs.submit(
        context, spec, idempotency_key=idempotency_key, project_id=run.project_id, record=record
    )


def _inputs(run: Run, trained: TrainResult, items: Path) -> EvaluateInputs:
    folder = Path(run.folder)
    return EvaluateInputs(
        items=str(items),
        base_model=run.recipe.base_model,
        adapter=str(folder / trained.adapter) if trained.adapter else None,
        model=str(folder / trained.model) if trained.model else None,
        run_id=run.id,
        dataset_id=run.dataset_id,
        precision=run.recipe.precision,
        task=run.recipe.task,
        labels=trained.labels,
    )


def build_items(
    examples: Sequence[Example], sources: Sequence[Path] = (), mapping: Path | None = None
) -> list[TestItem]:
    """The frozen test questions; with sources, each with its passages and its retrieval prompt."""
    passages, language = _passages(sources, mapping)
    found: list[list[str]] = [[] for _ in examples]
    if passages:
        positions = build_index(passages).search([example.question for example in examples], PASSAGES)
        found = [[passages[position] for position in row] for row in positions]
    items = []
    for number, (example, nearest) in enumerate(zip(examples, found, strict=True), start=1):
        messages = _conversation(example)
        rag = rag_messages(messages, nearest, language) if passages else []
        items.append(
            TestItem(
                id=f"test-{number:05d}",
                messages=messages,
                expected=example.answer,
                question_type=example.provenance.question_type or "other",
                wording_held_out=example.provenance.wording_held_out,
                passages=nearest,
                rag_messages=rag,
            )
        )
    return items


def _conversation(example: Example) -> list[dict[str, str]]:
    """The turns up to and including the last question."""
    if example.text is not None:
        return [{"role": "user", "content": example.text}]
    turns = [{"role": message.role, "content": message.content} for message in example.messages]
    while turns and turns[-1]["role"] != "user":
        turns.pop()
    return turns


def _passages(sources: Sequence[Path], mapping: Path | None) -> tuple[list[str], Language]:
    """What can be retrieved, and the language of the prompt (that of the first source)."""
    passages: list[str] = []
    languages: list[Language] = []
    for path in sources:
        if path.suffix.lower() in RECORD_SUFFIXES:
            records = read_records(path)
            used = load_mapping(mapping) if mapping else guess_mapping(records)
            passages += [record_passage(record, used) for record in records.records]
            languages.append(used.language)
        else:
            document = read_document(path)
            passages += [chunk.text for chunk in chunk_document(document)]
            languages.append("fr" if document.language == "fr" else "en")
    return passages, languages[0] if languages else "en"


def result(context: Context, evaluation_id: str) -> EvaluationResult:
    """Result of an evaluation that ended well, its predictions as an absolute path.

    Raises the job's own failure otherwise.
    """
    found = EvaluationResult.model_validate(jobs.ensure_success(context, evaluation_id).result)
    predictions = context.workspace.job("evaluate", evaluation_id) / found.predictions_path
    return found.model_copy(update={"predictions_path": str(predictions)})


def speeds(context: Context, evaluation_id: str) -> ArmSpeeds:
    """How fast each arm of an evaluation answered; empty for classifiers. Raises NotFoundError."""
    path = Path(jobs.get_job(context, evaluation_id).folder) / SPEEDS
    return ArmSpeeds.model_validate_json(path.read_bytes()) if path.is_file() else ArmSpeeds()


def latest(context: Context, run_id: str) -> EvaluationResult | None:
    """Result of the newest successful evaluation of a run, or None. Raises NotFoundError."""
    runs.get_run(context, run_id)
    for job in list_evaluations(context, run_id=run_id):
        if job.status == "success":
            return result(context, job.id)
    return None


def list_evaluations(context: Context, *, run_id: str | None = None, limit: int = 100) -> list[Job]:
    """Evaluation jobs, newest first."""
    jobs.settle(context)
    with context.store.read() as session:
        rows = store.list_evaluation_jobs(session, run_id=run_id, limit=limit)
    return [jobs.as_job(context, row) for row in rows]
