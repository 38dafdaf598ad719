"""The wordings of questions, from `assets/questions/{fr,en}.yaml`, and the forms of a name that fill them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from finetuneflow.dataset import english, french
from finetuneflow.dataset.assets import read_yaml
from finetuneflow.schemas.dataset import FieldMapping


@dataclass(frozen=True)
class Wording:
    """One way to ask: `id` such as `fr.status.3`, `text` with placeholders."""

    id: str
    text: str
    held_out: bool


@lru_cache(maxsize=4)
def phrases(language: str) -> dict[str, Any]:
    """Everything the questions and answers of a language are made of."""
    content: dict[str, Any] = read_yaml(f"questions/{language}.yaml")
    return content


@lru_cache(maxsize=64)
def wordings(language: str, kind: str, *, held_out: bool = False) -> Sequence[Wording]:
    """The wordings of one kind of question (a question type, `listing_status` or `listing_domain`).

    Ordinary ones, or with `held_out` those that are kept out of training.
    """
    found = []
    for number, entry in phrases(language)["questions"][kind].items():
        text, kept_out = (entry["text"], entry["held_out"]) if isinstance(entry, dict) else (entry, False)
        if kept_out is held_out:
            found.append(Wording(f"{language}.{kind}.{number}", text, kept_out))
    return tuple(found)


def name_forms(name: str, mapping: FieldMapping) -> dict[str, str]:
    """The placeholders of a question or answer about one record called `name`."""
    if mapping.language == "fr":
        the = _french_subject(name, mapping)
        return {
            "name": name,
            "of": french.of(name),
            "the": the,
            "The": french.upper_first(the),
            "of_the": french.of(the),
            "that": french.that(name),
            **entity_forms(mapping),
        }
    the = f"the {name}" if _names_itself(name, mapping) else f"the {name} {mapping.entity}"
    return {"name": name, "the": the, "The": french.upper_first(the), **entity_forms(mapping)}


def entity_forms(mapping: FieldMapping) -> dict[str, str]:
    """The placeholders that depend on what a record is."""
    if mapping.language == "en":
        return {"entities": english.plural(mapping.entity), "e": ""}
    feminine = mapping.entity_gender == "f"
    which = "quelles" if feminine else "quels"
    return {
        "entities": french.plural(mapping.entity),
        "e": "e" if feminine else "",
        "pronoun": "elle" if feminine else "il",
        "pronouns": "elles" if feminine else "ils",
        "which": which,
        "Which": which.capitalize(),
    }


def criterion(value: str, mapping: FieldMapping) -> str:
    """`value` as it stands in a question or answer that lists: between the quotes of the language."""
    return french.quoted(value) if mapping.language == "fr" else english.quoted(value)


def _french_subject(name: str, mapping: FieldMapping) -> str:
    name = name.removesuffix(f" ({mapping.entity})")
    if _names_itself(name, mapping):
        return french.definite(french.lower_first(name), mapping.entity_gender)
    return f"{french.definite(mapping.entity, mapping.entity_gender)} {name}"


def _names_itself(name: str, mapping: FieldMapping) -> bool:
    """Whether the name says what it is (« Logiciel de paie »), so that the noun is not said twice."""
    own, entity = french.fold(name).split(), french.fold(mapping.entity).split()
    place = own[: len(entity)] if mapping.language == "fr" else own[-len(entity) :]
    return place == entity and len(own) > len(entity)
