"""Which of the passages that a model was given its answer rests on."""

from __future__ import annotations

from collections.abc import Sequence

from finetuneflow.retrieval.terms import tokenize

ENOUGH = 0.6
"""Share of the answer's words that a passage must hold."""
NEAR_BEST = 0.9
"""… and compared with the passage that holds most."""


def cited(answer: str, passages: Sequence[str], question: str = "") -> list[int]:
    """Positions of the passages that an answer can be read from, in order; none when no passage holds it.

    Words of the question do not count: a passage about the same thing is not yet a source. An answer that
    says nothing beyond the question is looked for as it is. Words alone are compared, so this tells where to
    look, not that the answer is true.
    """
    said = set(tokenize(answer))
    words = said - set(tokenize(question)) or said
    if not words:
        return []
    shares = [len(words & set(tokenize(passage))) / len(words) for passage in passages]
    least = max(ENOUGH, NEAR_BEST * max(shares, default=0.0))
    return [position for position, share in enumerate(shares) if share >= least]
