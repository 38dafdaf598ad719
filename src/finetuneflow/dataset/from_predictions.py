"""A classifier's wrong predictions to training examples: context, corrected answer, comments of experts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from finetuneflow.dataset.assets import read_yaml
from finetuneflow.schemas.error_report import Charter, Language
from finetuneflow.schemas.example import Example, Message, Provenance
from finetuneflow.schemas.prediction import Prediction, Surroundings

ExampleStyle = Literal["document", "plain", "label"]
GENERATOR = "errors/1"
_NAME = re.compile(r"\{(\w+)\}")
_NOTHING = Surroundings()


class ErrorExamples:
    """Makes examples of wrong predictions."""

    def __init__(
        self,
        charter: Charter,
        language: Language,
        *,
        style: ExampleStyle = "document",
        labels: Iterable[str] = (),
    ) -> None:
        """Chooses the words.

        Args:
            charter: Gives the system prompt and the justification.
            language: Of the prompts.
            style: `document`: the question shows the wrong prediction, the answer is explained, comments of
                experts stand in the system prompt. `plain`: as the model will be asked when it serves, with
                the label alone as answer. `label`: text and label, for a classifier.
            labels: Named in the system prompt where the charter names none.
        """
        self._charter = charter
        self._language = language
        self._style = style
        self._words: dict[str, str] = read_yaml("prompts/error_examples.yaml")[language]
        self._system = self._fill(charter.prompts.system.say(language), labels)

    def _fill(self, template: str, labels: Iterable[str]) -> str:
        names = list(self._charter.labels) or sorted(labels)
        definitions = "\n".join(
            f"- {label}: {words.say(self._language)}" for label, words in self._charter.labels.items()
        )
        priority = " > ".join(self._charter.priority or names)
        return fill(template, priority=priority, labels=", ".join(names), definitions=definitions)

    def messages(self, row: Prediction) -> list[dict[str, str]]:
        """System prompt, question with its context, corrected answer."""
        around = row.around or _NOTHING
        plain = self._style == "plain"
        return [
            {"role": "system", "content": self._system if plain else self._system_prompt(around)},
            {"role": "user", "content": self._question(row, around)},
            {"role": "assistant", "content": row.gold if plain else self._answer(row, around)},
        ]

    def _system_prompt(self, around: Surroundings) -> str:
        if not around.annotations:
            return self._system
        comments = "\n".join(f"{number}. {comment}" for number, comment in enumerate(around.annotations, 1))
        template = self._fill(self._charter.prompts.with_comments.say(self._language), ())
        return fill(template, comments=comments)

    def _question(self, row: Prediction, around: Surroundings) -> str:
        turns = (
            ("prev2", around.prev2),
            ("prev1", around.prev1),
            ("current", row.text),
            ("next1", around.next1),
        )
        lines = [fill(self._words[key], turn=turn) for key, turn in turns if turn]
        if len(lines) > 1:
            lines.insert(0, self._words["context"])
        if self._style == "plain":
            return "\n".join([*lines, "", self._words["plain_question"]])
        confidence = self._words["unknown"] if row.confidence is None else f"{row.confidence * 100:.1f}%"
        question = fill(self._words["question"], predicted=row.predicted, confidence=confidence)
        return "\n".join([*lines, "", question])

    def _answer(self, row: Prediction, around: Surroundings) -> str:
        why = self._charter.prompts.justification.say(self._language)
        if around.annotations:
            reason = fill(self._words["by_expert"], comment=around.annotations[0])
        else:
            reason = fill(self._words["by_charter"], justification=why) if why else ""
        wrong = fill(self._words["wrong"], predicted=row.predicted, gold=row.gold)
        parts = [fill(self._words["answer"], gold=row.gold), reason, wrong]
        return "\n\n".join(part for part in parts if part)

    def line(self, row: Prediction) -> dict[str, Any]:
        """The example as a line of the training file, with its metadata."""
        if self._style == "label":
            return {"text": row.text, "label": row.gold}
        return {"messages": self.messages(row), "metadata": metadata(row)}

    def example(self, row: Prediction, *, source: str, source_id: str | None = None) -> Example:
        """The example in the internal form, with where it comes from."""
        provenance = Provenance(
            source_name=Path(source).name, source_id=source_id, line=row.line, generator=GENERATOR
        )
        if row.around and row.around.turn_id:
            provenance.parent = row.around.turn_id
        if self._style == "label":
            return Example(text=row.text, label=row.gold, provenance=provenance)
        turns = [Message.model_validate(message) for message in self.messages(row)]
        return Example(messages=turns, provenance=provenance)


def fill(template: str, **values: str) -> str:
    """The template with `{name}` replaced, in one pass: what is filled in is never filled again."""
    return _NAME.sub(lambda name: values.get(name[1], name[0]), template)


def metadata(row: Prediction) -> Mapping[str, Any]:
    """What the document keeps beside each example."""
    around = row.around or _NOTHING
    turn = around.turn_id
    return {
        "turnId": int(turn) if turn and turn.isascii() and turn.isdigit() else turn,
        "verbatim": row.text,
        "context": {
            "prev2": around.prev2,
            "prev1": around.prev1,
            "current": row.text,
            "next1": around.next1,
        },
        "predicted": row.predicted,
        "goldStandard": row.gold,
        "confidence": row.confidence,
        "annotations": list(around.annotations),
        "algo": {
            "classifier": around.classifier or "unknown",
            "model": around.model,
            "type": around.type,
            "provider": around.provider,
            "temperature": around.temperature,
            "max_tokens": around.max_tokens,
        },
    }


def wrong_predictions(rows: Iterable[Prediction]) -> Iterator[Prediction]:
    """Those that an example can be made of."""
    return (row for row in rows if not row.correct)
