"""Text metrics that are right in every script: exact match, token F1, ROUGE-L.

Normalisation follows SQuAD (fold case, delete punctuation, collapse spaces) with three differences: it is
Unicode's (NFKC, full case folding, every script's punctuation, invisible characters deleted), articles stay
(they are words of one language, and "the" is not noise in an answer of two words), and an answer that is
nothing but punctuation keeps it, so that "+" is not "-". As with SQuAD, punctuation is deleted, not turned
into a space: "well-known" is one token, and "3.5" equals "35".

With `english_articles`, exact match and token F1 are SQuAD's own definition (2.0) on ASCII text: a, an and
the go, and an answer of nothing but punctuation is empty.

Two empty answers are equal (1); an empty one against any other scores 0. All three metrics are symmetric and
lie in 0 to 1.
"""

from __future__ import annotations

import unicodedata
from collections import Counter

import regex

PUNCTUATION = regex.compile(r"[\p{P}$+<=>^`|~]+")
"""Unicode punctuation, and the ASCII symbols that SQuAD counts among it."""
ARTICLES = regex.compile(r"\b(?:a|an|the)\b")
INVISIBLE = regex.compile(r"[\p{Cf}\u034f\ufe00-\ufe0f]+")
UNSPACED = (
    r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}"
    r"\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}"
)
"""Scripts written without spaces: there a token is one character with its marks."""
TOKEN = regex.compile(rf"[{UNSPACED}]\p{{M}}*|(?:(?![{UNSPACED}])\S)+")
WORD = regex.compile(rf"[{UNSPACED}]\p{{M}}*|(?:(?![{UNSPACED}])[\p{{L}}\p{{N}}\p{{M}}])+")


def fold(text: str) -> str:
    """Text without differences of case, width, composition or spacing; punctuation stays."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(INVISIBLE.sub("", folded).split())


def normalize(text: str, *, english_articles: bool = False) -> str:
    """Text as exact match compares it."""
    folded = fold(text)
    bare = PUNCTUATION.sub("", folded)
    if english_articles:
        return " ".join(ARTICLES.sub(" ", bare).split())
    return " ".join(bare.split()) or folded


def exact_match(predicted: str, expected: str, *, english_articles: bool = False) -> float:
    """1.0 when both are the same after normalisation, else 0.0."""
    ours, theirs = (normalize(text, english_articles=english_articles) for text in (predicted, expected))
    return float(ours == theirs)


def token_f1(predicted: str, expected: str, *, english_articles: bool = False) -> float:
    """Harmonic mean of precision and recall over normalised tokens, counted with multiplicity."""
    ours, theirs = (
        TOKEN.findall(normalize(text, english_articles=english_articles)) for text in (predicted, expected)
    )
    return _f1(sum((Counter(ours) & Counter(theirs)).values()), len(ours), len(theirs))


def rouge_l(predicted: str, expected: str) -> float:
    """F-measure of the longest common subsequence of words; without stemming."""
    ours, theirs = WORD.findall(fold(predicted)), WORD.findall(fold(expected))
    if not ours and not theirs:
        return exact_match(predicted, expected)
    return _f1(longest_common_subsequence(ours, theirs), len(ours), len(theirs))


def _f1(common: int, ours: int, theirs: int) -> float:
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * common / (ours + theirs)


def longest_common_subsequence(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence.

    Bit-parallel (Hyyrö 2004): one row of the dynamic programme is one integer, so a pair of hundred-token
    texts costs a hundred additions.
    """
    positions: dict[str, int] = {}
    for position, token in enumerate(first):
        positions[token] = positions.get(token, 0) | 1 << position
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        matched = row & positions.get(token, 0)
        row = (row + matched | row - matched) & full
    return len(first) - row.bit_count()
