"""A classifier's predictions as a file of them says: text, predicted and gold label, and what stood around.

Files of a million rows are read, so rows are msgspec structs: a tenth of the memory of pydantic's, and made
without validating twice. (`schemas.evaluation.Prediction` is another thing: an answer of one arm.)
"""

from __future__ import annotations

import msgspec
from pydantic import Field

from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.dataset import Dropped

NO_ANSWER = "∅"
"""The predicted label of a row whose model gave none: an error like any other, and not to be lost."""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a row says beside text and labels; read for the wrong rows alone, to save memory."""

    turn_id: str | None = None
    prev2: str | None = None
    """The turn two before."""
    prev1: str | None = None
    next1: str | None = None
    annotations: tuple[str, ...] = ()
    """Comments of experts."""
    classifier: str | None = None
    model: str | None = None
    type: str | None = None
    provider: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None

    @property
    def algorithm(self) -> str | None:
        """`classifier (model)`, or the one of them that is known."""
        if self.classifier and self.model:
            return f"{self.classifier} ({self.model})"
        return self.classifier or self.model


class Prediction(msgspec.Struct, frozen=True):
    """One text with the label that a classifier gave it and the one that it should have."""

    line: int
    """1-based line in the file (position, where lines mean nothing)."""
    text: str
    predicted: str
    gold: str
    confidence: float | None = None
    """0 to 1, of the predicted label."""
    milliseconds: float | None = None
    probabilities: dict[str, float] | None = None
    """Label → probability, where the classifier gave all of them."""
    around: Surroundings | None = None

    @property
    def correct(self) -> bool:
        """True when both labels are the same; a `correct` in the file is compared with this."""
        return self.predicted == self.gold


class Notice(Schema):
    """Something seen in rows that were kept."""

    reason: str
    """One word, such as `correct_disagrees`."""
    rows: int
    line: int
    """Where it was first seen."""


class PredictionFile(msgspec.Struct, kw_only=True):
    """A file of predictions as read: `rows == len(predictions) + sum(dropped_by_reason.values())`."""

    path: str
    rows: int
    predictions: list[Prediction]
    dropped: list[Dropped]
    """Each row left out, with line, reason and remedy; the first 50,000 of them."""
    dropped_by_reason: dict[str, int]
    notices: list[Notice]
    notes: list[str]
    """What was repaired while reading, one sentence each."""
    algorithm: str | None
    """Of the first row."""


class PredictionMapping(Schema):
    """Which fields of a file are what: names tried in order; `outer.inner` reaches into an object.

    A field that the mapping does not name keeps its known names (`assets/predictions.yaml`).
    """

    text: list[str] | str = Field(default_factory=list)
    predicted: list[str] | str = Field(default_factory=list)
    gold: list[str] | str = Field(default_factory=list)
    confidence: list[str] | str = Field(default_factory=list)
    """0 to 1, or percent."""
    correct: list[str] | str = Field(default_factory=list)
    milliseconds: list[str] | str = Field(default_factory=list)
    """Processing time."""
    probabilities: list[str] | str = Field(default_factory=list)
    """An object: label → probability."""
    turn_id: list[str] | str = Field(default_factory=list)
    prev2: list[str] | str = Field(default_factory=list)
    """The turn two before."""
    prev1: list[str] | str = Field(default_factory=list)
    next1: list[str] | str = Field(default_factory=list)
    annotations: list[str] | str = Field(default_factory=list)
    """Comments of experts: text, a list of text, or a list of objects with `rationale`, `comment`, …"""
    classifier: list[str] | str = Field(default_factory=list)
    model: list[str] | str = Field(default_factory=list)
    type: list[str] | str = Field(default_factory=list)
    provider: list[str] | str = Field(default_factory=list)
    temperature: list[str] | str = Field(default_factory=list)
    max_tokens: list[str] | str = Field(default_factory=list)
