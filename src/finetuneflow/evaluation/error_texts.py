"""Texts as TF-IDF vectors, and samples of them. Words are those of `finetuneflow.metrics`, in any script."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from finetuneflow.metrics import WORD, fold

MAX_CHARACTERS = 2_000
"""Of a text that is looked at."""
MAX_WORDS = 50_000
Row = TypeVar("Row")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def words(text: str) -> list[str]:
    """The words of a text, folded: j'ai is j and ai; a character each where scripts have no spaces."""
    found: list[str] = WORD.findall(fold(text[:MAX_CHARACTERS]))
    return found


@cache
def stop_words() -> frozenset[str]:
    """French and English words that say nothing."""
    text = resources.files("finetuneflow").joinpath("assets", "stop_words.yaml").read_text(encoding="utf-8")
    listed: dict[str, str] = yaml.load(text, Loader=_LOADER)  # noqa: S506 - both loaders are the safe ones
    return frozenset(fold(word) for line in listed.values() for word in line.split())


def telling_words(text: str) -> list[str]:
    """The words of a text without stop words, digits and single letters."""
    without = stop_words()
    return [
        word
        for word in words(text)
        if word not in without and not word.isdigit() and (len(word) > 1 or ord(word) > 0x2E7F)
    ]


def vectors(texts: Sequence[str], *, telling: bool = False, shared_by: int = 1) -> tuple[Any, NDArray[Any]]:
    """Rows of unit length (sparse, float32) and the words of their columns.

    `telling` leaves stop words out, `shared_by` words that fewer texts have. No columns: an empty matrix.
    """
    vectorizer = TfidfVectorizer(
        analyzer=telling_words if telling else words,
        sublinear_tf=True,
        min_df=min(shared_by, max(1, len(texts))),
        max_features=MAX_WORDS,
        dtype=np.float32,
    )
    try:
        matrix = vectorizer.fit_transform(texts)
    except ValueError:  # not one word in all of them
        return None, np.empty(0, dtype=object)
    return matrix, vectorizer.get_feature_names_out()


def sample(rows: Sequence[Row], size: int, seed: int) -> list[Row]:
    """`size` of the rows drawn with a seed, in their order; all where there are not more."""
    if len(rows) <= size:
        return list(rows)
    chosen = np.random.default_rng(seed).choice(len(rows), size, replace=False)
    return [rows[place] for place in np.sort(chosen).tolist()]
