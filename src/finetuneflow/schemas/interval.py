"""A measured figure and how sure it is."""

from __future__ import annotations

from finetuneflow.schemas.base import Schema


class Interval(Schema):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float
