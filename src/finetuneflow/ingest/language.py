"""Which of the two languages of the generator a text is in: French or English."""

from __future__ import annotations

import importlib
import re
from functools import cache
from typing import Any, Literal

Language = Literal["fr", "en"]

_WORD = re.compile(r"[^\W\d_]+")
# Words of Latin (et, est, in, a) are left out: filler text is often in it.
_FRENCH = frozenset(
    "le la les l une des du de d sont dans pour par avec sur que qui ce cette ces au aux il elle ou où"
    " pas ne se son sa ses leur être été données gestion logiciel outil nom statut domaine".split()
)
_ENGLISH = frozenset(
    "the an of to and is are for by with on that which this these it its or not as from be was were has have"
    " you your we can will when if data management software tool name status domain".split()
)
_ACCENTS = re.compile("[éèêëàâçîïôûùœ]")
_SAMPLE = 20_000


def detect_language(text: str, default: Language = "en") -> Language:
    """`fr` or `en`, judged on about 20,000 characters spread over the text; `default` when it has no words.

    Small words settle nearly every text in milliseconds; only a close call loads the statistical model (about
    a second).
    """
    sample = _spread(text)
    words = [word.lower() for word in _WORD.findall(sample)]
    if not words:
        return default
    french = sum(word in _FRENCH for word in words) + len(_ACCENTS.findall(sample.lower()))
    english = sum(word in _ENGLISH for word in words)
    if french + english >= 5 and max(french, english) >= 2 * min(french, english):
        return "fr" if french > english else "en"
    return "fr" if _identifier().classify(sample)[0] == "fr" else "en"


def _spread(text: str) -> str:
    if len(text) <= _SAMPLE:
        return text
    part = _SAMPLE // 5
    step = (len(text) - part) // 4
    return "\n".join(text[start : start + part] for start in range(0, 4 * step + 1, step))


@cache
def _identifier() -> Any:
    # By name: the package brings numpy and a model that most files never need.
    langid = importlib.import_module("py3langid.langid")
    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    identifier.set_languages(["fr", "en"])
    return identifier
