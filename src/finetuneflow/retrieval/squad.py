"""Files in SQuAD's shape (`data` → `paragraphs` → `qas`): passages with questions about them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from finetuneflow.errors import InputError

SURROUNDINGS = 40
"""Characters on each side of an answer that tell its place in other texts."""


class _Answer(msgspec.Struct):
    text: str
    answer_start: int


class _Question(msgspec.Struct):
    question: str
    answers: list[_Answer] = []
    is_impossible: bool = False


class _Paragraph(msgspec.Struct):
    context: str
    qas: list[_Question] = []


class _Article(msgspec.Struct):
    paragraphs: list[_Paragraph]
    title: str = ""


class _File(msgspec.Struct):
    data: list[_Article]


class Paragraph(NamedTuple):
    """A passage of the file."""

    title: str
    text: str


class AskedSpan(NamedTuple):
    """A question, and the answer's place as text."""

    question: str
    around: str | None
    """The answer with what stands around it, spaces made one; null when the text does not answer it."""


class Squad(NamedTuple):
    """What such a file holds."""

    paragraphs: list[Paragraph]
    questions: list[AskedSpan]


def read_squad(path: Path, data: bytes | None = None) -> Squad | None:
    """Passages and questions of a file; None when it is no such file.

    Raises:
        InputError: it has the shape, but an answer does not stand where the file says.
    """
    if path.suffix.lower() != ".json":
        return None
    try:
        found = msgspec.json.decode(path.read_bytes() if data is None else data, type=_File)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    paragraphs = []
    questions = []
    for article in found.data:
        for paragraph in article.paragraphs:
            paragraphs.append(Paragraph(article.title.replace("_", " "), paragraph.context))
            questions += list(_questions(paragraph, path))
    return Squad(paragraphs, questions)


def _questions(paragraph: _Paragraph, path: Path) -> Iterator[AskedSpan]:
    for asked in paragraph.qas:
        if asked.is_impossible or not asked.answers:
            yield AskedSpan(asked.question, None)
            continue
        answer = asked.answers[0]
        start, end = answer.answer_start, answer.answer_start + len(answer.text)
        if start < 0 or paragraph.context[start:end] != answer.text:
            raise InputError(
                f"the answer `{answer.text[:40]}` does not stand at character {start} of its context",
                "`answer_start` counts characters from 0",
                path=path,
            )
        around = paragraph.context[max(0, start - SURROUNDINGS) : end + SURROUNDINGS]
        yield AskedSpan(asked.question, " ".join(around.split()))
