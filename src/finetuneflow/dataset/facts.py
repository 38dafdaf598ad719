"""Facts: everything a catalogue can be asked, each with its one answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from finetuneflow.dataset import french
from finetuneflow.dataset.field_values import SINGLE_TYPES, long_name, record_name, type_values
from finetuneflow.dataset.predicates import predicate
from finetuneflow.dataset.wording import Wording, criterion, entity_forms, name_forms, phrases, wordings
from finetuneflow.schemas.dataset import FieldMapping, QuestionType
from finetuneflow.schemas.source import Record, RecordSource

MAX_LISTED = 8
"""A list of more records than this is no answer to learn."""
_MAX_STEPS = 100
"""How far to look for a record that differs."""


@dataclass(frozen=True, eq=False)
class Fact:
    """One thing that can be asked in several wordings and has one answer."""

    key: str
    question_type: str
    records: tuple[int, ...]
    """Positions of the records that the answer is built from."""
    answer: str
    forms: dict[str, str]
    """What the placeholders of the wordings stand for."""
    wordings: Sequence[Wording]

    def question(self, wording: Wording) -> str:
        """The fact asked in one wording."""
        return wording.text.format(**self.forms)


def display_names(source: RecordSource, mapping: FieldMapping) -> list[str]:
    """What each record is called in questions: its name, made unambiguous where several share it.

    The long name tells them apart, else the identifier, in brackets; a record without a name gives "".
    """
    names = [record_name(record, mapping) for record in source.records]
    same: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        same[french.fold(name) or name].append(index)
    for indices in same.values():
        if len(indices) > 1 and names[indices[0]]:
            for index, remark in zip(indices, _remarks(source, indices, mapping), strict=True):
                names[index] = f"{names[index]} ({remark})" if remark else names[index]
    return names


def _remarks(source: RecordSource, indices: list[int], mapping: FieldMapping) -> list[str]:
    records = [source.records[index] for index in indices]
    by_long_name = [long_name(record, mapping) for record in records]
    if len({french.fold(text) for text in by_long_name if text}) == len(records):
        return by_long_name
    identifiers = [record.fields.get(mapping.id, "") if mapping.id else "" for record in records]
    return [
        identifier if isinstance(identifier, str) else ", ".join(identifier) for identifier in identifiers
    ]


def single_facts(
    source: RecordSource, mapping: FieldMapping, types: Sequence[QuestionType], names: Sequence[str]
) -> Iterator[Fact]:
    """The facts about one record; those that two records of one name answer differently are left out."""
    for question_type in types:
        if question_type not in SINGLE_TYPES:
            continue
        by_name: dict[str, list[Fact]] = defaultdict(list)
        asked = wordings(mapping.language, question_type)
        for index, record in enumerate(source.records):
            said = predicate(record, question_type, mapping) if names[index] else None
            if said:
                forms = name_forms(names[index], mapping)
                answer = french.sentence(f"{forms['The']} {said}")
                key = f"{record.id}:{question_type}"
                by_name[french.fold(names[index]) or names[index]].append(
                    Fact(key, question_type, (index,), answer, forms, asked)
                )
        for facts in by_name.values():
            if len({fact.answer for fact in facts}) == 1:
                yield replace(facts[0], records=tuple(fact.records[0] for fact in facts))


def comparative_facts(source: RecordSource, mapping: FieldMapping, names: Sequence[str]) -> Iterator[Fact]:
    """One comparison for each record, with the next record in the file that differs in a field both have."""
    said = [_compared(record, mapping) for record in source.records]
    taken: set[tuple[int, int]] = set()
    count = Counter(map(french.fold, names))
    unique = [index for index, name in enumerate(names) if name and count[french.fold(name)] == 1]
    for place, first in enumerate(unique):
        for step in range(1, min(len(unique), _MAX_STEPS)):
            second = unique[(place + step) % len(unique)]
            pair = (min(first, second), max(first, second))
            differing = [
                key for key in said[first] if said[second].get(key, said[first][key]) != said[first][key]
            ]
            if differing and pair not in taken:
                taken.add(pair)
                yield _comparison(source, mapping, names, (first, second), differing, said)
                break


def _compared(record: Record, mapping: FieldMapping) -> dict[str, str]:
    kinds: tuple[QuestionType, ...] = ("status", "domain", "actors", "sites")
    return {kind: said for kind in kinds if (said := predicate(record, kind, mapping))}


def _comparison(
    source: RecordSource,
    mapping: FieldMapping,
    names: Sequence[str],
    pair: tuple[int, int],
    differing: list[str],
    said: list[dict[str, str]],
) -> Fact:
    # Status and domain say enough; the people and places only where those do not differ.
    main = [key for key in differing if key in ("status", "domain")] or differing[:1]
    words = phrases(mapping.language)
    first, second = (name_forms(names[index], mapping) for index in pair)
    sides = [f" {words['conjunction']} ".join(said[index][key] for key in main) for index in pair]
    contrast = words["contrast"].format(the_a=first["The"], a=sides[0], the_b=second["the"], b=sides[1])
    forms = {**entity_forms(mapping), "a": first["name"], "b": second["name"], "of_b": second.get("of", "")}
    key = "~".join(source.records[index].id for index in pair) + ":comparative"
    asked = wordings(mapping.language, "comparative")
    return Fact(key, "comparative", pair, french.sentence(contrast), forms, asked)


def listing_facts(source: RecordSource, mapping: FieldMapping, names: Sequence[str]) -> Iterator[Fact]:
    """The records of one status or one domain, where they are between 2 and `MAX_LISTED`, by name."""
    kinds: tuple[QuestionType, ...] = ("status", "domain")
    for kind in kinds:
        members: dict[str, list[int]] = defaultdict(list)
        spelling: dict[str, str] = {}
        for index, record in enumerate(source.records):
            for _, value in type_values(record, kind, mapping):
                same = french.fold(value.replace("&", " et " if mapping.language == "fr" else " and "))
                spelling.setdefault(same, value)
                members[same].append(index)
        for same, indices in members.items():
            listed = sorted({names[index] for index in indices if names[index]}, key=french.fold)
            if 2 <= len(listed) <= MAX_LISTED:
                yield _listing(mapping, kind, spelling[same], tuple(indices), listed)


def _listing(
    mapping: FieldMapping, kind: str, value: str, indices: tuple[int, ...], listed: list[str]
) -> Fact:
    words = phrases(mapping.language)
    forms = {**entity_forms(mapping), "criterion": criterion(value, mapping)}
    answer = words["listing_answers"][kind].format(value=french.join(listed, words["conjunction"]), **forms)
    asked = wordings(mapping.language, f"listing_{kind}")
    return Fact(
        f"{french.fold(value)}:listing_{kind}", "listing", indices, french.sentence(answer), forms, asked
    )


def catalogue_facts(
    source: RecordSource, mapping: FieldMapping, types: Sequence[QuestionType], names: Sequence[str]
) -> list[Fact]:
    """All facts of the chosen types, in the order of the types and of the file."""
    facts = list(single_facts(source, mapping, types, names))
    if "comparative" in types:
        facts += comparative_facts(source, mapping, names)
    if "listing" in types:
        facts += listing_facts(source, mapping, names)
    return facts
