from __future__ import annotations

from finetuneflow.dataset.statistics import statistics
from finetuneflow.schemas.example import Example, Message, Provenance


def chat(question: str, answer: str, **provenance: object) -> Example:
    turns = [Message(role="user", content=question), Message(role="assistant", content=answer)]
    return Example(messages=turns, provenance=Provenance.model_validate(provenance))


def test_figures_are_over_all_splits() -> None:
    found = statistics(
        {
            "train": [chat("abcd", "un deux", question_type="status"), chat("abcd ?", "Un deux.")],
            "test": [
                chat("ab", "I don’t know.", question_type="status", wording_held_out=True),
                chat("cd", "x", question_type="negative"),
            ],
        }
    )
    assert found.examples == 4
    assert (found.splits.train, found.splits.validation, found.splits.test) == (2, 0, 2)
    assert found.question_types == {"status": 2, "negative": 1, "other": 1}
    assert (found.exact_duplicates, found.negatives, found.held_out_wordings) == (1, 2, 1)
    assert found.question_characters_mean == 3.5
    assert found.answer_characters_max == 13
    assert found.answer_words_mean == 2.0


def test_labels_are_counted_most_frequent_first() -> None:
    rows = [Example(text=str(n), label="ab"[n % 3 == 0]) for n in range(9)]
    found = statistics({"train": rows})
    assert list(found.labels.items()) == [("a", 6), ("b", 3)]
    assert found.question_types == {}
    assert found.answer_characters_max == 0


def test_no_examples_give_zeros() -> None:
    assert statistics({}).examples == 0
    assert statistics({"train": []}).answer_characters_mean == 0.0
