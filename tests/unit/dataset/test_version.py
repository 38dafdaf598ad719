from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from finetuneflow.dataset.version import content_hash
from finetuneflow.schemas.example import Example, Message, Provenance

texts = st.text("ab", min_size=1, max_size=3)
examples = st.lists(st.builds(Example, text=texts, label=texts), max_size=6)


@given(examples, examples, st.randoms())
def test_order_within_a_split_does_not_matter(
    train: list[Example], test: list[Example], random: object
) -> None:
    shuffled = list(train)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert content_hash({"train": train, "test": test}) == content_hash({"test": test, "train": shuffled})


@given(examples, examples)
def test_any_other_content_or_split_is_another_version(one: list[Example], other: list[Example]) -> None:
    def told(members: list[Example]) -> list[tuple[str | None, str | None]]:
        return sorted((example.text, example.label) for example in members)

    same = told(one) == told(other)
    assert (content_hash({"train": one}) == content_hash({"train": other})) == same
    assert (content_hash({"train": one}) == content_hash({"test": one})) == (not one)


def test_provenance_does_not_change_the_version_but_roles_do() -> None:
    turns = [Message(role="user", content="a"), Message(role="assistant", content="b")]
    plain, told = Example(messages=turns), Example(messages=turns, provenance=Provenance(line=3))
    assert content_hash({"train": [plain]}) == content_hash({"train": [told], "validation": []})
    swapped = Example(messages=[Message(role="assistant", content="a"), Message(role="user", content="b")])
    assert content_hash({"train": [plain]}) != content_hash({"train": [swapped]})
    assert len(content_hash({})) == 64
