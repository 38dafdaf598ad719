from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetuneflow.dataset.canonical import question_key
from finetuneflow.dataset.split import SplitResult, overlap, split_examples, split_with_report
from finetuneflow.errors import UsageError
from finetuneflow.schemas.dataset import SplitStrategy
from finetuneflow.schemas.example import Example, Message, Provenance, Split


def chat(question: str, answer: str = "Oui.", **provenance: object) -> Example:
    turns = [Message(role="user", content=question), Message(role="assistant", content=answer)]
    return Example(messages=turns, provenance=Provenance.model_validate(provenance))


def catalogue(records: int = 20, wordings: int = 3, held_out: int = 0) -> list[Example]:
    """Two facts per record, each asked in several wordings; the last `held_out` of them are held out."""
    return [
        chat(
            f"{kind} de la fiche {record}, tournure {wording} ?",
            f"{kind} {record}",
            source_id="s",
            record_ids=[str(record)],
            fact=f"{record}:{kind}",
            question_type=kind,
            wording=f"fr.{kind}.{wording}",
            wording_held_out=wording >= wordings,
        )
        for record in range(records)
        for kind in ("status", "domain")
        for wording in range(wordings + held_out)
    ]


def sizes(result: dict[Split, list[Example]]) -> dict[str, int]:
    return {split: len(examples) for split, examples in result.items()}


def keys(example: Example) -> set[tuple[str, object]]:
    origin = example.provenance
    found: set[tuple[str, object]] = {("question", question_key(example))}
    found.update(("record", (origin.source_id, record)) for record in origin.record_ids)
    if origin.fact is not None:
        found.add(("fact", (origin.source_id, origin.fact)))
    return found


few = st.sampled_from
examples_of_all_kinds = st.builds(
    lambda question, answer, **origin: chat(question, answer, **origin),
    st.text("abc", min_size=1, max_size=2),
    few(["x", "y"]),
    source_id=few(["s", "t", None]),
    record_ids=st.lists(few("123456"), max_size=3),
    fact=few(["f", "g", "h", None]),
    question_type=few(["status", "domain", None]),
    wording=few(["w1", "w2", "w3", None]),
    wording_held_out=few([False, False, False, True]),
    start=few([None, 0, 5, 20]),
    end=few([None, 6, 25]),
)
many = st.lists(examples_of_all_kinds, max_size=30)
strategies = few(["group", "paraphrase"])


def dumped(splits: dict[Split, list[Example]]) -> dict[Split, list[str]]:
    return {split: [example.model_dump_json() for example in examples] for split, examples in splits.items()}


@settings(deadline=None, max_examples=50)
@given(many, strategies, st.integers(0, 3))
def test_nothing_is_lost_and_nothing_is_in_two_splits(
    examples: list[Example], strategy: SplitStrategy, seed: int
) -> None:
    result = split_with_report(examples, strategy=strategy, seed=seed)
    placed = [id(example) for members in result.splits.values() for example in members]
    assert len(set(placed)) == len(placed)
    assert len(placed) + len(result.dropped) == len(examples)
    lost = {id(examples[drop.line - 1]) for drop in result.dropped}
    assert lost | set(placed) == {id(example) for example in examples}
    assert all(drop.message and drop.remedy for drop in result.dropped)


@settings(deadline=None, max_examples=50)
@given(many, strategies, st.integers(0, 3), st.randoms())
def test_one_seed_is_one_split_whatever_the_order(
    examples: list[Example], strategy: SplitStrategy, seed: int, random: object
) -> None:
    shuffled = list(examples)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one = split_examples(examples, strategy=strategy, seed=seed)
    assert dumped(one) == dumped(split_examples(shuffled, strategy=strategy, seed=seed))


@settings(deadline=None, max_examples=50)
@given(many, st.integers(0, 3))
def test_groups_stay_together(examples: list[Example], seed: int) -> None:
    splits = split_examples(examples, strategy="group", seed=seed)
    seen: defaultdict[tuple[str, object], set[str]] = defaultdict(set)
    for split, members in splits.items():
        for example in members:
            for key in keys(example):
                # the fact of an example about several records is no more than its name
                if not (key[0] == "fact" and len(set(example.provenance.record_ids)) > 1):
                    seen[key].add(split)
    assert {key: found for key, found in seen.items() if len(found) > 1} == {}
    assert overlap(splits) == 0


@settings(deadline=None, max_examples=50)
@given(many, strategies, st.integers(0, 3))
def test_held_out_wordings_are_never_trained_on(
    examples: list[Example], strategy: SplitStrategy, seed: int
) -> None:
    splits = split_examples(examples, strategy=strategy, seed=seed)
    for split in ("train", "validation"):
        assert not any(example.provenance.wording_held_out for example in splits[split])
    if strategy == "paraphrase":
        held = sum(example.provenance.wording_held_out for example in examples)
        assert sum(example.provenance.wording_held_out for example in splits["test"]) == held


@settings(deadline=None, max_examples=50)
@given(many, st.integers(0, 3))
def test_paraphrases_are_of_facts_and_wordings_that_training_has(examples: list[Example], seed: int) -> None:
    splits = split_examples(examples, strategy="paraphrase", seed=seed)
    assert overlap(splits) == 0
    facts = {(example.provenance.source_id, example.provenance.fact) for example in splits["train"]}
    wordings = {example.provenance.wording for example in splits["train"]}
    for split in ("validation", "test"):
        for example in splits[split]:
            origin = example.provenance
            if origin.fact is not None and not origin.wording_held_out:
                assert (origin.source_id, origin.fact) in facts
                assert origin.wording is None or origin.wording in wordings


@pytest.mark.parametrize("strategy", ["group", "paraphrase"])
def test_four_fifths_are_for_training(strategy: SplitStrategy) -> None:
    found = sizes(split_examples(catalogue(records=100), strategy=strategy))
    assert found == {"train": 480, "validation": 60, "test": 60}


def test_paraphrases_are_spread_over_types_wordings_and_facts() -> None:
    test = split_examples(catalogue(records=50, wordings=4), strategy="paraphrase")["test"]
    assert Counter(example.provenance.question_type for example in test) == {"status": 20, "domain": 20}
    assert set(Counter(example.provenance.wording for example in test).values()) == {5}
    assert len({example.provenance.fact for example in test}) == 40


def test_every_fact_may_give_one_of_three_wordings_and_no_more() -> None:
    splits = split_examples(catalogue(records=10), strategy="paraphrase", test=0.33, validation=0.33)
    for split in ("train", "validation", "test"):
        facts = Counter(example.provenance.fact for example in splits[split])
        assert max(facts.values()) <= (1 if split != "train" else 3)
    assert len({example.provenance.fact for example in splits["train"]}) == 20


def test_held_out_wordings_come_on_top_of_the_test_fraction() -> None:
    splits = split_examples(catalogue(records=20, wordings=3, held_out=1), strategy="paraphrase")
    held = [example for example in splits["test"] if example.provenance.wording_held_out]
    assert len(held) == 40
    assert len(splits["test"]) == 40 + 12


def test_facts_with_fewer_than_three_wordings_stay_in_training() -> None:
    splits = split_examples(catalogue(wordings=2), strategy="paraphrase")
    assert sizes(splits) == {"train": 80, "validation": 0, "test": 0}


def test_a_question_that_is_held_out_elsewhere_is_dropped() -> None:
    examples = [
        chat("Qui ?", "Moi.", fact="1", wording_held_out=True),
        chat("qui", "Moi.", fact="1"),
        chat("Autre ?"),
    ]
    result = split_with_report(examples, strategy="paraphrase")
    assert [(drop.line, drop.reason) for drop in result.dropped] == [(2, "held_out_question")]


def comparisons(result: SplitResult) -> dict[Split, list[tuple[str, ...]]]:
    return {
        split: [tuple(e.provenance.record_ids) for e in members if len(e.provenance.record_ids) > 1]
        for split, members in result.splits.items()
    }


def test_comparisons_across_splits_are_dropped_and_the_others_follow_their_records() -> None:
    single = catalogue(records=20)
    double = [
        chat(f"Différence entre {a} et {b} ?", source_id="s", record_ids=[str(a), str(b)])
        for a in range(20)
        for b in range(a)
    ]
    result = split_with_report(single + double)
    where = {
        record: split
        for split, members in result.splits.items()
        for example in members
        for record in example.provenance.record_ids
        if len(example.provenance.record_ids) == 1
    }
    kept = comparisons(result)
    assert all(where[a] == where[b] == split for split, found in kept.items() for a, b in found)
    assert {drop.reason for drop in result.dropped} == {"crosses_splits"}
    assert sum(map(len, kept.values())) + len(result.dropped) == len(double)
    assert len(kept["train"]) == 16 * 15 / 2


def test_answers_from_overlapping_passages_stay_together() -> None:
    spans = [(0, 10), (8, 20), (19, 30)]
    examples = [
        chat(f"Page {page}, {start} ?", source_id="d", start=page * 100 + start, end=page * 100 + end)
        for page in range(20)
        for start, end in spans
    ]
    splits = split_examples(examples)
    pages = {split: {e.provenance.start // 100 for e in found if e.provenance.start is not None}
             for split, found in splits.items()}  # fmt: skip
    assert sum(map(len, pages.values())) == 20
    assert len(pages["test"]) == len(pages["validation"]) == 2


def test_labels_keep_their_proportions() -> None:
    rows = [Example(text=f"text {n}", label="rare" if n % 10 == 0 else "common") for n in range(1000)]
    test = split_examples(rows)["test"]
    assert Counter(example.label for example in test) == {"common": 90, "rare": 10}


def test_a_handful_of_examples_still_fills_every_split() -> None:
    assert sizes(split_examples([chat(str(n)) for n in range(3)])) == {"train": 1, "validation": 1, "test": 1}
    assert sizes(split_examples([chat("1")])) == {"train": 1, "validation": 0, "test": 0}


def test_a_fraction_of_zero_is_an_empty_split() -> None:
    assert sizes(split_examples([chat(str(n)) for n in range(50)], validation=0, test=0.2)) == {
        "train": 40,
        "validation": 0,
        "test": 10,
    }


def test_another_seed_is_another_split() -> None:
    one, other = (split_examples(catalogue(), seed=seed) for seed in (0, 1))
    assert dumped(one) != dumped(other)


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (-0.1, 0.1), (0.1, -0.1), (0.9, 0.3)])
def test_fractions_must_leave_something_for_training(validation: float, test: float) -> None:
    with pytest.raises(UsageError, match="leave nothing"):
        split_examples([], validation=validation, test=test)


def test_overlap_counts_test_questions_that_training_has() -> None:
    assert overlap({"train": [chat("Où  ça ?")], "test": [chat("où ça"), chat("Quand ?")]}) == 1


def test_a_wording_is_tested_only_while_training_has_it_with_another_fact() -> None:
    own_words = [
        chat(f"Fait {fact}, tournure {n} ?", fact=f"{fact}", wording=f"w.{fact}.{n}")
        for fact in range(20)
        for n in range(3)
    ]
    assert sizes(split_examples(own_words, strategy="paraphrase")) == {
        "train": 60,
        "validation": 0,
        "test": 0,
    }


def test_a_fact_gives_at_most_a_third_of_its_wordings_to_a_split() -> None:
    rich = [chat(f"Riche, tournure {n} ?", fact="rich", wording=f"w{n}") for n in range(7)]
    poor = [
        chat(f"Pauvre {f}, {n} ?", fact=f"poor {f}", wording=f"w{(f + n) % 7}")
        for f in range(14)
        for n in range(2)
    ]
    splits = split_examples(rich + poor, strategy="paraphrase", test=0.4, validation=0.4)
    given = {split: [example.provenance.fact for example in found] for split, found in splits.items()}
    assert given["test"] == given["validation"] == ["rich", "rich"]
    assert given["train"].count("rich") == 3


def test_a_loose_example_that_asks_what_a_fact_asks_goes_to_training_with_it() -> None:
    known = [chat(f"Connu {n} ?", fact=str(n)) for n in range(20)]
    loose = [chat(f"connu {n}", "Autrement.") for n in range(20)]
    assert sizes(split_examples(known + loose, strategy="paraphrase"))["train"] == 40
