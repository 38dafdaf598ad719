"""What an answer says after its subject: one fixed phrase for each record and type of question."""

from __future__ import annotations

import re
from typing import Any

from finetuneflow.dataset import english, french
from finetuneflow.dataset.field_values import long_name, record_name, type_values
from finetuneflow.dataset.wording import entity_forms, phrases
from finetuneflow.schemas.dataset import FieldMapping, QuestionType
from finetuneflow.schemas.source import Record

_MAX_CHARACTERS = 400
_OF = re.compile(r" d(?:e|u|es)\b| d['’]")
_ARTICLE = re.compile(r"(?:une? |l[ea] |l['’])", re.IGNORECASE)
_LINKED_SITE = re.compile(r" - (?:www\.)?\S+\.\w{2,6}\.?$")
_SENTENCE_END = re.compile(r"(?<=[.!?…]) (?=[A-ZÀ-Þ])")


def predicate(record: Record, question_type: QuestionType, mapping: FieldMapping) -> str | None:
    """What the record says on a type of question, after « L'application GESTOR »; None when it says nothing.

    « est en production », « relève du domaine « Eau » »; no final full stop.
    """
    values = type_values(record, question_type, mapping)
    if question_type == "definition":
        texts = [value for _, value in values]
        return _definition(texts, record_name(record, mapping), long_name(record, mapping), mapping)
    if not values:
        return None
    make = {"status": _status, "domain": _domain, "actors": _actors, "sites": _sites}[question_type]
    return make(values, mapping)


def _phrase(key: str, mapping: FieldMapping, value: str) -> str:
    template: str = phrases(mapping.language)["predicates"][key]
    return template.format(value=value, **entity_forms(mapping))


def _quoted(text: str, mapping: FieldMapping) -> str:
    return french.quoted(text) if mapping.language == "fr" else english.quoted(text)


def _join(values: list[str], mapping: FieldMapping) -> str:
    return french.join(values, phrases(mapping.language)["conjunction"])


def _status(values: list[tuple[str, str]], mapping: FieldMapping) -> str:
    texts = [value for _, value in values]
    states = [
        french.state(text, mapping.entity_gender) if mapping.language == "fr" else english.state(text)
        for text in texts
    ]
    known = [state for state in states if state]
    if len(known) == len(texts):
        return _phrase("status_state", mapping, _join(known, mapping))
    return _phrase("status_quoted", mapping, _join([_quoted(text, mapping) for text in texts], mapping))


def _domain(values: list[tuple[str, str]], mapping: FieldMapping) -> str:
    names = [_quoted(value, mapping) for _, value in values]
    return _phrase("domain_one" if len(names) == 1 else "domain_many", mapping, _join(names, mapping))


def _actors(values: list[tuple[str, str]], mapping: FieldMapping) -> str:
    return _phrase("actors", mapping, _join([_actor(*pair, mapping) for pair in values], mapping))


def _actor(field: str, value: str, mapping: FieldMapping) -> str:
    text = value.rstrip(".")
    if mapping.language == "fr":
        head = french.first_word(text)
        for gender, nouns in french.lexicon()["organisations"].items():
            if head in nouns:
                return french.definite(text, gender)
    elif {text.split(" ")[0].lower(), text.split(" ")[-1].lower()} & set(english.lexicon()["organisations"]):
        return f"the {text}" if text.split(" ")[0].lower() != "the" else text
    # A code says nothing by itself: MIMO in a field « groupe » is le groupe MIMO.
    prefixes = {french.fold(key): words for key, words in phrases(mapping.language)["actor_prefixes"].items()}
    is_code = " " not in text and text.upper() == text
    return f"{prefixes[french.fold(field)]} {text}" if is_code and french.fold(field) in prefixes else text


def _sites(values: list[tuple[str, str]], mapping: FieldMapping) -> str:
    names = [value.rstrip(".") for _, value in values]
    number = "" if len(names) == 1 else "s"
    if not all(map(_is_place, names)):
        return _phrase(f"sites_other{number}", mapping, _join(names, mapping))
    places = [french.of(name) for name in names] if mapping.language == "fr" else names
    return _phrase(f"sites_place{number}", mapping, _join(places, mapping))


def _is_place(name: str) -> bool:
    words = re.split(r"[ '’-]", name)
    lexicon = french.lexicon()
    if french.first_word(name) in lexicon["not_places"] or any(map(str.isdigit, name)):
        return False
    organisations = lexicon["organisations"]
    if french.first_word(name) in organisations["m"] + organisations["f"]:
        return False
    capitals = [word for word in words if word and word not in lexicon["place_particles"]]
    return bool(capitals) and all(re.fullmatch(r"[A-ZÀ-Þ][a-zà-ÿœæ]+", word) for word in capitals)


def _definition(texts: list[str], name: str, full_name: str, mapping: FieldMapping) -> str | None:
    """The first text as a phrase, the long name in brackets before it, the other texts after it."""
    if not texts:
        return _phrase("definition_long_name", mapping, _quoted(full_name, mapping)) if full_name else None
    described = _described(_shortened(_without_subject(texts[0], name, mapping)), mapping)
    more = "".join(
        f". {french.upper_first(text.rstrip('.'))}" for text in texts[1:] if len(text) < _MAX_CHARACTERS
    )
    return (f"({full_name}) " if full_name else "") + described + more


def _without_subject(text: str, name: str, mapping: FieldMapping) -> str:
    """« GESTOR suit … », « Cette application suit … » without what comes before the verb."""
    entity = rf"(?:(?:l['’]|les? |la |cette |cet? |the |this )?{re.escape(mapping.entity)} )"
    subject = re.match(rf"(?:{entity}?{re.escape(name)} |{entity})(?=\w)", text, re.IGNORECASE)
    rest = text[subject.end() :] if subject else ""
    head = french.first_word(rest)
    verbs = french.lexicon()["verbs"].values() if mapping.language == "fr" else english.lexicon()["verbs"]
    return rest if head in verbs else text


def _described(text: str, mapping: FieldMapping) -> str:
    text = _LINKED_SITE.sub("", text)
    # What follows a colon or a dash is a second description: no sentence can take both.
    apart = ": " in text or " - " in text
    phrase = None if apart else _french_phrase(text) if mapping.language == "fr" else _english_phrase(text)
    if phrase is None:
        return _phrase("definition_quoted", mapping, _quoted(text, mapping))
    kind, value = phrase
    return _phrase(kind, mapping, value)


def _french_phrase(text: str) -> tuple[str, str] | None:
    """How to continue « L'application X » with a description, by its first word; None when it is unknown."""
    words, head = french.lexicon(), french.first_word(text)
    lowered = french.lower_first(text).rstrip(".")
    if head in words["verbs"].values() and not (
        head in words["also_nouns"] and _OF.match(lowered[len(head) :])
    ):
        return "definition_verb", lowered
    if head in words["verbs"]:
        return "definition_use", f"à {lowered}"
    if re.match(r"[\w-]+(,| et| ou| &| /) ", lowered):
        return None
    article = _ARTICLE.match(text)
    if article and french.first_word(text[article.end() :]) in words["things"]["m"] + words["things"]["f"]:
        return "definition_thing", lowered
    for gender, nouns in words["things"].items():
        if head in nouns:
            return "definition_thing", french.indefinite(lowered, gender)
    for gender, nouns in words["activities"].items():
        if head in nouns and not _is_enumeration(lowered, words):
            return "definition_use", french.to(french.definite(lowered, gender))
    return None


def _is_enumeration(text: str, words: dict[str, Any]) -> bool:
    """Whether several activities stand side by side (« gestion de parc et suivi »)."""
    nouns = words["activities"]["m"] + words["activities"]["f"]
    following = re.findall(r"(?:,|/| et| ou|&)\s*([\w-]+)", text.lower())
    return any(word in nouns or word in ("mise", "prise") for word in following)


def _english_phrase(text: str) -> tuple[str, str] | None:
    words, head = english.lexicon(), french.first_word(text)
    lowered = french.lower_first(text).rstrip(".")
    if head in words["verbs"]:
        return "definition_verb", lowered
    if re.match(r"(?:An?|The) ", text, re.IGNORECASE):
        return "definition_thing", lowered
    if head in words["things"]:
        return "definition_thing", lowered if head in words["uncountable"] else english.indefinite(lowered)
    if head in words["activities"] and " and " not in lowered:
        return "definition_use", lowered
    return None


def _shortened(text: str) -> str:
    """`text` up to the last whole sentence within the limit; the first sentence when even that is longer."""
    if len(text) <= _MAX_CHARACTERS:
        return text
    kept = ""
    for piece in _SENTENCE_END.split(text):
        if kept and len(kept) + len(piece) >= _MAX_CHARACTERS:
            break
        kept = f"{kept} {piece}".strip()
    return kept
