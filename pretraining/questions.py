"""Questions and answers on one field, in one of many wordings, as people type them."""

import random

from records import Record, strip_accents, wordings


def fill(pattern: str, language: str, **parts: str) -> str:
    """`pattern` with its parts, elided as French wants it, and a capital at the start."""
    text = pattern.format(**parts)
    name = parts.get("n", "")
    if language == "fr" and name[:1] in "aeiouyhAEIOUYHÉÈ" and name[:1].isalpha():
        text = text.replace(f" de {name}", f" d'{name}").replace(f" que {name}", f" qu'{name}")
    return text if name and text.startswith(name) else text[:1].upper() + text[1:]


def noisy(rng: random.Random, question: str) -> str:
    """`question` as people type it: now and then in lower case, without accents, with a typo."""
    draw = rng.random()
    if draw < 0.06:
        return question[:1].lower() + question[1:]
    if draw < 0.10:
        return strip_accents(question)
    if draw < 0.13:
        return question.rstrip(" ?.")
    if draw < 0.15 and len(question) > 12:
        place = rng.randrange(1, 8)
        return question[:place] + question[place + 1 :]
    return question


def _named(rng: random.Random, name: str, language: str) -> str:
    return str(rng.choice(wordings()["name_forms"][language])).format(n=name)


def ask_field(rng: random.Random, record: Record, field: str, name: str | None = None) -> str:
    """A question about one field, in one of its many wordings."""
    data, language = wordings(), record.language
    called = _named(rng, name or record.name, language)
    if field.startswith("generic/") or rng.random() < 0.05:
        key = record.keys.get(field, field)
        question = fill(rng.choice(data["generic"]["questions"][language]), language, n=called, k=key)
    else:
        question = fill(rng.choice(data["fields"][field]["questions"][language]), language, n=called)
    if rng.random() < 0.06:
        inner = (
            question if question.startswith((record.name, called)) else question[:1].lower() + question[1:]
        )
        question = rng.choice(data["wrappers"][language]).format(q=inner)
    return noisy(rng, question)


def answer_field(rng: random.Random, record: Record, field: str, sentence: bool) -> str:
    """The value as written, or a sentence that holds it."""
    value, language = record.values[field], record.language
    if not sentence:
        return value
    spec = wordings()["generic"] if field.startswith("generic/") else wordings()["fields"][field]
    patterns = spec["sentences"][language]
    pattern = patterns[0] if rng.random() < 0.6 else rng.choice(patterns)
    return fill(pattern, language, n=record.name, k=record.keys[field], v=value)
