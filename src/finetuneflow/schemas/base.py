"""The base of all schemas."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    """Refuses unknown keys and reads field descriptions from attribute docstrings."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
