"""Datasets: made from sources, checked, split, and kept as versions named by their content."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from finetuneflow.artifacts import (
    LEDGER,
    MANIFEST,
    read_examples,
    split_file,
    utc_now,
    write_examples,
    write_folder,
    write_lines,
    write_text,
)
from finetuneflow.dataset import coverage as coverage_stage
from finetuneflow.dataset import field_mapping
from finetuneflow.dataset import from_documents as documents_stage
from finetuneflow.dataset import from_records as records_stage
from finetuneflow.dataset import statistics as statistics_stage
from finetuneflow.dataset.deduplicate import deduplicate as drop_duplicates
from finetuneflow.dataset.folders import read_dataset_folder
from finetuneflow.dataset.formats import read_dataset, write_dataset
from finetuneflow.dataset.split import overlap, split_with_report
from finetuneflow.dataset.validate import check
from finetuneflow.dataset.version import content_hash
from finetuneflow.errors import DatasetError, NotFoundError, UsageError
from finetuneflow.ingest.read import read_document, read_records
from finetuneflow.schemas.dataset import (
    CoverageReport,
    DatasetFormat,
    DatasetVersion,
    Dropped,
    FieldMapping,
    QuestionType,
    SplitCounts,
    SplitFile,
    SplitStrategy,
    Statistics,
    ValidationReport,
)
from finetuneflow.schemas.example import Example, Split
from finetuneflow.schemas.recipe import Task
from finetuneflow.schemas.source import RecordSource
from finetuneflow.services.context import Context
from finetuneflow.settings import load_settings
from finetuneflow.store import datasets as store
from finetuneflow.store.database import ConstraintViolation

PREFIX = "ds-"
Splits = Mapping[Split, Sequence[Example]]


@dataclass(frozen=True)
class Generated:
    """Examples made from sources, with what was seen on the way."""

    examples: list[Example]
    notes: list[str]
    """What was repaired or left out while reading, one sentence each."""
    mapping: FieldMapping | None = None
    """The field mapping that was used (records only)."""
    records: int = 0
    """Number of records read (records only)."""


def from_records(
    path: Path,
    *,
    mapping: Path | FieldMapping | None = None,
    num_questions: int | None = None,
    question_types: Sequence[QuestionType] | None = None,
    add_negatives: bool = False,
    seed: int = 0,
    system_prompt: str | None = None,
    held_out_wordings: bool = False,
) -> Generated:
    """Question-answer examples from a CSV or JSON file; `mapping` null: guessed from the field names."""
    source = read_records(path, max_bytes=_max_bytes())
    used = _mapping(mapping, source)
    examples = records_stage.generate(
        source,
        used,
        num_questions=num_questions,
        question_types=question_types,
        add_negatives=add_negatives,
        seed=seed,
        system_prompt=system_prompt,
        held_out_wordings=held_out_wordings,
    )
    return Generated(examples, notes=list(source.notes), mapping=used, records=len(source.records))


def from_documents(paths: Sequence[Path], *, num_questions: int | None = None, seed: int = 0) -> Generated:
    """Grounded question-answer examples from documents (TXT, Markdown, PDF, DOCX).

    `num_questions` is the total over all documents.
    """
    documents = [read_document(path, max_bytes=_max_bytes()) for path in paths]
    made = [documents_stage.generate(document, seed=seed) for document in documents]
    if num_questions is not None:
        made = _share(made, num_questions)
    notes = [f"{document.name}: {note}" for document in documents for note in document.notes]
    return Generated([example for examples in made for example in examples], notes)


def _max_bytes() -> int:
    return load_settings().max_upload_bytes


def _share(made: Sequence[list[Example]], wanted: int) -> list[list[Example]]:
    """The first examples of each document, in turn, until enough: no document is forgotten."""
    taken = [0] * len(made)
    while wanted > 0 and any(count < len(examples) for count, examples in zip(taken, made, strict=True)):
        for index, examples in enumerate(made):
            if wanted > 0 and taken[index] < len(examples):
                taken[index] += 1
                wanted -= 1
    return [examples[:count] for count, examples in zip(taken, made, strict=True)]


def guess_mapping(path: Path) -> tuple[FieldMapping, str]:
    """The field mapping guessed for a record file, and the same as YAML to edit."""
    source = read_records(path, max_bytes=_max_bytes())
    guessed = field_mapping.guess_mapping(source)
    return guessed, field_mapping.mapping_yaml(guessed, source)


def _mapping(given: Path | FieldMapping | None, source: RecordSource) -> FieldMapping:
    if given is None:
        return field_mapping.guess_mapping(source)
    return given if isinstance(given, FieldMapping) else field_mapping.load_mapping(given)


def write(path: Path, examples: Sequence[Example], format: DatasetFormat = "openai") -> None:
    """Writes examples to a dataset file (JSONL, JSON, CSV or Parquet by suffix), whole or not at all."""
    write_dataset(path, examples, format)


def read(path: Path, *, format: DatasetFormat | None = None) -> list[Example]:
    """Examples of a dataset file, or of all splits of a dataset folder."""
    return [example for examples in _read_splits(path, format).values() for example in examples]


def _read_splits(path: Path, format: DatasetFormat | None) -> dict[Split, list[Example]]:
    if path.is_dir():
        return _read_folder(path)[0]
    return {"train": read_dataset(path, format=format)[0]}


def validate(path: Path, *, format: DatasetFormat | None = None) -> ValidationReport:
    """What a dataset file holds, row by row: valid, dropped (line, reason, remedy), warnings."""
    examples, report = read_dataset(path, format=format)
    return check(examples, report)


def deduplicate(path: Path, out: Path | None = None) -> tuple[list[Example], list[Dropped]]:
    """Examples without exact duplicates and what was dropped; written to `out` in the format of `path`."""
    examples, report = read_dataset(path)
    kept, dropped = drop_duplicates(examples, _lines(report))
    if out is not None:
        write_dataset(out, kept, _format(report))
    return kept, dropped


def _lines(report: ValidationReport) -> list[int] | None:
    lines: list[int] | None = getattr(report, "lines", None)
    return lines


def _format(report: ValidationReport) -> DatasetFormat:
    known: dict[str, DatasetFormat] = {
        name: name for name in ("openai", "alpaca", "sharegpt", "prompt_completion", "text_label")
    }
    return known.get(report.format, "openai")


def split(
    path: Path,
    out: Path,
    *,
    strategy: SplitStrategy = "group",
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
    format: DatasetFormat | None = None,
) -> list[SplitFile]:
    """Splits a dataset file into `out/{train,validation,test}.jsonl`; the folder appears whole or not at all.

    The format stays that of the input. What cannot be in any split without a leak is in `out/ledger.jsonl`.
    Raises UsageError when `out` exists and is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"`{out}` exists already", "give a folder that is new or empty")
    examples, report = read_dataset(path, format=format)
    result = split_with_report(examples, strategy=strategy, seed=seed, validation=validation, test=test)

    def fill(folder: Path) -> None:
        for name, part in result.splits.items():
            write_dataset(split_file(folder, name), part, _format(report))
        if result.dropped:
            write_lines(folder / LEDGER, (row.model_dump_json() for row in result.dropped))

    write_folder(out, fill)
    return [
        SplitFile(split=name, path=str(split_file(out, name)), examples=len(part))
        for name, part in result.splits.items()
    ]


def convert(
    path: Path, out: Path, *, to: DatasetFormat, format: DatasetFormat | None = None
) -> ValidationReport:
    """Writes a dataset file in another format; gives what was read, kept and dropped."""
    examples, report = read_dataset(path, format=format)
    write_dataset(out, examples, to)
    return report


def statistics(path: Path, *, format: DatasetFormat | None = None) -> Statistics:
    """Figures about a dataset file or a folder of splits."""
    return statistics_stage.statistics(_read_splits(path, format))


def coverage(records: Path, dataset: Path, *, mapping: Path | FieldMapping | None = None) -> CoverageReport:
    """Which records of a CSV or JSON file a dataset (file or folder) speaks of."""
    source = read_records(records, max_bytes=_max_bytes())
    return coverage_stage.coverage(source, _mapping(mapping, source), read(dataset))


@dataclass
class _Draft:
    """A version before it has a name."""

    splits: Splits
    rows: int
    dropped: list[tuple[str, Dropped]] = field(default_factory=list)


def create_version(
    context: Context,
    source: Path | Sequence[Example],
    *,
    name: str | None = None,
    strategy: SplitStrategy = "group",
    seed: int = 0,
    task: Task = "causal_lm",
    project_id: str | None = None,
) -> DatasetVersion:
    """A dataset version from a file, a folder of ready splits, or examples.

    The same content gives the same version. Ready splits are taken as they are; anything else loses its exact
    duplicates and is divided 80/10/10. The version's folder holds `train.jsonl`, `validation.jsonl`,
    `test.jsonl`, `manifest.json` and `ledger.jsonl`, where every row that did not make it is told of.
    Raises NotFoundError, InputError, DatasetError.
    """
    if isinstance(source, Path):
        name = name or source.stem
        draft = _ready_splits(source) if source.is_dir() else _divided_file(source, strategy, seed)
    else:
        name = name or "dataset"
        draft = _divided(list(source), None, "examples", strategy, seed)
    _check_task(draft.splits, task, name)
    digest = content_hash(draft.splits)
    version_id = PREFIX + digest[:12]
    try:
        known = get_dataset(context, version_id)
    except NotFoundError:
        known = None
    if known is not None and Path(known.path).is_dir():
        return known
    version = DatasetVersion(
        id=version_id,
        name=name,
        content_hash=digest,
        task=task,
        counts=SplitCounts(**{split: len(examples) for split, examples in draft.splits.items()}),
        split_strategy="ready" if isinstance(source, Path) and source.is_dir() else strategy,
        seed=seed,
        labels=_labels(draft.splits),
        path=str(context.workspace.dataset(version_id)),
        created_at=utc_now(),
        ledger=_ledger(draft),
    )
    _write_version(context, version, draft)
    if known is None:
        try:
            with context.store.write() as session:
                store.add_dataset(session, version, project_id=project_id)
        except ConstraintViolation:
            pass  # another process kept the same content at the same time
    return get_dataset(context, version_id)


def _ready_splits(folder: Path) -> _Draft:
    splits, reports = _read_folder(folder)
    rows = sum(report.rows for report in reports) if reports else sum(map(len, splits.values()))
    return _Draft(
        splits, rows, [(Path(report.path).name, row) for report in reports for row in report.dropped]
    )


def _read_folder(folder: Path) -> tuple[dict[Split, list[Example]], list[ValidationReport]]:
    """The splits of a dataset version's folder, or of one with a file for each split."""
    if not (folder / MANIFEST).is_file():
        return read_dataset_folder(folder)
    return {name: read_examples(split_file(folder, name)) for name in get_args(Split)}, []


def _divided_file(path: Path, strategy: SplitStrategy, seed: int) -> _Draft:
    examples, report = read_dataset(path)
    draft = _divided(examples, _lines(report), path.name, strategy, seed)
    draft.rows = report.rows
    draft.dropped = [(path.name, row) for row in report.dropped] + draft.dropped
    return draft


def _divided(
    examples: list[Example], lines: list[int] | None, place: str, strategy: SplitStrategy, seed: int
) -> _Draft:
    places = lines or list(range(1, len(examples) + 1))
    kept, duplicates = drop_duplicates(examples, places)
    result = split_with_report(kept, strategy=strategy, seed=seed)
    gone = {row.line for row in duplicates}
    kept_places = [line for line in places if line not in gone]
    left_out = [row.model_copy(update={"line": kept_places[row.line - 1]}) for row in result.dropped]
    return _Draft(result.splits, len(examples), [(place, row) for row in [*duplicates, *left_out]])


def _check_task(splits: Splits, task: Task, name: str) -> None:
    if not splits.get("train"):
        raise DatasetError(f"`{name}` has no example to train on", "give more examples")
    for part, examples in splits.items():
        for number, example in enumerate(examples, start=1):
            labelled = example.text is not None
            if labelled and task == "causal_lm":
                raise DatasetError(
                    f"`{name}` holds texts with labels, not questions with answers",
                    "set `task: sequence_classification` in the recipe",
                )
            if not labelled and task == "sequence_classification":
                raise DatasetError(
                    f"`{name}` holds conversations, not texts with labels",
                    "set `task: causal_lm` in the recipe, or give a file with `text` and `label`",
                )
            if labelled and not example.label:
                raise DatasetError(f"`{name}`: example {number} of the {part} split has no label", "label it")


def _labels(splits: Splits) -> list[str]:
    labels = {
        example.label for examples in splits.values() for example in examples if example.label is not None
    }
    numeric = all(label.isdigit() for label in labels)
    return sorted(labels, key=(lambda label: (int(label), label)) if numeric else (lambda label: (0, label)))


def _ledger(draft: _Draft) -> dict[str, int]:
    kept = sum(map(len, draft.splits.values()))
    ledger = {"rows": draft.rows, "kept": kept, **Counter(row.reason for _, row in draft.dropped)}
    leaked = overlap(draft.splits)
    return {**ledger, "test_questions_in_train": leaked} if leaked else ledger


def _write_version(context: Context, version: DatasetVersion, draft: _Draft) -> None:
    folder = context.workspace.dataset(version.id)

    def fill(target: Path) -> None:
        for part in get_args(Split):
            write_examples(split_file(target, part), draft.splits.get(part, ()))
        rows = ({"file": place, **row.model_dump()} for place, row in draft.dropped)
        write_lines(target / LEDGER, (json.dumps(row, ensure_ascii=False) for row in rows))
        write_text(target / MANIFEST, version.model_dump_json(indent=1, exclude={"path"}) + "\n")

    _unless_there(folder, fill)


def _unless_there(folder: Path, fill: Callable[[Path], None]) -> None:
    try:
        if not folder.exists():
            write_folder(folder, fill)
    except OSError:
        if not folder.exists():  # it does when another process wrote the same content meanwhile
            raise


def get_dataset(context: Context, dataset_id: str) -> DatasetVersion:
    """A dataset version by id. Raises NotFoundError."""
    with context.store.read() as session:
        version = store.get_dataset(session, dataset_id)
    if version is None:
        raise NotFoundError(f"there is no dataset `{dataset_id}`", "`finetuneflow dataset list` shows them")
    return _placed(context, version)


def list_datasets(context: Context, *, limit: int = 100) -> list[DatasetVersion]:
    """Dataset versions, newest first."""
    with context.store.read() as session:
        return [_placed(context, version) for version in store.list_datasets(session, limit=limit)]


def _placed(context: Context, version: DatasetVersion) -> DatasetVersion:
    return version.model_copy(update={"path": str(context.workspace.dataset(version.id))})


def system_prompt(context: Context, dataset_id: str) -> str | None:
    """The system prompt that every training example of a version has; None when they differ or have none.

    Raises NotFoundError.
    """
    common: str | None = None
    path = split_file(Path(get_dataset(context, dataset_id).path), "train")
    for number, example in enumerate(read_examples(path)):
        turns = example.messages
        system = turns[0].content if turns and turns[0].role == "system" else None
        if system is None or (number and system != common):
            return None
        common = system
    return common
