"""Figures of a classifier, with how far its confidence can be trusted."""

from __future__ import annotations

from pydantic import Field

from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.interval import Interval


class ReliabilityBin(Schema):
    """One point of the reliability curve: items of about the same confidence."""

    items: int
    confidence: float
    """Mean probability of the predicted label."""
    accuracy: Interval
    """With Wilson's interval."""


class Calibration(Schema):
    """Does 80 % sure mean right 4 times in 5?"""

    items: int
    ece: float
    """Expected calibration error over bins of equally many items, 0 to 1."""
    ece_by_chance: float
    """What a perfectly calibrated model would show on so few items."""
    brier: float
    """Squared distance from the truth, summed over labels: 0 to 2."""
    bins: list[ReliabilityBin] = Field(default_factory=list)
    temperature: float | None = None
    """Fitted on validation data; above 1 the model is too sure."""
    temperature_reason: str = ""
    """Why there is no temperature, or why it means little."""
    ece_scaled: float | None = None
    """ECE at that temperature."""
    brier_scaled: float | None = None


class ClassificationScores(Schema):
    """Figures of a classifier on the test split; null with a reason where one is undefined."""

    items: int
    accuracy: float
    macro_f1: float
    macro_precision: float
    macro_recall: float
    kappa: float | None
    per_label: dict[str, dict[str, float]] = Field(default_factory=dict)
    confusion: list[list[int]] = Field(default_factory=list)
    """Rows: gold, columns: predicted, in the order of `labels`."""
    labels: list[str] = Field(default_factory=list)
    weighted_precision: float = 0.0
    weighted_recall: float = 0.0
    weighted_f1: float = 0.0
    """Mean over labels, each as often as it is gold."""
    kappa_reason: str = ""
    """Why kappa is null."""
    calibration: Calibration | None = None
    calibration_reason: str = ""
    """Why there is no calibration."""
