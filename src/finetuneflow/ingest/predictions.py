"""A classifier's predictions from a file: every row kept, or dropped with line, reason and remedy."""

from __future__ import annotations

import gc
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from finetuneflow.errors import InputError, NotFoundError, UsageError
from finetuneflow.ingest.readers.predictions import Fault, read_prediction_rows, whole_characters
from finetuneflow.schemas.dataset import Dropped
from finetuneflow.schemas.prediction import (
    NO_ANSWER,
    Notice,
    Prediction,
    PredictionFile,
    PredictionMapping,
    Surroundings,
)

MAX_LISTED = 50_000
"""Dropped rows named one by one; beyond, they are counted by reason."""
LONGEST_MILLISECONDS = 1e10
ROUNDED_ONE = 1.001
"""Probabilities in float32 may add up to a little more than 1; percentages are further away."""
"""About four months; more is no processing time."""
REPORT_EVERY = 20_000
_MISSING: Any = object()
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def catalogue() -> dict[str, Any]:
    """Names of fields, and the words for what can be wrong with a row."""
    text = resources.files("finetuneflow").joinpath("assets", "predictions.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.load(text, Loader=_LOADER)  # noqa: S506 - both loaders are the safe ones
    return found


def load_mapping(path: Path) -> PredictionMapping:
    """A mapping file: YAML, `our field: name in the file` (or a list of names).

    Raises:
        NotFoundError: no such file.
        UsageError: not YAML, or an unknown field; names the known ones.
    """
    if not path.is_file():
        raise NotFoundError(f"no such mapping file: {path}", "check the path")
    known = ", ".join(PredictionMapping.model_fields)
    try:
        return PredictionMapping.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {str(error).splitlines()[0]}", "write `gold: NAME`") from error
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "it"
        message = f"{path}: `{place}` is not accepted: {error.errors()[0]['msg'].lower()}"
        raise UsageError(message, f"the fields are {known}; each takes a name or a list of names") from error


def read_predictions(
    path: Path,
    *,
    mapping: PredictionMapping | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> PredictionFile:
    """The predictions of a JSON, JSONL or CSV file; about 150,000 rows a second.

    Args:
        path: The file.
        mapping: Names of fields, before the known ones.
        on_progress: Is told the number of rows read, now and then.

    Raises:
        NotFoundError: no such file.
        InputError: the file as a whole cannot be read, or not one row is usable; names the first problem.
    """
    words = catalogue()
    fields = field_names(words["fields"], mapping)
    known = {name for names in fields.values() for name in names}
    raw = read_prediction_rows(path, known, words["list_keys"])
    rows = _Rows(fields, words)
    with _paused_collection():
        for line, row in raw.rows:
            rows.add(line, row)
            if on_progress is not None and rows.count % REPORT_EVERY == 0:
                on_progress(rows.count)
    if not rows.kept:
        raise _nothing_left(path, rows)
    rows.settle_percent()
    return PredictionFile(
        path=str(path),
        rows=rows.count,
        predictions=rows.kept,
        dropped=rows.dropped,
        dropped_by_reason=dict(rows.reasons.most_common()),
        notices=rows.notices(),
        notes=raw.notes,
        algorithm=rows.algorithm,
    )


def field_names(known: Mapping[str, list[str]], mapping: PredictionMapping | None) -> dict[str, list[str]]:
    """Our field → the names tried for it; a name given by the mapping stands alone."""
    given = mapping.model_dump() if mapping else {}
    return {
        field: ([given[field]] if isinstance(given[field], str) else given[field])
        if given.get(field)
        else names
        for field, names in known.items()
    }


@contextmanager
def _paused_collection() -> Iterator[None]:
    """No cycle collection while a million objects without cycles are made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _nothing_left(path: Path, rows: _Rows) -> InputError:
    if not rows.dropped:
        return InputError("there is no row in it", "export the predictions again", path=path, code="no_rows")
    first = rows.dropped[0]
    more = f" (keys: {', '.join(f'`{key}`' for key in rows.keys)})" if rows.keys else ""
    message = f"none of the {rows.count:,} rows can be used; the first: {first.message}{more}"
    return InputError(message, first.remedy, path=path, line=first.line, code=first.reason)


class _Rows:
    """Rows as they are sorted into kept and dropped."""

    def __init__(self, fields: Mapping[str, list[str]], words: Mapping[str, Any]) -> None:
        self.count = 0
        self.kept: list[Prediction] = []
        self.dropped: list[Dropped] = []
        self.reasons: Counter[str] = Counter()
        self.algorithm: str | None = None
        self.keys: list[str] = []
        self._paths = {field: [(name, name.split(".")) for name in names] for field, names in fields.items()}
        self._fields = fields
        self._words = words["dropped"]
        self._annotation_keys = words["annotation_keys"]
        self._seen: dict[str, Notice] = {}
        self._labels: dict[str, str] = {}
        self._percent = False

    def add(self, line: int, row: dict[str, Any] | Fault) -> None:
        """Sorts one row in."""
        self.count += 1
        found = row if isinstance(row, Fault) else self._prediction(line, row)
        if isinstance(found, Prediction):
            self.kept.append(found)
            return
        self.reasons[found.reason] += 1
        if len(self.dropped) < MAX_LISTED:
            words = self._words[found.reason]
            names = ", ".join(f"`{name}`" for name in self._fields.get(found.field, ()))
            message = words["message"]["en"].format(field=found.field, detail=found.detail, names=names)
            remedy = words["remedy"]["en"]
            self.dropped.append(Dropped(line=line, reason=found.reason, message=message, remedy=remedy))
            if not self.keys and isinstance(row, dict):
                self.keys = list(row)[:8]

    def _prediction(self, line: int, row: dict[str, Any]) -> Prediction | Fault:
        text = self._get(row, "text")
        if type(text) is not str or not text.strip():
            empty = text is _MISSING or text is None or isinstance(text, str)
            return Fault("missing_text" if empty else "wrong_type", _kind_of(text), "text")
        predicted = self._label(line, row, "predicted")
        if isinstance(predicted, Fault):
            return predicted
        gold = self._label(line, row, "gold")
        if isinstance(gold, Fault):
            return gold
        if "\0" in text:
            return Fault("nul_bytes")
        if "\ufffd" in text:
            self._notice("broken_unicode", line)
        around = None
        if predicted != gold:
            around = self._around(row)
            if predicted.casefold() == gold.casefold():
                self._notice("labels_differ_in_case", line)
        if not self.kept:
            self.algorithm = (around or self._around(row)).algorithm
        if self._says_otherwise(row, predicted == gold):
            self._notice("correct_disagrees", line)
        return Prediction(
            line,
            text,
            predicted,
            gold,
            self._confidence(line, row),
            self._milliseconds(row),
            self._probabilities(row),
            around,
        )

    def _label(self, line: int, row: dict[str, Any], field: str) -> str | Fault:
        value = self._get(row, field)
        if type(value) is str:
            label = value.strip()
        elif value is None:
            label = ""
        elif value is _MISSING:
            return Fault(f"missing_{field}", field=field)
        elif isinstance(value, bool):
            label = "true" if value else "false"
        elif isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            label = str(int(value)) if value == int(value) else str(value)
        else:
            return Fault("wrong_type", _kind_of(value), field)
        if not label:
            if field == "gold":
                return Fault("missing_gold", field=field)
            self._notice("no_answer", line)
            label = NO_ANSWER
        # a million rows share a few labels
        return self._labels.get(label) or self._labels.setdefault(label, unicodedata.normalize("NFC", label))

    def _get(self, row: dict[str, Any], field: str) -> Any:
        """The first of the field's names that the row has; a null is passed over for a name with a value."""
        found = _MISSING
        for name, parts in self._paths[field]:
            value = row.get(name, _MISSING)
            if value is _MISSING and len(parts) > 1:
                value = _inner(row, parts)
            if value is not _MISSING:
                if value is not None:
                    return value
                found = None
        return found

    def _confidence(self, line: int, row: dict[str, Any]) -> float | None:
        value = self._get(row, "confidence")
        if value is None or value is _MISSING:
            return None
        number = _number(value)
        if number is None or not 0 <= number <= 100:
            self._notice("confidence_unreadable", line)
            return None
        if number > ROUNDED_ONE:
            self._percent = True
        elif number > 1:
            return 1.0
        return number

    def _milliseconds(self, row: dict[str, Any]) -> float | None:
        number = _number(self._get(row, "milliseconds"))
        return number if number is not None and 0 <= number < LONGEST_MILLISECONDS else None

    def settle_percent(self) -> None:
        """Where one confidence is above 1, all of them are percent."""
        if not self._percent:
            return
        for index, row in enumerate(self.kept):
            if row.confidence is not None:
                self._notice("confidence_in_percent", row.line)
                self.kept[index] = Prediction(
                    row.line,
                    row.text,
                    row.predicted,
                    row.gold,
                    row.confidence / 100,
                    row.milliseconds,
                    row.probabilities,
                    row.around,
                )

    def _says_otherwise(self, row: dict[str, Any], correct: bool) -> bool:
        said = self._get(row, "correct")
        if isinstance(said, str):
            said = {"true": True, "1": True, "false": False, "0": False}.get(said.strip().lower())
        return isinstance(said, bool) and said != correct

    def _probabilities(self, row: dict[str, Any]) -> dict[str, float] | None:
        value = self._get(row, "probabilities")
        if isinstance(value, str) and value.startswith("{"):
            value = _json(value)
        if not isinstance(value, dict):
            return None
        found = {
            unicodedata.normalize("NFC", str(label).strip()): _number(share) for label, share in value.items()
        }
        return {label: share for label, share in found.items() if share is not None} or None

    def _around(self, row: dict[str, Any]) -> Surroundings:
        if isinstance(row.get("metadata"), str):
            row = row | {"metadata": _json(row["metadata"])}
        words = {
            field: _text(self._get(row, field))
            for field in ("turn_id", "prev2", "prev1", "next1", "classifier", "model", "type", "provider")
        }
        most = _number(self._get(row, "max_tokens"))
        return Surroundings(
            annotations=self._annotations(self._get(row, "annotations")),
            temperature=_number(self._get(row, "temperature")),
            max_tokens=None if most is None else int(most),
            **words,
        )

    def _annotations(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, str) and value.startswith("["):
            value = _json(value) or value
        comments = []
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                item = next((item[key] for key in self._annotation_keys if item.get(key)), None)
            if text := _text(item):
                comments.append(text)
        return tuple(comments)

    def _notice(self, reason: str, line: int) -> None:
        seen = self._seen.setdefault(reason, Notice(reason=reason, rows=0, line=line))
        seen.rows += 1

    def notices(self) -> list[Notice]:
        """What was seen in rows that were kept."""
        return list(self._seen.values())


def _inner(row: dict[str, Any], parts: list[str]) -> Any:
    value: Any = row
    for part in parts:
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _json(text: str) -> Any:
    """JSON inside a cell; None when it is none."""
    try:
        return whole_characters(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> float | None:
    """A finite number, also written as text: `0.93`, `0,93`, `93 %` (as 93)."""
    if isinstance(value, str):
        try:
            value = float(value.strip().removesuffix("%").strip().replace(",", "."))
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _text(value: Any) -> str | None:
    if value is None or value is _MISSING or isinstance(value, dict | list):
        return None
    return str(value).replace("\0", "\ufffd").strip() or None


def _kind_of(value: Any) -> str:
    return {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}.get(
        type(value), "null"
    )
