"""A fact that a document states: what to ask, and where the answer stands; and the words to ask with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from finetuneflow.dataset import french
from finetuneflow.dataset.assets import read_yaml

_MARKUP = re.compile(r"[*`<>|{}\\_\[\]]|https?:|\.{4,}|www\.")
_UNIT = re.compile(r"(?P<name>.+?)\s*\((?P<unit>[^()]+)\)")


@dataclass(frozen=True)
class Fact:
    """An answer with its place, and how to ask for it."""

    question_type: str
    """definition, section, list, key_value or table."""
    wording: str
    """Which group of wordings asks for it."""
    start: int
    """Span of the answer in the document's text."""
    end: int
    forms: Mapping[str, str]
    """What the placeholders of the wordings stand for."""
    page: int | None = None


@lru_cache(maxsize=4)
def words(language: str) -> dict[str, Any]:
    """Everything that questions on documents are made of, in one language."""
    content: dict[str, Any] = read_yaml(f"questions/documents.{language}.yaml")
    return content


@lru_cache(maxsize=64)
def pattern(language: str, name: str) -> re.Pattern[str]:
    """A regular expression of the language's file."""
    flags = 0 if name == "definition" else re.IGNORECASE
    return re.compile(words(language)[name], flags)


@lru_cache(maxsize=8)
def list_leads(language: str) -> tuple[re.Pattern[str], ...]:
    """What sentences look like that name the things listed after them."""
    return tuple(re.compile(lead, re.IGNORECASE) for lead in words(language)["list_leads"])


@lru_cache(maxsize=64)
def word_set(language: str, name: str) -> frozenset[str]:
    """A word list of the language's file."""
    return frozenset(str(word).lower() for word in words(language)[name])


def clean_phrase(text: str) -> bool:
    """True for a phrase that can stand in a question: no markup, address or dot leaders."""
    return bool(text) and not _MARKUP.search(text) and any(character.isalpha() for character in text)


def title_form(text: str) -> str:
    """A title as it stands inside quotes: no number in front, no closing mark."""
    text = re.sub(r"^(?:\d+(?:\.\d+)*[.)]?|[IVX]+[.)]|[A-Z]\.)\s+", "", text)
    return re.sub(r"[«»\"“”]", "'", text).strip().rstrip(".:;,").strip()


def key_forms(key: str, name: str, language: str, *, numeric: bool = False) -> tuple[bool, dict[str, str]]:
    """Whether `key` takes an article in a question on `name`, and the placeholders for it.

    `numeric` says that the values are numbers, so that brackets in the key hold their unit.
    """
    unit = ""
    bracket = _UNIT.fullmatch(key)
    if bracket:
        key = bracket["name"]
        if numeric and re.fullmatch(r"[\w%€$°/²³. ]+", bracket["unit"]):
            unit = bracket["unit"]
    shown_unit = ""
    if unit:
        template = str(words(language)["unit"])
        shown_unit = template.format(unit=re.sub(r"^(?:in|en)\s", "", unit))
    noun = _lowered(key)
    forms = {"key": noun, "name": name, "unit": shown_unit}
    if language == "en":
        several = _several_en(noun)
        forms |= {
            "which": "what are" if several else "what is",
            "Which": "What are" if several else "What is",
        }
        return len(noun.split()) <= 5, forms
    gender, several = gender_of(noun), _several_fr(noun)
    forms["of"] = french.of(name)
    if gender is None:
        return False, {**forms, "key": key}
    which = {"m": "quel", "f": "quelle"}[gender] + ("s sont" if several else " est")
    the = f"les {noun}" if several else french.definite(noun, gender)
    return True, {**forms, "which": which, "Which": which.capitalize(), "the_key": the}


def gender_of(phrase: str) -> str | None:
    """Gender of a French noun phrase, by its first word; None when in doubt."""
    head = re.match(r"[\w-]+", phrase.lower())
    if head is None:
        return None
    noun = head.group()
    for word in dict.fromkeys((noun, noun.rstrip("s"), noun.rstrip("x"))):
        if word in word_set("fr", "feminine"):
            return "f"
        if word in word_set("fr", "masculine"):
            return "m"
    singular = noun if noun in word_set("fr", "singular_s") else noun.rstrip("s")
    if len(singular) < 5:
        return None
    if singular.endswith(tuple(words("fr")["feminine_endings"])):
        return "f"
    if singular.endswith(tuple(words("fr")["masculine_endings"])):
        return "m"
    return None


def _several_fr(phrase: str) -> bool:
    noun = phrase.split()[0].lower()
    return noun.endswith(("s", "x")) and noun not in word_set("fr", "singular_s")


def _several_en(phrase: str) -> bool:
    noun = re.split(r"\s(?:of|for|in|to|per|by)\s", phrase)[0].split()[-1].lower()
    return noun.endswith("s") and not noun.endswith(("ss", "us", "is", "ies of", "news"))


def _lowered(key: str) -> str:
    """A column title as a noun: `SECTEUR` → secteur, `Official Language` → official language, `URL` stays."""
    result = []
    for word in key.split():
        letters = re.sub(r"[^\w]|_", "", word)
        shouting = letters.isupper() and (len(letters) > 4 or (key.isupper() and len(key) > 5))
        titled = letters[1:].islower() or len(letters) == 1
        result.append(word.lower() if shouting or titled else word)
    return " ".join(result)
