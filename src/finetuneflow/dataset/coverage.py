"""Which records a dataset speaks of, and what to add."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from finetuneflow.dataset.mentions import NameIndex
from finetuneflow.dataset.quality import Language, is_negative, listed, load_quality, percentage, sentences
from finetuneflow.dataset.statistics import question_types
from finetuneflow.schemas.dataset import CoverageReport, FieldMapping
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.source import Record, RecordSource


def coverage(
    source: RecordSource, mapping: FieldMapping, examples: Sequence[Example], *, language: Language = "en"
) -> CoverageReport:
    """Records with the number of examples that speak of them; uncovered ones by name, in file order.

    An example made from this very file says which records it is about; any other one is about the records
    whose name or long name stands in one of its turns, as whole words.
    """
    names = {record.id: _name(record, mapping) for record in source.records}
    counts = _counts(source, mapping, examples)
    uncovered = [names[record.id] for record in source.records if not counts[record.id]]
    by_record: Counter[str] = Counter()
    for identifier, name in names.items():
        by_record[name] += counts[identifier]
    covered = len(source.records) - len(uncovered)
    return CoverageReport(
        records=len(source.records),
        covered=covered,
        uncovered=uncovered,
        coverage=round(covered / len(source.records), 4) if source.records else 0.0,
        question_types=question_types(examples),
        by_record=dict(by_record),
        recommendations=_recommendations(source, mapping, examples, uncovered, language),
    )


def _name(record: Record, mapping: FieldMapping) -> str:
    return _value(record, mapping.name) or record.id


def _value(record: Record, field: str | None) -> str:
    value = record.fields.get(field, "") if field else ""
    return (value if isinstance(value, str) else ", ".join(value)).strip()


def _counts(source: RecordSource, mapping: FieldMapping, examples: Sequence[Example]) -> Counter[str]:
    records = {record.id for record in source.records}
    by_name: defaultdict[str, set[str]] = defaultdict(set)
    for record in source.records:
        for name in (_name(record, mapping), _value(record, mapping.long_name)):
            if name:
                by_name[name].add(record.id)
    index = NameIndex(by_name)
    counts: Counter[str] = Counter()
    for example in examples:
        origin = example.provenance
        if origin.source_id == source.source_id:
            about = records.intersection(origin.record_ids)
        else:
            about = {record for name in index.find(_spoken(example)) for record in by_name[name]}
        counts.update(about)
    return counts


def _spoken(example: Example) -> str:
    turns = [message.content for message in example.messages if message.role != "system"]
    return "\n".join(turns) or example.text or ""


def _recommendations(
    source: RecordSource,
    mapping: FieldMapping,
    examples: Sequence[Example],
    uncovered: list[str],
    language: Language,
) -> list[str]:
    limits, texts = load_quality().thresholds, sentences(language).recommendations
    found = []
    if uncovered:
        found.append(texts["uncovered"].format(count=len(uncovered), names=listed(uncovered, language)))
    found += _about_types(mapping, examples, language)
    short = [
        _name(record, mapping)
        for record in source.records
        if 0
        < len(" ".join(_value(record, field) for field in mapping.definition).strip())
        < limits.short_definition_characters
    ]
    if short:
        figures = {"characters": limits.short_definition_characters, "count": len(short)}
        found.append(texts["short_definitions"].format(**figures, names=listed(short, language)))
    if len(examples) < limits.minimum_examples:
        found.append(texts["few_examples"].format(count=len(examples), minimum=limits.minimum_examples))
    if not any(map(is_negative, examples)):
        found.append(texts["no_negatives"])
    return found


def _about_types(mapping: FieldMapping, examples: Sequence[Example], language: Language) -> list[str]:
    """Says which types are missing or rare, when the examples know their types."""
    counts = question_types(examples)
    if not set(counts) - {"other"}:
        return []
    texts, share = sentences(language).recommendations, load_quality().thresholds.minimum_type_share
    answerable = [
        kind for kind in ("definition", "status", "domain", "actors", "sites") if getattr(mapping, kind)
    ]
    missing = [kind for kind in (*answerable, "comparative", "listing") if not counts.get(kind)]
    rare = [
        kind for kind, count in counts.items() if kind != "other" and count < share * sum(counts.values())
    ]
    found = []
    if missing:
        found.append(texts["missing_types"].format(names=", ".join(missing)))
    if rare:
        figure = percentage(share, language)
        found.append(texts["rare_types"].format(share=figure, names=", ".join(rare)))
    return found
