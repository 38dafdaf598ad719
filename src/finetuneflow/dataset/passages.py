"""Which examples come from the same passage of a document."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from finetuneflow.schemas.example import Example


def passage_keys(examples: Sequence[Example]) -> list[str | None]:
    """A key per example, equal for answers whose spans in one source overlap; None without a span.

    Overlap is transitive: 0-10 and 8-20 and 18-30 are one passage.
    """
    spans: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for position, example in enumerate(examples):
        origin = example.provenance
        if origin.source_id is not None and origin.start is not None:
            end = origin.end if origin.end is not None else origin.start
            spans[origin.source_id].append((origin.start, end, position))
    keys: list[str | None] = [None] * len(examples)
    for source, found in spans.items():
        passage_start = passage_end = -1
        for start, end, position in sorted(found):
            if start >= passage_end and start != passage_start:
                passage_start = start
            passage_end = max(passage_end, end)
            keys[position] = f"passage\x1f{source}\x1f{passage_start}"
    return keys
