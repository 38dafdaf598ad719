"""The name of a dataset version: a hash of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import get_args

from finetuneflow.dataset.canonical import canonical_bytes
from finetuneflow.schemas.example import Example, Split


def content_hash(splits: Mapping[Split, Sequence[Example]]) -> str:
    """SHA-256 (64 hex digits) over what the examples say and the split each is in.

    The order within a split, file formats and provenance do not matter; a repeated example does.
    An empty split is the same as none.
    """
    total = hashlib.sha256()
    for split in get_args(Split):
        examples = splits.get(split, ())
        digests = sorted(hashlib.sha256(canonical_bytes(example)).digest() for example in examples)
        total.update(f"{split}:{len(digests)}\n".encode())
        for digest in digests:
            total.update(digest)
    return total.hexdigest()
