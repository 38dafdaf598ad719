"""English grammar for sentences put together from values: articles, plural, states."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from finetuneflow.dataset.assets import read_yaml
from finetuneflow.dataset.french import first_word, lower_first


@lru_cache(maxsize=1)
def lexicon() -> dict[str, Any]:
    """The word lists of `assets/questions/en.yaml`."""
    words: dict[str, Any] = read_yaml("questions/en.yaml")["lexicon"]
    return words


def indefinite(noun: str) -> str:
    """`noun` with its article: an application, a tool, a unit."""
    head = first_word(noun)
    sounds_like_a_vowel = head[:1] in "aeiou" and not head.startswith(("uni", "use", "usa", "eu", "one"))
    return f"an {noun}" if sounds_like_a_vowel else f"a {noun}"


def plural(phrase: str) -> str:
    """The plural of a noun phrase by its last word: applications, libraries, boxes."""
    *before, word = phrase.split(" ")
    irregular = lexicon()["plural_irregular"].get(word.lower())
    if irregular:
        made = str(irregular)
    elif word.endswith(("s", "x", "z", "ch", "sh")):
        made = word + "es"
    elif word.endswith("y") and word[-2:-1] not in "aeiou":
        made = word[:-1] + "ies"
    else:
        made = word + "s"
    return " ".join([*before, made])


def state(value: str) -> str | None:
    """`value` made to follow `is` (in production, retired); None where that would not be English."""
    text = value.strip().rstrip(".")
    head, *rest = text.split(" ")
    words = lexicon()
    known = head.lower() in words["states"] if not rest else head.lower() in words["state_beginnings"]
    return lower_first(text) if known and len(rest) < 6 else None


def quoted(text: str) -> str:
    """`text` between straight double quotes, its own turned single, without its final full stop."""
    return '"' + text.replace('"', "'").strip().rstrip(".") + '"'
