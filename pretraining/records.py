"""Invented application records: names, field values, and the ways a record is written down."""

import functools
import json
import random
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Prose: TypeAlias = dict[str, list[tuple[str, str]]]
"""Language to (heading, paragraph) pairs of real text."""


@functools.cache
def wordings() -> dict[str, Any]:
    """The data file, checked: no question holds a wording that is kept for evaluation."""
    data: dict[str, Any] = yaml.safe_load(
        (Path(__file__).parent / "exercises.yaml").read_text(encoding="utf-8")
    )
    for name, spec in data["fields"].items():
        for question in [*spec["questions"]["fr"], *spec["questions"]["en"]]:
            if any(piece in question.lower() for piece in data["kept_for_evaluation"]):
                raise ValueError(f"the {name} question {question!r} is kept for evaluation")
    return data


@dataclass
class Record:
    """One application. `values` maps a field (or a free key, for `generic/...`) to its written value."""

    name: str
    language: str
    name_key: str
    keys: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)


def strip_accents(text: str) -> str:
    """`text` without its diacritics."""
    return "".join(char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char))


def invent_word(rng: random.Random, syllables: int) -> str:
    """A pronounceable word that means nothing."""
    values = wordings()["values"]
    return "".join(rng.choice(values["syllable"]) for _ in range(syllables)) + rng.choice(values["coda"])


def invent_name(rng: random.Random) -> str:
    """A name as applications have them: an acronym, a word, CamelCase, two words, digits."""
    letters = "ABCDEFGHIJKLMNOPRSTUVX"
    acronym = "".join(rng.choice(letters) for _ in range(rng.randint(2, 6)))
    word = invent_word(rng, rng.choice([2, 2, 3]))
    other = invent_word(rng, rng.choice([1, 2]))
    shapes = [
        word.upper(),
        word.upper(),
        word.capitalize(),
        acronym,
        f"{acronym}{rng.randint(1, 99)}",
        f"{acronym}-{other.upper()}",
        f"{rng.randint(2, 12)}-{acronym}",
        word.capitalize() + other.capitalize(),
        f"{word.capitalize()} {other.capitalize()}",
        f"{word.upper()} {rng.randint(2, 9)}",
        f"{word.capitalize()}{acronym[:2]}",
        f"e-{word}",
        word,
    ]
    return rng.choice(shapes)


def invent_phrase(rng: random.Random, prose: Prose, language: str, longest: int = 4) -> str:
    """One to `longest` words in a row from real prose."""
    words = rng.choice(prose[language])[1].split()
    start = rng.randrange(max(1, len(words) - longest))
    return " ".join(words[start : start + rng.randint(1, longest)]).strip(" .,;:()«»\"'") or "x"


def _several(rng: random.Random, options: list[str], most: int) -> str:
    return ", ".join(rng.sample(options, rng.choice([1, 1, *range(1, most + 1)])))


def _description(rng: random.Random, prose: Prose, language: str) -> str:
    if rng.random() < 0.2:
        sentence = rng.choice(prose[language])[1].split(". ")[0].rstrip(".")
        return " ".join(sentence.split()[: rng.randint(6, 16)]).rstrip(" ,;:")
    values = wordings()["values"]
    parts = [rng.choice(values[name][language]) for name in ("kind", "action", "object")]
    if rng.random() < 0.3:
        parts.append(("et " if language == "fr" else "and ") + rng.choice(values["object"][language]))
    return " ".join(parts) + rng.choice(values["audience"][language])


def _team(rng: random.Random, language: str) -> str:
    values = wordings()["values"]
    kind = rng.random()
    if kind < 0.6:
        return f"{rng.choice(values['team'][language])} {rng.choice(values['team_topic'][language])}"
    if kind < 0.8:
        return "".join(rng.choice("ABCDEFGILMNOPRST") for _ in range(rng.randint(3, 5)))
    return f"{rng.choice(values['first_name'])} {invent_word(rng, 2).capitalize()}"


def _contact(rng: random.Random, name: str) -> str:
    values = wordings()["values"]
    slug = "".join(char for char in strip_accents(name).lower() if char.isalnum())
    kind = rng.random()
    if kind < 0.5:
        return f"{rng.choice(values['mail_box'])}-{slug}@{rng.choice(values['mail_host'])}"
    if kind < 0.65:
        return f"{slug}@{rng.choice(values['mail_host'])}"
    if kind < 0.8:
        return "0" + " ".join([str(rng.randint(1, 9)), *(f"{rng.randrange(100):02d}" for _ in range(4))])
    return f"{rng.choice(values['first_name'])} {invent_word(rng, 2).capitalize()}"


def _number(rng: random.Random, field_name: str, language: str) -> str:
    if field_name == "version":
        return ".".join(str(rng.randrange(20)) for _ in range(rng.choice([2, 2, 3])))
    if field_name == "start":
        return str(rng.randint(1985, 2026))
    digits = str(rng.choice([rng.randint(5, 999), rng.randint(1, 90) * 1000, rng.randint(1, 90) * 100]))
    if field_name == "budget":
        units = ["€", "k€", "euros"] if language == "fr" else ["€", "k€", "euros", "dollars"]
        return f"{digits} {rng.choice(units)}"
    return digits


def invent_value(rng: random.Random, prose: Prose, language: str, name: str, field_name: str) -> str:
    """A value for one field."""
    values = wordings()["values"]
    if field_name in ("version", "start", "users", "budget"):
        return _number(rng, field_name, language)
    if field_name == "description":
        return _description(rng, prose, language)
    if field_name == "long_name":
        parts = [rng.choice(values[part][language]) for part in ("long_word", "long_adjective", "long_topic")]
        return " ".join(parts if rng.random() < 0.6 else [parts[0], parts[2]])
    if field_name == "domain":
        return _several(rng, values["domain"][language], 3)
    if field_name == "sites":
        return rng.choice(values["site_kind"][language]) + _several(rng, values["city"], 4)
    if field_name in ("actors", "contact"):
        people = field_name == "actors"
        return (
            ", ".join(_team(rng, language) for _ in range(rng.choice([1, 1, 2])))
            if people
            else _contact(rng, name)
        )
    if field_name == "hosting":
        return f"{rng.choice(values['host_kind'][language])} {invent_word(rng, 2).capitalize()}"
    if field_name in ("licence", "language"):
        return str(rng.choice(values[field_name]))
    if field_name == "status" and rng.random() < 0.9:
        return str(rng.choice(values["status"][language]))
    return invent_phrase(rng, prose, language)


def invent_records(rng: random.Random, prose: Prose, language: str, count: int) -> list[Record]:
    """`count` records with distinct names, which mostly share their fields and keys."""
    spec = wordings()["fields"]
    chosen = rng.sample(list(spec), rng.randint(2, 7 if count < 4 else 5))
    keys = {name: rng.choice(spec[name]["keys"][language]) for name in chosen}
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        key = invent_phrase(rng, prose, language, 2)
        keys[f"generic/{key}"] = key[:1].upper() + key[1:]
    name_key = rng.choice(wordings()["name_keys"][language])
    records: list[Record] = []
    while len(records) < count:
        name = invent_name(rng)
        if any(name.lower() == record.name.lower() for record in records):
            continue
        record = Record(name, language, name_key)
        order = list(keys)
        if rng.random() < 0.5:
            rng.shuffle(order)
        for field_name in order:
            if rng.random() < 0.93 or not record.values:
                record.keys[field_name] = keys[field_name]
                record.values[field_name] = invent_value(rng, prose, language, name, field_name)
        if record.values.get("long_name") and rng.random() < 0.4:
            record.name = "".join(
                word[0] for word in record.values["long_name"].replace("'", " ").split()
            ).upper()
        if sum(record.name == other.name for other in records) == 0:
            records.append(record)
    return records


def write_record(rng: random.Random, record: Record, style: str) -> str:
    """The record as a passage. Styles: lines, heading, bullets, json, prose."""
    colon = " : " if record.language == "fr" else ": "
    pairs = [(record.keys[name], value) for name, value in record.values.items()]
    if style == "lines":
        return "\n".join(f"{key}{colon}{value}" for key, value in [(record.name_key, record.name), *pairs])
    if style == "heading":
        return "\n".join([f"# {record.name}", *(f"{key}{colon}{value}" for key, value in pairs)])
    if style == "bullets":
        mark = rng.choice(["- ", "* ", "- **"])
        bold = "**" if mark == "- **" else ""
        return "\n".join([f"## {record.name}", *(f"{mark}{key}{bold}{colon}{value}" for key, value in pairs)])
    if style == "json":
        return json.dumps(
            {record.name_key: record.name, **dict(pairs)}, ensure_ascii=False, indent=rng.choice([None, 1])
        )
    patterns = wordings()["prose"][record.language]
    sentences = []
    for index, (name, value) in enumerate(record.values.items()):
        options = patterns[name.split("/")[0]]
        pattern = (
            rng.choice([option for option in options if "{n}" in option] or options)
            if index == 0
            else rng.choice(options)
        )
        sentences.append(pattern.format(n=record.name, k=record.keys[name], v=value))
    text = " ".join(sentence[:1].upper() + sentence[1:] for sentence in sentences)
    if record.name in sentences[0]:
        return text
    return f"# {record.name}\n{text}"
