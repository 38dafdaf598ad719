"""Question-answer pairs from records: every pair is built from the record alone, by templates."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import TypeAlias, TypeVar

from finetuneflow.dataset import negatives
from finetuneflow.dataset.facts import Fact, catalogue_facts, display_names
from finetuneflow.dataset.field_mapping import check_mapping
from finetuneflow.dataset.wording import Wording, wordings
from finetuneflow.errors import DatasetError
from finetuneflow.schemas.dataset import FieldMapping, QuestionType
from finetuneflow.schemas.example import Example, Message, Provenance
from finetuneflow.schemas.source import RecordSource

GENERATOR = "records-template/1"
QUESTION_TYPES: tuple[QuestionType, ...] = (
    "definition",
    "status",
    "domain",
    "actors",
    "sites",
    "comparative",
    "listing",
)
NEGATIVE_SHARE = 0.1

Asked: TypeAlias = tuple[Fact, Wording]
Item = TypeVar("Item")


def generate(
    source: RecordSource,
    mapping: FieldMapping,
    *,
    num_questions: int | None = None,
    question_types: Sequence[QuestionType] | None = None,
    add_negatives: bool = False,
    seed: int = 0,
    system_prompt: str | None = None,
    held_out_wordings: bool = False,
) -> list[Example]:
    """Distinct questions with their answers, balanced over types and records, the same for the same seed.

    `num_questions` counts negatives (one in ten with `add_negatives`); None asks every fact in every wording.
    Where fewer are possible (see `possible_questions`), all are given. `held_out_wordings` adds, beyond
    that number, each fact asked once more in the wordings kept out of training.
    Raises InputError when the mapping names a field that the source lacks, DatasetError when there is
    nothing to ask.
    """
    check_mapping(mapping, source)
    types = [kind for kind in QUESTION_TYPES if question_types is None or kind in question_types]
    names = display_names(source, mapping)
    generator = random.Random(seed)  # noqa: S311 - no secret depends on it
    facts = catalogue_facts(source, mapping, types, names)
    if not facts:
        raise DatasetError(
            f"no question can be made: the fields for {', '.join(types) or 'no type'} are unmapped or empty",
            "name the fields in the mapping, or choose other question types",
            path=source.name,
        )
    generator.shuffle(facts)
    possible = sum(len(fact.wordings) for fact in facts)
    wanted = possible if num_questions is None else max(num_questions, 0)
    refusals: list[Asked] = []
    if add_negatives:
        share = NEGATIVE_SHARE / (1 - NEGATIVE_SHARE)
        number = round(possible * share) if num_questions is None else round(wanted * NEGATIVE_SHARE)
        refusals = negatives.negatives(source, mapping, types, names, number, generator)
        wanted -= len(refusals) if num_questions is not None else 0
    chosen = _choose(facts, wanted, generator)
    if held_out_wordings:
        chosen += [(fact, wording) for fact in _facts_of(chosen) for wording in _held_out(fact, mapping)]
    asked = _shuffled(chosen + refusals, generator)
    return [_example(source, fact, wording, system_prompt) for fact, wording in asked]


def possible_questions(
    source: RecordSource, mapping: FieldMapping, question_types: Sequence[QuestionType] | None = None
) -> dict[str, int]:
    """How many distinct questions each type allows, negatives and held-out wordings not counted."""
    check_mapping(mapping, source)
    types = [kind for kind in QUESTION_TYPES if question_types is None or kind in question_types]
    facts = catalogue_facts(source, mapping, types, display_names(source, mapping))
    counts: dict[str, int] = dict.fromkeys(types, 0)
    for fact in facts:
        counts[fact.question_type] += len(fact.wordings)
    return counts


def _choose(facts: Sequence[Fact], wanted: int, generator: random.Random) -> list[Asked]:
    """Distinct questions: first one for each record, then the types in turn, one wording after another."""
    queues: dict[str, deque[Asked]] = {}
    of_record: dict[int, list[Fact]] = {}
    first: dict[Fact, Asked] = {}
    by_type: dict[str, list[Fact]] = {}
    for fact in facts:
        by_type.setdefault(fact.question_type, []).append(fact)
        for index in fact.records:
            of_record.setdefault(index, []).append(fact)
    for kind in sorted(by_type):
        queues[kind] = deque(_rounds(by_type[kind], generator))
        first |= {fact: (fact, wording) for fact, wording in reversed(queues[kind])}
    chosen: dict[str, Asked] = {}
    used: Counter[str] = Counter()
    covered: set[int] = set()
    for index in _shuffled(of_record, generator):
        if len(chosen) < wanted and index not in covered:
            fact = min(of_record[index], key=lambda fact: used[fact.question_type])
            chosen.setdefault(fact.question(first[fact][1]), first[fact])
            used[fact.question_type] += 1
            covered.update(fact.records)
    while len(chosen) < wanted and (left := [kind for kind, queue in queues.items() if queue]):
        kind = min(left, key=lambda kind: used[kind])
        fact, wording = queues[kind].popleft()
        if (question := fact.question(wording)) not in chosen:
            chosen[question] = fact, wording
            used[kind] += 1
    return list(chosen.values())


def _rounds(facts: Sequence[Fact], generator: random.Random) -> Iterable[Asked]:
    """Every fact in a first wording, then every fact in a second …; a round uses all wordings alike."""
    orders = {}
    for fact in facts:
        if (kind := fact.wordings[0].id) not in orders:
            orders[kind] = _shuffled(fact.wordings, generator)
    longest = max(len(order) for order in orders.values())
    for turn in range(longest):
        for place, fact in enumerate(facts):
            order = orders[fact.wordings[0].id]
            if turn < len(order):
                yield fact, order[(place + turn) % len(order)]


def _shuffled(items: Iterable[Item], generator: random.Random) -> list[Item]:
    shuffled = list(items)
    generator.shuffle(shuffled)
    return shuffled


def _facts_of(asked: Sequence[Asked]) -> list[Fact]:
    return list(dict.fromkeys(fact for fact, _ in asked))


def _held_out(fact: Fact, mapping: FieldMapping) -> Sequence[Wording]:
    kind = fact.question_type
    return () if kind in ("comparative", "listing") else wordings(mapping.language, kind, held_out=True)


def _example(source: RecordSource, fact: Fact, wording: Wording, system_prompt: str | None) -> Example:
    messages = [Message(role="system", content=system_prompt)] if system_prompt else []
    messages += [
        Message(role="user", content=fact.question(wording)),
        Message(role="assistant", content=fact.answer),
    ]
    records = [source.records[index] for index in fact.records]
    provenance = Provenance(
        source_id=source.source_id,
        source_name=source.name,
        record_ids=[record.id for record in records],
        line=records[0].line if records else None,
        question_type=fact.question_type,
        wording=wording.id,
        fact=fact.key,
        wording_held_out=wording.held_out,
        generator=GENERATOR,
    )
    return Example(messages=messages, provenance=provenance)
