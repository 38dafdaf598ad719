from finetuneflow.evaluation.overlap import find_overlap
from finetuneflow.schemas.evaluation import TestItem
from finetuneflow.schemas.example import Example, Message


def item(question: str, *, number: int = 1, before: tuple[str, str] | None = None) -> TestItem:
    turns = [{"role": "system", "content": "Answer in one word."}]
    if before:
        turns += [{"role": "user", "content": before[0]}, {"role": "assistant", "content": before[1]}]
    turns.append({"role": "user", "content": question})
    return TestItem(id=f"test-{number:05d}", messages=turns, expected="x")


def example(question: str, answer: str = "y") -> Example:
    return Example(
        messages=[Message(role="user", content=question), Message(role="assistant", content=answer)]
    )


def test_a_question_of_the_training_split_is_leaked_whatever_its_case_spacing_width_and_system_prompt() -> (
    None
):
    items = [
        item("Quel est le statut de Cœur ?", number=1),
        item("Ｗｈｏ  IS it", number=2),
        item("Quel est le statut de Foie ?", number=3),
    ]
    found = find_overlap(items, [example("quel est le statut de cœur?"), example("Who is it?")])
    assert found.leaked == ["test-00001", "test-00002"]
    assert (found.items, found.training_examples) == (3, 2)


def test_the_turns_before_the_question_belong_to_it() -> None:
    follow_up = item("And then?", before=("Who came first?", "Ada."))
    assert find_overlap([follow_up], [example("And then?")]).leaked == []


def test_a_classifiers_texts_are_compared_too() -> None:
    found = find_overlap([item("I love it!")], [Example(text="i love it", label="joy")])
    assert found.leaked == ["test-00001"]


def test_validation_is_counted_apart() -> None:
    found = find_overlap([item("Who?")], [example("What?")], [example("who")])
    assert (found.leaked, found.in_validation) == ([], 1)


LONG = "the quick brown fox jumps over the lazy dog while the cat sleeps under a very old apple tree today"


def test_near_duplicates_are_found_by_sequences_of_words_and_the_most_alike_come_first() -> None:
    items = [
        item(f"Is it true that {LONG}", number=1),
        item("Quels sont les horaires de Vital ?", number=2),
        item("Something else altogether", number=3),
    ]
    training = [
        example(f"So {LONG} again"),
        example("Alors quels sont les horaires de Vital ?"),
        example("Quels sont les horaires de Mental ?"),
    ]
    found = find_overlap(items, training, share=0.6)
    assert found.leaked == []
    assert [(row.item_id, row.training_question[:2]) for row in found.nearest] == [
        ("test-00002", "Al"),
        ("test-00001", "So"),
    ]
    assert found.nearest[0].similarity == 0.8
    assert found.near_duplicates == 2


def test_the_share_says_what_is_nearly_the_same() -> None:
    items, training = [item("Quel est le statut de Cœur ?")], [example("Quel est le statut de Foie ?")]
    assert find_overlap(items, training, share=0.8).near_duplicates == 0
    assert find_overlap(items, training, share=0.7).near_duplicates == 1


def test_a_leaked_question_is_no_near_duplicate_and_no_training_leaks_nothing() -> None:
    assert find_overlap([item("Who is it then?")], [example("Who is it then?")]).near_duplicates == 0
    assert find_overlap([item("Who is it then?")], []).leaked == []


def test_scripts_without_spaces_have_sequences_too() -> None:
    items, training = [item("维塔尔的开放时间是什么")], [example("请问维塔尔的开放时间是什么")]
    assert find_overlap(items, training).near_duplicates == 1


def test_a_few_words_inside_a_long_training_text_are_no_near_duplicate() -> None:
    found = find_overlap([item("I know, right?")], [example("I know, right, but nobody had said so before")])
    assert found.near_duplicates == 0
