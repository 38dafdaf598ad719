from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetuneflow.dataset.canonical import normalise
from finetuneflow.dataset.deduplicate import conflicts, count_duplicates, deduplicate
from finetuneflow.schemas.example import Example, Message


def chat(question: str, answer: str, system: str = "") -> Example:
    turns = [Message(role="system", content=system)] if system else []
    return Example(
        messages=[*turns, Message(role="user", content=question), Message(role="assistant", content=answer)]
    )


def test_case_spacing_punctuation_and_composition_make_no_difference() -> None:
    first = chat("Qu'est-ce que l'été ?", "Une saison.")
    same = chat("QU’EST-CE QUE L’E\u0301TE\u0301\u202f?", "une  saison")
    kept, dropped = deduplicate([first, same, chat("Qu'est-ce que l'hiver ?", "Une saison.")])
    assert kept[0] is first
    assert len(kept) == 2
    assert [(drop.line, drop.reason) for drop in dropped] == [(2, "duplicate")]
    assert "line 1" in dropped[0].message


@pytest.mark.parametrize(
    ("one", "other"), [("C ?", "C++ ?"), ("C ?", "C# ?"), ("-5", "5"), ("1.5", "15"), ("?", "!")]
)
def test_what_changes_the_meaning_makes_a_difference(one: str, other: str) -> None:
    assert len(deduplicate([chat(one, "Oui."), chat(other, "Oui.")])[0]) == 2


def test_another_system_prompt_or_label_makes_another_example() -> None:
    examples = [
        chat("a", "b"),
        chat("a", "b", "Be brief."),
        Example(text="a", label="b"),
        Example(text="a", label="c"),
    ]
    assert deduplicate(examples) == (examples, [])


def test_conflicting_answers_stay_and_are_warned_about_with_both_lines() -> None:
    examples = [chat("Qui ?", "Moi."), chat("Quoi ?", "Rien."), chat("qui", "Lui.")]
    assert len(deduplicate(examples)[0]) == 3
    (warning,) = conflicts(examples, [10, 20, 30])
    assert (warning.line, warning.reason) == (30, "conflict")
    assert "line 10" in warning.message


texts = st.text("aA é?.! ", min_size=1, max_size=4)
some = st.lists(
    st.one_of(st.builds(chat, texts, texts), st.builds(Example, text=texts, label=texts)), max_size=12
)


@given(some)
def test_deduplicating_twice_changes_nothing_and_loses_nothing(examples: list[Example]) -> None:
    kept, dropped = deduplicate(examples)
    assert deduplicate(kept) == (kept, [])
    assert len(kept) + len(dropped) == len(examples)
    assert count_duplicates(examples) == len(dropped)


@given(st.text(max_size=20))
def test_normalising_twice_changes_nothing_visible(text: str) -> None:
    once = normalise(text)
    assert bool(once) == bool(text)
    assert normalise(once).casefold() == once.casefold()
