"""Which passages a question was made from: told by its provenance, or by the place of its answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from finetuneflow.retrieval.squad import AskedSpan
from finetuneflow.schemas.example import Example, Provenance
from finetuneflow.schemas.retrieval import Passage, SourcedQuestion

NO_QUESTION = "empty question"
NO_SOURCE = "no source known"
NOT_INDEXED = "source not among the passages"


def from_examples(
    examples: Sequence[Example], passages: Sequence[Passage]
) -> tuple[list[SourcedQuestion], Counter[str]]:
    """Questions with the positions of their passages, and how many were left out for which reason.

    A source is known by its content; records also by file name and id, when the file has changed since.
    """
    places = _Places(passages)
    kept: list[SourcedQuestion] = []
    left_out: Counter[str] = Counter()
    for example in examples:
        provenance = example.provenance
        if not example.question.strip():
            left_out[NO_QUESTION] += 1
        elif not provenance.record_ids and provenance.start is None:
            left_out[NO_SOURCE] += 1
        elif relevant := places.of(provenance):
            kept.append(SourcedQuestion(text=example.question, relevant=relevant))
        else:
            left_out[NOT_INDEXED] += 1
    return kept, left_out


class _Places:
    """Positions of passages by what provenance says."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._records: dict[tuple[str, str], int] = {}
        self._chunks: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for position, passage in enumerate(passages):
            if passage.record_id is not None:
                for source in (passage.source_id, passage.source_name):
                    self._records.setdefault((source, passage.record_id), position)
            elif passage.start is not None and passage.end is not None:
                self._chunks[passage.source_id].append((passage.start, passage.end, position))

    def of(self, provenance: Provenance) -> list[int]:
        """Positions, ascending; of a span, the passages that it touches."""
        source, name = provenance.source_id or "", provenance.source_name or ""
        if provenance.record_ids:
            found = (
                self._records.get((source, record), self._records.get((name, record)))
                for record in provenance.record_ids
            )
            return sorted({position for position in found if position is not None})
        start = provenance.start or 0
        end = max(provenance.end or 0, start + 1)
        return [
            position for first, last, position in self._chunks.get(source, ()) if first < end and start < last
        ]


def from_spans(
    asked: Sequence[AskedSpan], passages: Sequence[Passage]
) -> tuple[list[SourcedQuestion], Counter[str]]:
    """As `from_examples`, of SQuAD's questions: the right passage holds the answer and what is around it."""
    texts = [" ".join(passage.text.split()) for passage in passages]
    seen: dict[str, list[int]] = {}
    kept: list[SourcedQuestion] = []
    left_out: Counter[str] = Counter()
    for question in asked:
        around = question.around
        if not question.question.strip():
            left_out[NO_QUESTION] += 1
            continue
        if around is None:
            left_out[NO_SOURCE] += 1
            continue
        if around not in seen:
            seen[around] = [position for position, text in enumerate(texts) if around in text]
        if seen[around]:
            kept.append(SourcedQuestion(text=question.question, relevant=seen[around]))
        else:
            left_out[NOT_INDEXED] += 1
    return kept, left_out
