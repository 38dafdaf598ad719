"""Documents to examples: questions whose answers are verbatim spans of the source text."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from finetuneflow.dataset.document_facts import Fact, words
from finetuneflow.dataset.document_rules import facts
from finetuneflow.dataset.french import fold
from finetuneflow.schemas.example import Example, Message, Provenance
from finetuneflow.schemas.source import Document

GENERATOR = "documents-rules/1"


class Generator(Protocol):
    """Makes question-answer examples from a document; every answer carries its span."""

    def generate(self, document: Document) -> list[Example]:
        """Examples with `provenance.start` and `provenance.end` of the answer in `document.text`."""
        ...


class RulesGenerator:
    """The embedded generator: no model, no network, every wording of every fact."""

    def generate(self, document: Document) -> list[Example]:
        """All examples that the rules find, in document order, wordings of one fact together."""
        examples: list[Example] = []
        for fact in _distinct(facts(document)):
            examples.extend(_ask(fact, document))
        return _unambiguous(examples)


def generate(
    document: Document,
    *,
    num_questions: int | None = None,
    seed: int = 0,
    generator: Generator | None = None,
) -> list[Example]:
    """Grounded examples of a document: `document.text[start:end] == answer` holds for each.

    `num_questions` caps their number: one wording of each fact comes before a second of any, spread over the
    document and over the kinds of questions, by `seed`. Without a cap every wording is given.
    """
    made = (generator or RulesGenerator()).generate(document)
    examples = [example for example in made if grounded(example, document)]
    if num_questions is None or num_questions >= len(examples):
        return examples
    return _choose(examples, max(0, num_questions), seed)


def grounded(example: Example, document: Document) -> bool:
    """True when the answer stands in the document at the place that the example names."""
    start, end = example.provenance.start, example.provenance.end
    return start is not None and end is not None and document.text[start:end] == example.answer != ""


def _ask(fact: Fact, document: Document) -> list[Example]:
    examples = []
    answer = document.text[fact.start : fact.end]
    for number, template in words(document.language)["wordings"][fact.wording].items():
        question = _typography(template.format(**fact.forms))
        examples.append(
            Example(
                messages=[Message(role="user", content=question), Message(role="assistant", content=answer)],
                provenance=Provenance(
                    source_id=document.source_id,
                    source_name=document.name,
                    page=fact.page,
                    start=fact.start,
                    end=fact.end,
                    question_type=f"document.{fact.question_type}",
                    wording=f"{document.language}.document.{fact.wording}.{number}",
                    fact=f"{document.source_id}:{fact.start}-{fact.end}:{fact.question_type}",
                    generator=GENERATOR,
                ),
            )
        )
    return examples


def _typography(question: str) -> str:
    """A question with one final mark and a capital."""
    question = re.sub(r"\s+", " ", question).strip()
    question = re.sub(r"\?\s*([»\"”])\s*\?$", r"\1 ?" if " ?" in question else r"\1?", question)
    return question[:1].upper() + question[1:]


def _distinct(found: Sequence[Fact]) -> list[Fact]:
    """Facts without those that ask for the same span in the same way twice."""
    seen: set[tuple[str, int, int]] = set()
    kept = []
    for fact in found:
        key = (fact.question_type, fact.start, fact.end)
        if key not in seen:
            seen.add(key)
            kept.append(fact)
    return kept


def _unambiguous(examples: list[Example]) -> list[Example]:
    """Examples without questions that have two different answers in the document, and without repeats."""
    answers: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        answers[fold(example.question)].add(fold(example.answer))
    seen: set[str] = set()
    kept = []
    for example in examples:
        key = fold(example.question)
        if len(answers[key]) == 1 and key not in seen:
            seen.add(key)
            kept.append(example)
    return kept


def _choose(examples: list[Example], number: int, seed: int) -> list[Example]:
    """`number` examples in document order: facts first, wordings second, spread over kinds and places."""
    order = random.Random(seed)  # noqa: S311 - a choice, not a secret
    by_fact: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_fact[example.provenance.fact or example.question].append(example)
    for asked in by_fact.values():
        order.shuffle(asked)
    chosen: list[Example] = []
    depth = 0
    while len(chosen) < number:
        layer = [asked[depth] for asked in by_fact.values() if depth < len(asked)]
        room = number - len(chosen)
        chosen.extend(layer if len(layer) <= room else _spread(layer, room, order))
        depth += 1
    return sorted(
        chosen, key=lambda e: (e.provenance.start or 0, e.provenance.end or 0, e.provenance.wording or "")
    )


def _spread(layer: list[Example], number: int, order: random.Random) -> list[Example]:
    """`number` of `layer`: as even over the kinds as they allow, and even over the document in each kind."""
    by_kind: dict[str, list[Example]] = defaultdict(list)
    for example in layer:
        by_kind[example.provenance.question_type or ""].append(example)
    share = dict.fromkeys(by_kind, 0)
    left = number
    while left:
        for kind, members in by_kind.items():
            if left and share[kind] < len(members):
                share[kind] += 1
                left -= 1
    chosen: list[Example] = []
    for kind, members in by_kind.items():
        if share[kind]:
            step = len(members) / share[kind]
            offset = order.random() * step
            chosen.extend(members[min(int(offset + step * i), len(members) - 1)] for i in range(share[kind]))
    return chosen
