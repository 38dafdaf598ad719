"""The frozen questions, and the answers given so far: what lets an interrupted evaluation go on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from finetuneflow.artifacts import disk_errors, write_lines
from finetuneflow.errors import DatasetError, JobCancelled
from finetuneflow.schemas.evaluation import Arm, Prediction, TestItem

Answers = dict[Arm, dict[str, Prediction]]
"""Arm to item id to answer."""


def read_items(path: Path) -> list[TestItem]:
    """The test set.

    Raises:
        DatasetError: unreadable, empty, or two items of one id; names the line.
    """
    items: list[TestItem] = []
    lines_by_id: dict[str, int] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError("the test set cannot be read", "give a JSONL file in UTF-8", path=path) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = TestItem.model_validate_json(line)
        except ValidationError as error:
            reason = error.errors()[0]
            place = ".".join(map(str, reason["loc"]))
            raise DatasetError(
                f"not a test item: {place + ': ' if place else ''}{reason['msg']}",
                "each line is an object with id, messages and expected",
                path=path,
                line=number,
            ) from error
        if item.id in lines_by_id:
            raise DatasetError(
                f"the id `{item.id}` was used on line {lines_by_id[item.id]} already",
                "give every item an id of its own",
                path=path,
                line=number,
            )
        lines_by_id[item.id] = number
        items.append(item)
    if not items:
        hint = "keep some examples for the test split (`dataset split --test 0.1`)"
        raise DatasetError("the test set is empty", hint, path=path)
    return items


def test_set_hash(items: Iterable[TestItem]) -> str:
    """SHA-256 of the items, whatever their order."""
    lines = sorted(json.dumps(item.model_dump(), sort_keys=True, ensure_ascii=False) for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


test_set_hash.__test__ = False  # type: ignore[attr-defined]  # not a pytest function


def question_of(item: TestItem) -> str:
    """The last user turn."""
    return next((turn["content"] for turn in reversed(item.messages) if turn["role"] == "user"), "")


class Progress:
    """Counts answers over all arms, and stops when somebody asked for it."""

    def __init__(
        self,
        total: int,
        done: int,
        report: Callable[[int, int, float | None], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self.total = total
        self.done = done
        self._report = report
        self._cancelled = cancelled
        self._started = time.monotonic()
        self._at_start = done

    def check(self) -> None:
        """Raises JobCancelled once the job was asked to stop."""
        if self._cancelled():
            raise JobCancelled("the evaluation was stopped", "start it again: answers already given are kept")

    def add(self, count: int) -> None:
        """Tells that so many more answers were given."""
        self.done += count
        rate = (self.done - self._at_start) / max(time.monotonic() - self._started, 1e-9)
        self._report(self.done, self.total, (self.total - self.done) / rate if rate else None)


class AnswerLog:
    """`predictions.jsonl`: every answer once it is given, one JSON object a line, with the arm's name."""

    def __init__(self, path: Path, items: Sequence[TestItem]) -> None:
        self.path = path
        self.answers: Answers = {}
        known = {item.id: (question_of(item), item.expected) for item in items}
        for arm, prediction in self._stored():
            if known.get(prediction.item_id) == (prediction.question, prediction.expected):
                self.answers.setdefault(arm, {})[prediction.item_id] = prediction

    def _stored(self) -> Iterable[tuple[Arm, Prediction]]:
        if not self.path.exists():
            return
        for line in self.path.read_bytes().split(b"\n"):
            try:
                row = json.loads(line)
                yield row.pop("arm"), Prediction.model_validate(row)
            except (ValueError, KeyError, AttributeError):
                continue  # the line that was being written when the process was killed

    def add(self, arm: Arm, predictions: Sequence[Prediction]) -> None:
        """Appends answers in one write."""
        self.answers.setdefault(arm, {}).update(
            {prediction.item_id: prediction for prediction in predictions}
        )
        text = "".join(_line(arm, prediction) + "\n" for prediction in predictions)
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def rewrite(self, arms: Sequence[Arm], items: Sequence[TestItem]) -> None:
        """Writes the whole file anew, by arm and then by item; what belongs to neither is left out."""
        self.answers = {
            arm: {item.id: self.answers[arm][item.id] for item in items if item.id in self.answers[arm]}
            for arm in arms
            if arm in self.answers
        }
        write_lines(
            self.path, (_line(arm, row) for arm, answers in self.answers.items() for row in answers.values())
        )


def _line(arm: Arm, prediction: Prediction) -> str:
    return json.dumps({"arm": arm, **prediction.model_dump()}, ensure_ascii=False)
