"""A classifier's errors: what they are (report), and training examples made of them (extract)."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetuneflow import __version__
from finetuneflow.artifacts import sha256_file, utc_now, write_lines, write_text
from finetuneflow.dataset.from_predictions import ErrorExamples, ExampleStyle, wrong_predictions
from finetuneflow.dataset.sidecar import write_sidecar
from finetuneflow.errors import DatasetError, UsageError
from finetuneflow.evaluation import charter as charters
from finetuneflow.evaluation.error_analysis import analyse, ordered_labels
from finetuneflow.evaluation.error_report import reason, render
from finetuneflow.evaluation.training_conflicts import TrainingRow, training_conflicts
from finetuneflow.ingest.predictions import catalogue, load_mapping, read_predictions
from finetuneflow.schemas.error_report import Charter, ErrorReport, Language, TechnicalMetadata
from finetuneflow.schemas.prediction import Prediction, PredictionFile

MAX_EXAMPLES = 500
"""Training examples shown in a report unless asked otherwise; `extract` writes all."""
TELL_EVERY = 10_000
Progress = Callable[[str, int], None]
"""Is told what is being done and how many rows it has come to."""


@dataclass(frozen=True)
class Analysis:
    """A report and its Markdown."""

    report: ErrorReport
    markdown: str
    charter: Charter


@dataclass(frozen=True)
class Extracted:
    """What became of a file of predictions; rows == examples + correct + dropped."""

    rows: int
    examples: int
    correct: int
    dropped: int
    with_comments: int
    with_context: int
    charter: str
    language: Language
    path: Path


def report(
    path: Path,
    *,
    language: Language | None = None,
    charter: str | Path | None = None,
    mapping: Path | None = None,
    training: Path | None = None,
    max_examples: int = MAX_EXAMPLES,
    figures_only: bool = False,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Analysis:
    """The analysis of a file of predictions.

    Args:
        path: JSON, JSONL or CSV.
        language: Of the report; default: the charter's.
        charter: Name of a shipped one, or path; default: the shipped one that knows all the labels, else
            `generic`.
        mapping: YAML file that names the fields.
        training: Dataset file that the classifier was trained on, to look for contradictions.
        max_examples: Training examples shown in the Markdown.
        figures_only: Leave out what compares texts.
        seed: Of samples and folds: the same seed gives the same report.
        on_progress: Is told how far it has come.

    Raises:
        NotFoundError: a file or a charter does not exist.
        InputError: a file cannot be read, or not one row is usable.
    """
    tell = on_progress or _silent
    file = _read(path, mapping, tell)
    chosen = _charter(charter, file.predictions)
    words = language or chosen.language
    wrong = list(wrong_predictions(file.predictions))
    tell("figures", len(file.predictions))
    metadata = _metadata(file, wrong, chosen.name, seed)
    found = analyse(file, chosen, language=words, metadata=metadata)
    _add_text_sections(found, file.predictions, wrong, training, figures_only, tell)
    shown = wrong[: max(0, max_examples)]
    lines = list(_lines(shown, ErrorExamples(chosen, words, labels=found.labels)))
    tell("Markdown", len(lines))
    markdown = render(found, chosen, examples=lines, row_words=catalogue())
    return Analysis(report=found, markdown=markdown, charter=chosen)


def write_report(out: Path, analysis: Analysis) -> None:
    """Writes the Markdown, or the JSON twin for a `.json` file; whole or not at all."""
    if out.suffix.lower() == ".json":
        write_text(out, analysis.report.model_dump_json(indent=2) + "\n")
    else:
        write_text(out, analysis.markdown)


def extract(
    path: Path,
    out: Path,
    *,
    language: Language | None = None,
    charter: str | Path | None = None,
    mapping: Path | None = None,
    style: ExampleStyle = "document",
    on_progress: Progress | None = None,
) -> Extracted:
    """Writes a training example for every wrong prediction to a JSONL file, and its provenance beside it.

    Raises:
        NotFoundError, InputError: as for `report`.
        UsageError: `out` is no `.jsonl` file.
        DatasetError: not one prediction is wrong.
    """
    if out.suffix.lower() != ".jsonl":
        hint = "name it .jsonl; `finetuneflow dataset convert` makes other kinds of it"
        raise UsageError(f"`{out}`: training examples are written as JSON lines", hint)
    tell = on_progress or _silent
    file = _read(path, mapping, tell)
    wrong = list(wrong_predictions(file.predictions))
    if not wrong:
        message = f"all {len(file.predictions):,} predictions are right: there is nothing to learn from them"
        raise DatasetError(message, "give predictions on texts that the classifier finds hard", path=path)
    chosen = _charter(charter, file.predictions)
    words = language or chosen.language
    labels = ordered_labels(file.predictions, chosen)
    examples = ErrorExamples(chosen, words, style=style, labels=labels)
    write_lines(out, _lines(_told(wrong, "examples", tell), examples))
    source_id, name = sha256_file(path)[:16], file.path
    told = _told(wrong, "provenance", tell)
    write_sidecar(out, [examples.example(row, source=name, source_id=source_id) for row in told])
    around = [row.around for row in wrong if row.around]
    return Extracted(
        rows=file.rows,
        examples=len(wrong),
        correct=len(file.predictions) - len(wrong),
        dropped=file.rows - len(file.predictions),
        with_comments=sum(bool(one.annotations) for one in around),
        with_context=sum(bool(one.prev1 or one.prev2 or one.next1) for one in around),
        charter=chosen.name,
        language=words,
        path=out,
    )


def shipped_charters() -> list[Charter]:
    """The charters in the package."""
    return [charters.load_charter(name) for name in charters.shipped_charters()]


def show_charter(name: str) -> tuple[str, Charter]:
    """A charter as YAML text (to copy and edit), and as read."""
    found = charters.load_charter(name)
    path = Path(name)
    return path.read_text("utf-8") if path.is_file() else charters.charter_text(name), found


def _silent(stage: str, rows: int) -> None:
    """Tells nobody."""


def _read(path: Path, mapping: Path | None, tell: Progress) -> PredictionFile:
    names = load_mapping(mapping) if mapping else None
    return read_predictions(path, mapping=names, on_progress=lambda rows: tell("reading", rows))


def _charter(charter: str | Path | None, rows: Sequence[Prediction]) -> Charter:
    if charter is not None:
        return charters.load_charter(charter)
    return charters.choose_charter({row.gold for row in rows})


def _told(rows: Sequence[Prediction], stage: str, tell: Progress) -> Iterator[Prediction]:
    """The rows, and now and then how many went by."""
    for number, row in enumerate(rows, 1):
        yield row
        if number % TELL_EVERY == 0:
            tell(stage, number)


def _lines(rows: Iterable[Prediction], examples: ErrorExamples) -> Iterator[str]:
    return (json.dumps(examples.line(row), ensure_ascii=False) for row in rows)


def _metadata(
    file: PredictionFile, wrong: Sequence[Prediction], charter: str, seed: int
) -> TechnicalMetadata:
    around = [row.around for row in wrong if row.around]
    commented = sum(bool(one.annotations) for one in around)
    return TechnicalMetadata(
        extraction_date=utc_now(),
        total_examples=len(wrong),
        unique_algorithms=len({one.algorithm for one in around if one.algorithm}),
        annotation_coverage=commented / len(wrong) if wrong else 0.0,
        error_rate=len(wrong) / len(file.predictions),
        generator=f"finetuneflow/{__version__}",
        source=Path(file.path).name,
        source_sha256=sha256_file(Path(file.path)),
        charter=charter,
        seed=seed,
    )


def _add_text_sections(
    found: ErrorReport,
    rows: Sequence[Prediction],
    wrong: Sequence[Prediction],
    training: Path | None,
    figures_only: bool,
    tell: Progress,
) -> None:
    """Clusters, doubtful annotations and contradictions, by the modules that need scikit-learn."""
    language, seed = found.language, found.metadata.seed
    learn = not figures_only and importlib.util.find_spec("sklearn") is not None
    if learn:
        tell("doubtful annotations", len(rows))
        doubts = _heavy("label_errors").label_errors(rows, language=language, seed=seed)
        found.label_errors, found.label_errors_found, found.label_errors_note = doubts
        tell("similar errors", len(wrong))
        groups = _heavy("error_clusters").cluster_errors(wrong, language=language, seed=seed)
        found.clusters, found.clusters_note = groups
    else:
        note = reason("asked_not_to" if figures_only else "needs_scikit_learn", language)
        found.label_errors_note = found.clusters_note = note
    if training is None:
        found.training_conflicts_note = reason("no_training_file", language)
        return
    tell("training data", len(wrong))
    conflicts = training_conflicts(
        wrong,
        list(_training_rows(training)),
        language=language,
        vectorize=_heavy("error_texts").vectors if learn else None,
    )
    found.training_conflicts, found.training_conflicts_found, found.training_conflicts_note = conflicts


def _heavy(module: str) -> Any:
    """A module that needs scikit-learn, whose import takes a second: only when it is wanted."""
    return importlib.import_module(f"finetuneflow.evaluation.{module}")


def _training_rows(path: Path) -> Iterator[TrainingRow]:
    # By name: the formats bring pyarrow, which most reports never need.
    if path.is_dir():
        splits, _ = importlib.import_module("finetuneflow.dataset.folders").read_dataset_folder(path)
        examples = splits["train"]
    else:
        examples, _ = importlib.import_module("finetuneflow.dataset.formats").read_dataset(path)
    for example in examples:
        yield TrainingRow(example.question, example.answer, example.provenance.line)
