"""An example on its way into a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from finetuneflow.dataset.canonical import canonical_bytes, question_key
from finetuneflow.schemas.example import Example, Provenance, Split

Fractions = dict[Split, float]


@dataclass
class Item:
    """One example, where it came in, where it goes."""

    example: Example
    position: int
    """1-based, in the examples given."""
    order: bytes
    """Seeded hash of the content (16 bytes), then of the provenance: not the input's order."""
    question: str
    """`question_key` of the example."""
    split: Split | None = None
    """Null while undecided, and for good when dropped."""
    reason: str = ""
    passage: str | None = None
    """Key of the passage that the answer stands in (`passages.passage_keys`)."""

    @property
    def provenance(self) -> Provenance:
        """The example's provenance."""
        return self.example.provenance

    @property
    def records(self) -> list[str]:
        """Keys of the records that the example speaks of."""
        origin = self.provenance
        return [f"record\x1f{origin.source_id}\x1f{record}" for record in dict.fromkeys(origin.record_ids)]

    @property
    def fact(self) -> str | None:
        """Key of the fact asked about."""
        origin = self.provenance
        return None if origin.fact is None else f"fact\x1f{origin.source_id}\x1f{origin.fact}"

    @property
    def anchors(self) -> list[str]:
        """Keys of everything that the example is about."""
        return [*self.records, *(key for key in (self.fact, self.passage) if key is not None)]

    def drop(self, reason: str) -> None:
        """Leaves the example out of every split."""
        self.split, self.reason = None, reason


def make_items(examples: Sequence[Example], seed: int) -> list[Item]:
    """The examples in their seeded order."""
    items = []
    for position, example in enumerate(examples, start=1):
        # provenance comes second: an imported example's is its line, which moves when the file is sorted
        parts = canonical_bytes(example), example.provenance.model_dump_json().encode()
        order = b"".join(xxhash.xxh3_128_digest(part, seed=seed % 2**64) for part in parts)
        items.append(Item(example, position, order, question_key(example)))
    return sorted(items, key=lambda item: item.order)
