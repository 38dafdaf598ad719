"""Splits in which facts are learnt by heart and tested in words that training did not use for them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from finetuneflow.dataset.split_by_group import assign_groups
from finetuneflow.dataset.split_item import Fractions, Item
from finetuneflow.schemas.example import Split


def split_by_paraphrase(items: list[Item], fractions: Fractions, seed: int) -> None:
    """Places every item: held-out wordings in test, a few paraphrases per fact in test and validation."""
    held_out = {item.question for item in items if item.provenance.wording_held_out}
    facts: defaultdict[str, list[Item]] = defaultdict(list)
    loose: list[Item] = []
    for item in items:
        fact = item.fact
        if item.provenance.wording_held_out:
            item.split = "test"
        elif item.question in held_out:
            item.drop("held_out_question")
        elif fact is None:
            loose.append(item)
        else:
            facts[fact].append(item)
            item.split = "train"
    known = [item for group in facts.values() for item in group]
    asked = Counter(item.question for item in (*known, *loose))
    _hold_out_paraphrases(facts, asked, fractions)
    taught = {item.question for item in known}
    groups: defaultdict[str, list[Item]] = defaultdict(list)
    for item in loose:
        if item.question in taught:
            item.split = "train"
        else:
            groups[item.question].append(item)
    placed = assign_groups(groups, fractions, seed)
    for question, group in groups.items():
        for item in group:
            item.split = placed[question]


def _hold_out_paraphrases(facts: Mapping[str, list[Item]], asked: Counter[str], fractions: Fractions) -> None:
    """Moves single wordings of well-covered facts to test, then to validation, up to the fractions.

    Of a fact with n questions at most n // 3 go to either, so it keeps one in training; a wording goes only
    while training has it with another fact.
    """
    sizes = {fact: len({item.question for item in group}) for fact, group in facts.items()}
    wordings = Counter(item.provenance.wording for group in facts.values() for item in group)
    by_type: defaultdict[str, list[str]] = defaultdict(list)
    for fact in sorted(facts, key=lambda fact: min(item.order for item in facts[fact])):
        by_type[facts[fact][0].provenance.question_type or ""].append(fact)
    taken: Counter[str] = Counter()
    targets: tuple[Split, ...] = ("test", "validation")
    for target in targets:
        moved: Counter[str | None] = Counter()
        cumulated = 0
        for kind in sorted(by_type):
            cumulated += sum(len(facts[fact]) for fact in by_type[kind])
            # cumulated, so that what one type cannot give is asked of the next
            quota = round(fractions[target] * cumulated)
            for fact in _turns_of(by_type[kind], sizes, taken):
                if moved.total() >= quota:
                    break
                candidates = [item for item in facts[fact] if _may_go(item, asked, wordings)]
                if candidates:
                    chosen = min(candidates, key=lambda item: (moved[item.provenance.wording], item.order))
                    chosen.split = target
                    wordings[chosen.provenance.wording] -= 1
                    moved[chosen.provenance.wording] += 1
                    taken[fact] += 1


def _may_go(item: Item, asked: Counter[str], wordings: Counter[str | None]) -> bool:
    """True when nobody else asks in these very words, and training keeps the wording with another fact."""
    wording = item.provenance.wording
    return item.split == "train" and asked[item.question] == 1 and (wording is None or wordings[wording] > 1)


def _turns_of(facts: Sequence[str], sizes: Mapping[str, int], taken: Counter[str]) -> Iterable[str]:
    """Facts that may give a wording, round by round, those that have given least first."""
    before = dict(taken)
    rounds = max((sizes[fact] // 3 for fact in facts), default=0)
    ordered = sorted(facts, key=lambda fact: before.get(fact, 0))
    return [fact for turn in range(rounds) for fact in ordered if sizes[fact] // 3 > turn]
