"""Splits in which a test question is about nothing that training saw."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import xxhash

from finetuneflow.dataset.passages import passage_keys
from finetuneflow.dataset.split_item import Fractions, Item
from finetuneflow.schemas.example import Split


class _Union:
    """Disjoint sets of keys."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, key: str) -> str:
        parent = self._parent.setdefault(key, key)
        while parent != self._parent[parent]:
            self._parent[key] = self._parent[parent]
            key, parent = parent, self._parent[parent]
        return parent

    def join(self, keys: Sequence[str]) -> None:
        root = self.find(keys[0])
        for key in keys[1:]:
            self._parent[self.find(key)] = root


def split_by_group(items: list[Item], fractions: Fractions, seed: int) -> None:
    """Places every item so that splits share no record, fact, passage or question; drops what cannot be."""
    union = _Union()
    single: list[tuple[Item, str]] = []
    several: list[Item] = []
    passages = passage_keys([item.example for item in items])
    for item, passage in zip(items, passages, strict=True):
        item.passage = passage
        if item.provenance.wording_held_out or len(item.records) > 1:
            several.append(item)
        else:
            question = _question(item)
            union.join([question, *item.anchors])
            single.append((item, question))
    groups: defaultdict[str, list[Item]] = defaultdict(list)
    for item, key in single:
        groups[union.find(key)].append(item)
    for item in several:
        for record in item.records:
            groups.setdefault(union.find(record), [])
    placed = assign_groups(groups, fractions, seed)
    for item, key in single:
        item.split = placed[union.find(key)]
    _place_dependents(several, union, placed)


def _question(item: Item) -> str:
    return f"question\x1f{item.question}"


def _place_dependents(items: list[Item], union: _Union, placed: dict[str, Split]) -> None:
    """Puts examples about several records, or with a held-out wording, where all they speak of is."""
    needs: defaultdict[str, set[Split]] = defaultdict(set)
    for item in items:
        found = (placed.get(union.find(key)) for key in (_question(item), *item.anchors))
        needs[item.question] |= {split for split in found if split}
    for item in items:
        splits = needs[item.question]
        if item.provenance.wording_held_out:
            if splits <= {"test"}:
                item.split = "test"
            else:
                item.drop("held_out_wording")
        elif len(splits) == 1:
            item.split = next(iter(splits))
        else:
            item.drop("crosses_splits")


def assign_groups(groups: Mapping[str, list[Item]], fractions: Fractions, seed: int) -> dict[str, Split]:
    """A split per group: in order of stratum, then by chance, each group goes where most is missing."""

    def order(key: str) -> tuple[str, bytes]:
        kinds = {item.example.label or item.provenance.question_type or "" for item in groups[key]}
        # a hash of all its examples, not of the key, which depends on what came first
        content = b"".join(sorted(item.order[:16] for item in groups[key])) or key.encode()
        return "|".join(sorted(kinds)), xxhash.xxh3_128_digest(content, seed=seed % 2**64)

    placed: dict[str, Split] = {}
    filled: Counter[Split] = Counter()
    total = 0
    ordered = sorted(groups, key=order)
    for key in ordered:
        weight = max(1, len(groups[key]))
        total += weight
        split = max(fractions, key=lambda name: fractions[name] * total - filled[name])
        placed[key] = split
        filled[split] += weight
    _fill_empty(placed, ordered, groups, fractions)
    return placed


def _fill_empty(
    placed: dict[str, Split], ordered: list[str], groups: Mapping[str, list[Item]], fractions: Fractions
) -> None:
    """Gives a wanted split that got nothing, as with a handful of groups, the smallest one of training."""
    wanted: tuple[Split, ...] = ("test", "validation")
    for split in wanted:
        trained = [key for key in ordered if placed[key] == "train"]
        if fractions[split] > 0 and split not in placed.values() and len(trained) > 1:
            placed[min(trained, key=lambda key: len(groups[key]))] = split
