"""A record as a short passage of text, for retrieval."""

from __future__ import annotations

import re

from finetuneflow.dataset.field_values import SINGLE_TYPES, clean, field_names, type_values
from finetuneflow.dataset.french import upper_first
from finetuneflow.dataset.wording import phrases
from finetuneflow.schemas.dataset import FieldMapping
from finetuneflow.schemas.source import FieldValue, Record


def record_passage(record: Record, mapping: FieldMapping) -> str:
    """The mapped fields of a record, one `Field : value` a line, name first; empty fields are left out.

    Codes are spelled out as in the answers, so that a reader of the passage can answer in the same words.
    """
    lines = [
        (field, _text(record.fields.get(field, ""))) for field in (mapping.name, mapping.long_name) if field
    ]
    for question_type in SINGLE_TYPES:
        values = type_values(record, question_type, mapping)
        for field in dict.fromkeys(field_names(mapping, question_type)):
            lines.append((field, ", ".join(value for origin, value in values if origin == field)))
    separator = phrases(mapping.language)["passage"]["separator"]
    return "\n".join(f"{field_label(field)}{separator}{text}" for field, text in lines if text)


def field_label(field: str) -> str:
    """A field's name for people: `contexte-usage` → `Contexte usage`, `STATUT` → `Statut`."""
    words = re.sub(r"[\s_-]+", " ", field).strip()
    return upper_first(words.lower() if words.isupper() and len(words) > 3 else words)


def _text(value: FieldValue) -> str:
    return ", ".join(clean(part) for part in ([value] if isinstance(value, str) else value))
