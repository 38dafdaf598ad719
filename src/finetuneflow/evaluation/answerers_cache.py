"""Answers kept by content: who answered, how, and what exactly was asked. No torch.

One JSONL file for each pair of answerer and settings: evaluations that run at the same time only ever append,
and a folder that grew too large can be emptied at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from finetuneflow.artifacts import disk_errors
from finetuneflow.evaluation.answerers import Generation
from finetuneflow.schemas.answerer import Answered

VERSION = 1
"""To be raised when the same prompt and settings come to mean another answer."""


class AnswerCache:
    """What one answerer answered, in this evaluation and before."""

    def __init__(self, folder: Path | None, identity: str, how: Generation) -> None:
        settings = [VERSION, identity, how.max_new_tokens, how.seed]
        name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]
        self.path = folder / f"{name}.jsonl" if folder else None
        self._answers: dict[str, Answered] = {}
        if self.path and self.path.exists():
            for line in self.path.read_bytes().split(b"\n"):
                self._remember(line)

    def _remember(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            key = row.pop("prompt")
            self._answers[key] = Answered.model_validate(row)
        except (ValueError, KeyError, AttributeError, ValidationError):
            return  # an empty line, or one that was being written when the process was killed

    def get(self, prompt: str) -> Answered | None:
        """The answer to a prompt, if it was given."""
        return self._answers.get(_key(prompt))

    def add(self, answers: Mapping[str, Answered]) -> None:
        """Keeps answers by prompt, in one write: those of a batch stay together."""
        rows = {_key(prompt): answer for prompt, answer in answers.items()}
        self._answers.update(rows)
        if self.path is None or not rows:
            return
        # A newline first: the line before may have been cut short by a kill.
        text = "".join(
            "\n" + json.dumps({"prompt": key, **row.model_dump(exclude_defaults=True)}, ensure_ascii=False)
            for key, row in rows.items()
        )
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                file.write(text.encode() + b"\n")


def _key(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
