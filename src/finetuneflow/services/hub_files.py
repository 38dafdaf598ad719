"""Which files of an export go to a model hub: by a list of what may, stripped of the dataset's rows.

An export is for its owner and holds rows of the dataset: examples won and lost in the report, wrong answers
in the metrics, prompts in the parity check. None of them leaves the machine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from finetuneflow.artifacts import (
    ADAPTER,
    BASE_FINGERPRINT,
    CARD,
    GGUF_FOLDER,
    LICENSE,
    LOSS_CURVE,
    MANIFEST,
    MERGED,
    METRICS,
    MODELFILE,
    PARITY,
    PARITY_TABLE,
    RECIPE,
    REPORT,
)
from finetuneflow.errors import FineTuneFlowError
from finetuneflow.export.bundle import manifest_text
from finetuneflow.export.report import cell
from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.export import ExportedFile, ParityResult
from finetuneflow.schemas.run import TrainResult

FOLDERS = (MERGED, ADAPTER, GGUF_FOLDER)
"""The first of these that an export has becomes the root of the repository, where loaders look."""
MODEL_FILES = re.compile(
    r"(.+\.)?safetensors(\.index\.json)?|.+\.gguf|(adapter_|generation_)?config\.json|tokenizer(_config)?\.json"
    r"|(special_tokens_map|added_tokens|vocab)\.json|vocab\.txt|merges\.txt|(tokenizer|spiece)\.model"
    rf"|chat_template\.jinja|{re.escape(CARD)}|{re.escape(BASE_FINGERPRINT)}|{MODELFILE}|{LICENSE}"
)
VOCABULARY = re.compile(r"tokenizer\.json|vocab\..+|merges\.txt|.+\.index\.json|manifest\.json")
TOP_FILES = {RECIPE, LOSS_CURVE, LICENSE}
WITH_ROWS = {
    REPORT: "it shows examples of the dataset",
    PARITY_TABLE: "it shows prompts of the test set",
}
EVALUATION_FIGURES = (
    *("items", "test_set_hash", "arms", "classification", "comparisons", "verdict", "seconds", "config"),
    *("run_id", "dataset_id"),
)
NOT_FIGURES = {"examples", "failures", "first_difference"}
"""Of a parity check: what quotes prompts and answers."""
LARGEST_TEXT = 1 << 20
SHORTEST_ROW = 24
"""Characters; a shorter turn ("yes", a label) may stand in any text by chance."""


class HubFile(Schema):
    """One file to send: from disk, or as text."""

    path: str
    size_bytes: int
    source: str | None = None
    text: str | None = None
    sha256: str
    change: str = ""
    """How it differs from the file of the export; empty when it is the same."""


class LeftOut(Schema):
    """A file of the export that stays here."""

    path: str
    reason: str


def choose(
    folder: Path, files: Sequence[ExportedFile], *, name: str, run_id: str, private_paths: Iterable[str]
) -> tuple[list[HubFile], list[LeftOut]]:
    """What to send of an export, by its path on the hub, and what to leave out.

    Args:
        folder: The export's.
        files: What it holds, with the sums it had.
        name: The model's, for the manifest.
        run_id: For the manifest.
        private_paths: Paths of this machine; texts name only their last part.
    """
    root = next((kind for kind in FOLDERS if any(file.path.startswith(f"{kind}/") for file in files)), "")
    hidden = _spellings(private_paths)
    chosen: dict[str, HubFile] = {}
    left: list[LeftOut] = []
    for file in sorted(files, key=lambda file: file.path):
        target = file.path.removeprefix(f"{root}/")
        reason = _reason_against(file.path)
        if reason:
            left.append(LeftOut(path=file.path, reason=reason))
        elif target not in chosen:
            chosen[target] = _hub_file(folder, file, target, hidden)
    manifest = manifest_text(
        name,
        run_id,
        [ExportedFile(path=f.path, size_bytes=f.size_bytes, sha256=f.sha256) for f in chosen.values()],
    )
    return [*chosen.values(), _text_file(MANIFEST, manifest)], left


def _reason_against(path: str) -> str:
    """Why a file stays here; empty for one that may go."""
    place, _, name = path.rpartition("/")
    if name in WITH_ROWS:
        return WITH_ROWS[name]
    if path == MANIFEST:
        return "another one is made for what is sent"
    known = (
        name == METRICS or name in TOP_FILES
        if not place
        else place in FOLDERS
        and (bool(MODEL_FILES.fullmatch(name)) or (place == GGUF_FOLDER and name == PARITY))
    )
    return "" if known else "it is no file that a model needs"


def _hub_file(folder: Path, file: ExportedFile, target: str, hidden: Mapping[str, str]) -> HubFile:
    path = folder / file.path
    name = PurePosixPath(file.path).name
    if name == METRICS:
        return _text_file(target, _masked(_metrics(path), hidden), change="figures only")
    if name == PARITY:
        return _text_file(target, _masked(_parity(path), hidden), change="figures only")
    if _is_text(file):
        whole = path.read_text(encoding="utf-8")
        masked = _masked(whole, hidden) if name != RECIPE else _masked_recipe(whole, hidden)
        if masked != whole:
            return _text_file(target, masked, change="without paths of this machine")
    return HubFile(path=target, size_bytes=file.size_bytes, source=str(path), sha256=file.sha256)


def _text_file(path: str, text: str, *, change: str = "") -> HubFile:
    data = text.encode()
    digest = hashlib.sha256(data).hexdigest()
    return HubFile(path=path, size_bytes=len(data), text=text, sha256=digest, change=change)


def _is_text(file: ExportedFile) -> bool:
    suffixes = {".md", ".json", ".yaml", ".jinja", ".txt", ""}
    return PurePosixPath(file.path).suffix in suffixes and file.size_bytes <= LARGEST_TEXT


def _metrics(path: Path) -> str:
    """The figures of training and evaluation, without answers."""
    known = json.loads(path.read_text(encoding="utf-8"))
    train, evaluation = known.get("train") or {}, known.get("evaluation")
    figures = {
        "train": {key: train[key] for key in TrainResult.model_fields if key in train},
        "evaluation": evaluation
        and {key: evaluation[key] for key in EVALUATION_FIGURES if key in evaluation},
    }
    return _json(figures)


def _parity(path: Path) -> str:
    """The figures of the check, without prompts."""
    known = json.loads(path.read_text(encoding="utf-8"))
    kept = [key for key in ParityResult.model_fields if key in known and key not in NOT_FIGURES]
    return _json({key: known[key] for key in kept})


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _spellings(paths: Iterable[str]) -> dict[str, str]:
    """A private path, as texts, JSON and Markdown cells write it, to its last part; longest first."""
    known = {path.rstrip("/"): Path(path).name for path in paths if len(Path(path).parts) > 1}
    spellings = {
        write(path): write(name)
        for path, name in known.items()
        for write in (str, cell, _in_json, lambda text: _in_json(text, ensure_ascii=False))
    }
    return dict(sorted(spellings.items(), key=lambda pair: -len(pair[0])))


def _masked(text: str, hidden: Mapping[str, str]) -> str:
    for path, name in hidden.items():
        text = text.replace(path, name)
    return text


def _masked_recipe(text: str, hidden: Mapping[str, str]) -> str:
    """YAML may fold a path over lines, or quote it: it is looked for in the values."""
    values = json.dumps(yaml.safe_load(text), ensure_ascii=False)
    masked = _masked(values, hidden)
    if masked == values:
        return text
    return yaml.safe_dump(json.loads(masked), sort_keys=False, allow_unicode=True)


def _in_json(text: str, *, ensure_ascii: bool = True) -> str:
    """A text as it stands between the quotes of a JSON file."""
    return json.dumps(text, ensure_ascii=ensure_ascii)[1:-1]


def refuse_rows(files: Iterable[HubFile], examples: Iterable[Example]) -> None:
    """A last look: no turn of the dataset stands in any text that is to be sent.

    Raises FineTuneFlowError, and names the file.
    """
    texts = {file.path: _text(file) for file in files}
    # a row can only stand where its first characters do: one pass over the texts, one look per row
    starts = {
        text[place : place + SHORTEST_ROW]
        for text in texts.values()
        for place in range(len(text) - SHORTEST_ROW + 1)
    }
    for example in examples:
        turns = [turn.content for turn in example.messages if turn.role != "system"]
        for turn in [*turns, example.text or ""]:
            for row in _ways_to_write(turn.strip()):
                if row[:SHORTEST_ROW] in starts:
                    _refuse_row(row, texts)


def _refuse_row(row: str, texts: Mapping[str, str]) -> None:
    for path, text in texts.items():
        if row in text:
            raise FineTuneFlowError(
                f"`{path}` holds a row of the dataset: nothing was sent",
                "take it out of that file, or push another export",
                code="hub_dataset_row",
            )


def _text(file: HubFile) -> str:
    """What a person could read in a file; empty for weights and vocabularies."""
    if file.text is not None or file.source is None:
        return file.text or ""
    exported = ExportedFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)
    if not _is_text(exported) or VOCABULARY.fullmatch(PurePosixPath(file.path).name):
        return ""
    return Path(file.source).read_text(encoding="utf-8", errors="replace")


def _ways_to_write(row: str) -> set[str]:
    """A text as it is, in JSON, and in a Markdown cell; none when it is too short to tell anything."""
    if len(row) < SHORTEST_ROW:
        return set()
    return {row, _in_json(row), _in_json(row, ensure_ascii=False), cell(row)}
