"""Questions that the catalogue cannot answer, so that a model learns to say so."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from finetuneflow.dataset import french
from finetuneflow.dataset.facts import Fact
from finetuneflow.dataset.field_values import SINGLE_TYPES, field_names, record_name, type_values
from finetuneflow.dataset.predicates import predicate
from finetuneflow.dataset.wording import Wording, name_forms, phrases, wordings
from finetuneflow.schemas.dataset import FieldMapping, QuestionType
from finetuneflow.schemas.source import RecordSource

_TOO_SIMILAR = 0.7
_ATTEMPTS = 1000


def negatives(
    source: RecordSource,
    mapping: FieldMapping,
    types: Sequence[QuestionType],
    names: Sequence[str],
    number: int,
    generator: random.Random,
) -> list[tuple[Fact, Wording]]:
    """`number` questions without an answer: half on empty fields, half on invented names.

    `names` are the records' display names. Where too few fields are empty, more names are invented.
    """
    asked_types = [kind for kind in types if kind in SINGLE_TYPES and field_names(mapping, kind)]
    if not asked_types:
        asked_types = [kind for kind in SINGLE_TYPES if field_names(mapping, kind)] or ["definition"]
    empty = [
        (fact, wording)
        for fact in _empty_field_facts(source, mapping, asked_types, names)
        for wording in fact.wordings
    ]
    generator.shuffle(empty)
    chosen = empty[: number // 2]
    invented = _invented_names(source, mapping, generator)
    while len(chosen) < number and (name := next(invented, "")):
        kind = asked_types[len(chosen) % len(asked_types)]
        fact = _unknown_fact(name, kind, mapping)
        chosen.append((fact, generator.choice(fact.wordings)))
    return chosen


def _empty_field_facts(
    source: RecordSource, mapping: FieldMapping, types: Sequence[QuestionType], names: Sequence[str]
) -> Iterator[Fact]:
    sentences: dict[str, str] = phrases(mapping.language)["negatives"]["empty"]
    folded = [french.fold(name) for name in names]
    for kind in types:
        speaking = {
            folded[index]
            for index, record in enumerate(source.records)
            if predicate(record, kind, mapping) or type_values(record, kind, mapping)
        }
        for index, record in enumerate(source.records):
            if names[index] and folded[index] not in speaking:
                forms = name_forms(names[index], mapping)
                answer = french.sentence(sentences[kind].format(**forms))
                key = f"{record.id}:{kind}"
                yield Fact(key, "negative", (index,), answer, forms, wordings(mapping.language, kind))


def _unknown_fact(name: str, kind: QuestionType, mapping: FieldMapping) -> Fact:
    forms = name_forms(name, mapping)
    answer = french.sentence(phrases(mapping.language)["negatives"]["unknown"].format(**forms))
    return Fact(f"unknown {name}:{kind}", "negative", (), answer, forms, wordings(mapping.language, kind))


def _invented_names(source: RecordSource, mapping: FieldMapping, generator: random.Random) -> Iterator[str]:
    """Names shaped like those of a catalogue that nothing in this one resembles; ends when none are left."""
    parts = phrases(mapping.language)["negatives"]
    known = {_pairs(french.fold(record_name(record, mapping))) for record in source.records}
    everything = "\n".join(
        french.fold(text)
        for record in source.records
        for value in record.fields.values()
        for text in ([value] if isinstance(value, str) else value)
    )
    failed = 0
    while failed < _ATTEMPTS:
        syllables = generator.choices(parts["syllables"], k=generator.choice((1, 2)))
        name = "".join([*syllables, generator.choice(parts["endings"])]).capitalize()
        shape = generator.random()
        if shape < 0.3:
            name = french.unaccented(name).upper()
        elif shape < 0.45:
            name = f"{name}-{generator.randint(2, 9)}"
        folded = french.fold(name)
        pairs = _pairs(folded)
        if folded in everything or any(_alike(pairs, other) for other in known):
            failed += 1
            continue
        failed = 0
        known.add(pairs)
        yield name


def _pairs(name: str) -> frozenset[str]:
    """The pairs of neighbouring letters: names that share most of them look alike."""
    return frozenset(f" {name} "[place : place + 2] for place in range(len(name) + 1))


def _alike(first: frozenset[str], second: frozenset[str]) -> bool:
    return 2 * len(first & second) > _TOO_SIMILAR * (len(first) + len(second))
