"""Datasets that come as a folder, one file or pair of files per split, and text and label files."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from finetuneflow.dataset.formats import ReadReport, read_dataset
from finetuneflow.dataset.rows import REMEDIES
from finetuneflow.dataset.tabular import SUFFIXES, read_text
from finetuneflow.errors import DatasetError, InputError, NotFoundError
from finetuneflow.schemas.dataset import Dropped, ValidationReport
from finetuneflow.schemas.example import Example, Provenance, Split

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "eval"),
    "test": ("test",),
}
"""Split → the names that its file goes by."""


def read_dataset_folder(folder: Path) -> tuple[dict[Split, list[Example]], list[ValidationReport]]:
    """Examples by split, and a report per file: `train.csv`, or `val_text.txt` and `val_labels.txt`.

    A split without a file is empty.

    Raises:
        NotFoundError: no such folder.
        InputError: no training file in it, or a file that cannot be read.
    """
    if not folder.is_dir():
        raise NotFoundError(f"no such folder: {folder}", "check the path")
    splits: dict[Split, list[Example]] = {split: [] for split in get_args(Split)}
    reports = []
    for split in splits:
        found = _split_file(folder, split)
        if found is None:
            continue
        if found.suffix == ".txt":
            labels, mapping = _label_file(found), folder / "mapping.txt"
            examples, report = read_text_label_files(found, labels, mapping if mapping.exists() else None)
        else:
            examples, report = read_dataset(found)
        splits[split] = examples
        reports.append(report)
    if not splits["train"]:
        hint = "it should hold train.jsonl (or .json, .csv, .parquet), or train_text.txt and train_labels.txt"
        raise InputError("there is no training file in the folder", hint, path=folder)
    return splits, reports


def read_text_label_files(
    text_path: Path, label_path: Path, mapping_path: Path | None = None
) -> tuple[list[Example], ValidationReport]:
    """Classification examples from one text and one label per line of two files; rows == valid + dropped.

    The mapping file says what a label is called: number, tab, name. Text is stripped of outer spaces.

    Raises:
        NotFoundError: a file is missing.
        InputError: a file cannot be read, or the two have different numbers of lines.
        DatasetError: not one row is usable.
    """
    texts, labels = _lines(text_path), _lines(label_path)
    if len(texts) != len(labels):
        message = f"{len(labels)} labels for the {len(texts)} texts of {text_path.name}"
        raise InputError(message, "the two files must have one line per example", path=label_path)
    names = _label_names(mapping_path) if mapping_path else None
    report = ReadReport(path=str(text_path), format="text_label", rows=len(texts), valid=0)
    examples = []
    for line, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
        problem = _problem(line, text, label, names)
        if problem:
            report.dropped.append(problem)
            continue
        origin = Provenance(source_name=text_path.name, line=line)
        examples.append(Example(text=text, label=names[label] if names else label, provenance=origin))
        report.lines.append(line)
    report.valid = len(examples)
    if not examples:
        first = report.dropped[0]
        raise DatasetError(first.message, first.remedy, path=text_path, line=first.line)
    return examples, report


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise NotFoundError(f"no such file: {path}", "check the path")
    return [line.strip() for line in read_text(path).removesuffix("\n").split("\n")]


def _label_names(path: Path) -> dict[str, str]:
    names = {}
    for number, line in enumerate(_lines(path), start=1):
        parts = line.split("\t") if "\t" in line else line.split(None, 1)
        if len(parts) != 2:
            raise InputError(
                "expected a number, a tab and a name", "write it as `0<tab>anger`", path=path, line=number
            )
        names[parts[0].strip()] = parts[1].strip()
    return names


def _problem(line: int, text: str, label: str, names: dict[str, str] | None) -> Dropped | None:
    if "\0" in text or "\0" in label:
        reason, message = "nul_bytes", "there is a NUL character in the row"
    elif not text:
        reason, message = "empty_question", "the text is empty"
    elif not label:
        reason, message = "empty_label", "the label is empty"
    elif names is not None and label not in names:
        message = f"the label {label!r} is not in the mapping ({', '.join(names)})"
        return Dropped(line=line, reason="unknown_label", message=message, remedy="add it to mapping.txt")
    else:
        return None
    return Dropped(line=line, reason=reason, message=message, remedy=REMEDIES[reason])


def _split_file(folder: Path, split: Split) -> Path | None:
    for name in SPLIT_NAMES[split]:
        candidates = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
        candidates.append(folder / f"{name}_text.txt")
        for candidate in candidates:
            if candidate.is_file():
                return candidate
    return None


def _label_file(text_path: Path) -> Path:
    return text_path.with_name(text_path.name.replace("_text.txt", "_labels.txt"))
