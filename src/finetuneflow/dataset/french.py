"""French grammar for sentences put together from values: elision, articles, plural, agreement, typography."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from finetuneflow.dataset.assets import read_yaml

_VOWELS = frozenset("aeiouœæ")
_FIRST_WORD = re.compile(r"[\w]+(?:-[\w]+)*")


@lru_cache(maxsize=1)
def lexicon() -> dict[str, Any]:
    """The word lists of `assets/questions/french.yaml`."""
    words: dict[str, Any] = read_yaml("questions/french.yaml")
    return words


@lru_cache(maxsize=100_000)
def fold(text: str) -> str:
    """`text` without accents, case, or runs of spaces and punctuation: what makes two words the same."""
    return re.sub(r"[\W_]+", " ", unaccented(text)).strip()


def unaccented(text: str) -> str:
    """`text` in lower case and without accents."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFD", text.casefold().replace("œ", "oe").replace("æ", "ae"))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def first_word(text: str) -> str:
    """The first word in lower case, hyphens kept: `sous-direction`."""
    match = _FIRST_WORD.match(text)
    return match.group().lower() if match else ""


def elides(following: str, *, proper: bool = False) -> bool:
    """Whether `le`, `de`, `que` lose their vowel before `following`.

    A proper name in h does not elide (Hedgedoc, HAProxy): most of them are foreign or spelled out.
    """
    word = first_word(following)
    if not word or not following[0].isalpha():
        return False
    letter = unaccented(word)[:1]
    if word in lexicon()["no_elision"]:
        return False
    if letter == "h":
        return not proper and word not in lexicon()["aspirated_h"]
    if letter == "y":
        return len(word) > 1 and unaccented(word)[1] not in _VOWELS
    return letter in _VOWELS


def definite(noun: str, gender: str) -> str:
    """`noun` with its definite article: l'application, le logiciel, la base."""
    if elides(noun):
        return f"l'{noun}"
    return f"la {noun}" if gender == "f" else f"le {noun}"


def indefinite(noun: str, gender: str) -> str:
    """`noun` with its indefinite article: une application, un outil."""
    return f"une {noun}" if gender == "f" else f"un {noun}"


def of(phrase: str) -> str:
    """`de` before a name or before a phrase that may begin with an article.

    de GESTOR, d'Ondivelle, du logiciel, de l'application, du Havre.
    """
    return _contract("de", phrase) or (
        f"d'{phrase}" if elides(phrase, proper=_is_name(phrase)) else f"de {phrase}"
    )


def to(phrase: str) -> str:
    """`à` before a phrase that may begin with an article: au logiciel, à l'application, aux agents."""
    return _contract("à", phrase) or f"à {phrase}"


def that(phrase: str) -> str:
    """`que` before a name or a phrase: que GESTOR, qu'Ondivelle, que l'application."""
    return f"qu'{phrase}" if elides(phrase, proper=_is_name(phrase)) else f"que {phrase}"


def _contract(preposition: str, phrase: str) -> str:
    contracted = {"de": {"le": "du", "les": "des"}, "à": {"le": "au", "les": "aux"}}[preposition]
    head, space, rest = phrase.partition(" ")
    if space and head.lower() in contracted:
        return f"{contracted[head.lower()]} {rest}"
    return ""


def _is_name(phrase: str) -> bool:
    return any(character.isupper() for character in phrase.split(" ")[0])


def plural(phrase: str) -> str:
    """The plural of a noun with its adjectives: applications, journaux, systèmes d'information."""
    words = phrase.split(" ")
    for index, word in enumerate(words):
        if index and (word.lower() in lexicon()["plural_stops"] or re.match(r"[dl]['’]", word.lower())):
            break
        words[index] = _plural_word(word)
    return " ".join(words)


def _plural_word(word: str) -> str:
    irregular = lexicon()["plural_irregular"].get(word.lower())
    if irregular:
        return str(irregular)
    if word.endswith(("s", "x", "z")):
        return word
    if word.endswith("al"):
        return word[:-1] + "ux"
    if word.endswith(("eau", "eu", "au")):
        return word + "x"
    return word + "s"


def state(value: str, gender: str) -> str | None:
    """`value` made to follow `est`, agreeing with `gender`; None where that would not be French.

    « en production » stays, « recommandé » agrees (« recommandée »), « Niveau 3 » is refused.
    """
    text = value.strip().rstrip(".")
    words = text.split(" ")
    head = words[0].lower()
    if not text or len(words) > 6:
        return None
    if len(words) > 1 and head in lexicon()["state_beginnings"]:
        return lower_first(text)
    agreed = _agreed(head, gender)
    if agreed is None or (len(words) > 1 and words[1].lower() in ("et", "ou")):
        return None
    return " ".join([agreed, *words[1:]])


def _agreed(word: str, gender: str) -> str | None:
    feminine: dict[str, str] = lexicon()["feminine"]
    if word in feminine:
        return feminine[word] if gender == "f" else word
    if word in feminine.values():
        masculine = next(key for key, value in feminine.items() if value == word)
        return word if gender == "f" else masculine
    if word.endswith("ée"):
        return word if gender == "f" else word[:-1]
    if word.endswith("é") and len(word) > 3:
        return word + "e" if gender == "f" else word
    return None


def lower_first(text: str) -> str:
    """`text` without its leading capital, unless the first word is an acronym or has capitals inside."""
    word = first_word(text)
    original = text[: len(word)]
    if len(original) > 1 and original[1:] != original[1:].lower():
        return text
    return text[:1].lower() + text[1:]


def upper_first(text: str) -> str:
    """`text` with a leading capital; the rest is left alone."""
    return text[:1].upper() + text[1:]


def join(values: Sequence[str], conjunction: str = "et") -> str:
    """A list in a sentence: `A`, `A et B`, `A, B et C`."""
    if len(values) < 2:
        return "".join(values)
    return f"{', '.join(values[:-1])} {conjunction} {values[-1]}"


def quoted(text: str) -> str:
    """`text` between guillemets; guillemets inside become double quotes.

    The spaces are plain ones, as people type them and as the wordings of questions have them.
    """
    inner = re.sub(r"«\s*|\s*»", '"', text)
    return f"« {inner.strip().rstrip('.')} »"


def sentence(text: str) -> str:
    """`text` as one sentence: single spaces, a capital, one final mark."""
    flat = re.sub(r"\s+", " ", text).strip()
    if not flat.endswith((".", "!", "?", "…")):
        flat += "."
    return upper_first(re.sub(r"(?<!\.)\.\.$", ".", flat))
