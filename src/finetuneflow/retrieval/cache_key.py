"""The name of an index in the cache: what it was made of."""

from __future__ import annotations

from collections.abc import Iterable

import xxhash


def cache_key(way: str, texts: Iterable[str]) -> str:
    """128-bit hash of the way from text to index and of the texts, in order; 32 hex digits."""
    digest = xxhash.xxh3_128(way.encode())
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
