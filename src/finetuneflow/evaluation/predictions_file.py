"""The answers of an evaluation that has ended, read back whole: every arm answers every item once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from finetuneflow.errors import InputError
from finetuneflow.schemas.evaluation import Arm, Prediction

HINT = "evaluate the run again, or give the file of that evaluation"


def read_predictions(path: Path) -> dict[Arm, list[Prediction]]:
    """Arm to its answers, all arms in the same order of items.

    Raises:
        InputError: unreadable, not an answer (names the line), or arms that answered other items.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the answers cannot be read", HINT, path=path) from error
    found: dict[Arm, list[Prediction]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            arm = cast(Arm, row.pop("arm"))
            found.setdefault(arm, []).append(Prediction.model_validate(row))
        except (ValidationError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError("this is not an answer of an arm", HINT, path=path, line=number) from error
    if not found:
        raise InputError("there are no answers", HINT, path=path)
    items = {arm: [row.item_id for row in rows] for arm, rows in found.items()}
    first, expected = next(iter(items.items()))
    for arm, ids in items.items():
        if sorted(ids) != sorted(expected) or len(set(ids)) != len(ids):
            raise InputError(
                f"the arms `{first}` and `{arm}` did not answer the same items once each", HINT, path=path
            )
    place = {item: number for number, item in enumerate(expected)}
    return {arm: sorted(rows, key=lambda row: place[row.item_id]) for arm, rows in found.items()}
