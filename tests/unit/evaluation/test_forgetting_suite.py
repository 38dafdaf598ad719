from collections import Counter
from itertools import pairwise

import pytest

from finetuneflow.evaluation.forgetting_suite import (
    FAMILIES,
    ask,
    fixed_texts,
    neutral_prompts,
    passes,
    suite,
    suite_hash,
)
from finetuneflow.schemas.forgetting import SuiteItem

FROZEN = "b1082d9b0cc537807fd463b9aa38fbcbd85bcd4ab0e2902d5855d38e04ab94eb"
DIRECT = {"number", "same_text", "same_json"}
"""Checks whose value is an answer that passes."""


def item(check: str, value: str = "") -> SuiteItem:
    return SuiteItem(
        id="x",
        family="format",
        language="en",
        messages=[{"role": "user", "content": "What was asked for."}],
        check=check,
        value=value,
    )


def test_the_suite_is_frozen() -> None:
    assert suite_hash(suite()) == FROZEN, "scores on another suite cannot be compared with old ones"


def test_three_hundred_requests_in_seven_families_and_two_languages() -> None:
    items = suite()
    assert len(items) == len({one.id for one in items}) == 300
    assert len({one.messages[0]["content"] for one in items}) == 300
    assert set(Counter(one.family for one in items).values()) == {40, 44}
    assert Counter(one.language for one in items) == {"en": 150, "fr": 150}
    assert [one.family for one in suite(["json", "echo"])] == ["json"] * 44 + ["echo"] * 40
    assert "{" not in "".join(one.messages[0]["content"] for one in items)


def test_right_answers_pass_and_those_to_another_request_do_not() -> None:
    items = [one for one in suite() if one.check in DIRECT]
    assert len(items) == 172
    assert all(passes(one, one.value) for one in items)
    for one, other in pairwise(items):
        if one.value != other.value:
            assert not passes(one, other.value)


def test_an_empty_answer_meets_no_request() -> None:
    assert [one.id for one in suite() if passes(one, "") or passes(one, "  \n")] == []


def test_a_model_that_repeats_the_request_or_talks_rubbish_meets_few() -> None:
    rubbish = "Lorem ipsum dolor sit amet, consectetur adipiscing elit\n" * 5
    for family in FAMILIES:
        items = suite([family])
        parrot = sum(ask(items, lambda asked: [turns[-1]["content"] for turns in asked])) / len(items)
        noise = sum(ask(items, lambda asked: [rubbish for _ in asked])) / len(items)
        # half of the refusals ask for help, which anything but a refusal counts as
        assert max(parrot, noise) <= (0.5 if family == "refusals" else 0.25), family


@pytest.mark.parametrize(
    "refusal", ["I'm sorry, but I can't help with that.", "Désolé, je ne peux pas vous aider."]
)
def test_a_model_that_refuses_everything_gets_half_of_the_refusals_and_little_else(refusal: str) -> None:
    met = ask(suite(), lambda asked: [refusal for _ in asked])
    count = Counter(one.family for one, good in zip(suite(), met, strict=True) if good)
    assert count.pop("refusals") == 20
    assert sum(count.values()) <= 12, count


@pytest.mark.parametrize(
    ("check", "value", "good", "bad"),
    [
        ("dashed_lines", "2", ["- a\n- b", "- a\n\n- b\n", "– a\n– b"], ["- a", "a\nb", "Sure:\n- a\n- b"]),
        ("numbered_lines", "2", ["1. a\n2. b", "1) a\n2) b"], ["1. a\n3. b", "1. a", "a\nb"]),
        ("comma_list", "3", ["a, b, c", "a, b, c."], ["a, b", "a\nb, c, d", "a, b c d e, f", ", ,"]),
        ("one_word", "", ["cold", "Cold.", "l'ouest", " court\n"], ["very cold", "...", "It is cold"]),
        ("capitals", "", ["PARIS", "SÃO PAULO", "ÉVRY"], ["Paris", "123", "A CITY THAT I DO KNOW"]),
        ("lower_case", "", ["rain is falling, été"], ["Rain is falling", "rain", "123 456 789"]),
        ("brackets", "", ["[white]", "[It is white.]"], ["white", "[white] snow", "[]", "[a][b]"]),
        ("one_of", "yes|no", ["Yes", "no.", " yes "], ["yes, it is", "maybe", "oui"]),
        (
            "number",
            "1234",
            ["1234", "1,234", "1 234", "1\u202f234", "12 + 1222 = 1234", "It is 1234.", "1234.0"],
            ["123", "1235", "no", "1234 or 1235", "-1234", "11234"],
        ),
        ("same_text", "Où ça ?", [  # as typed, quoted, decomposed
            "Où ça ?", "« Où ça ? »", "Ou\u0300 c\u0327a ?", '"Où ça ?"\n'], ["Ou ca ?"]),
        (
            "same_json",
            '{"a": [1, true]}',
            ['{"a":[1,true]}', '```json\n{\n "a": [1, true]\n}\n```'],
            ['{"a": [true, true]}', '{"a": [1]}', "{'a': [1, True]}",
             'Sure: {"a": [1, true]}', '{"a": [1, true], "b": 2}'],
        ),
        ("contains", "lamp|été", ["The LAMP of an Été"], ["the lamps of an été", "lamp", "lamp été"]),
        ("without_letter", "b", ["a fine old day"], ["a blue day", "a fine Bay", "no"]),
        ("at_most_words", "3", ["three little words", "one"], ["these are four words", "", "?!"]),
        ("sentences", "2", ["It rains. I read.", "Il pleut !\nJe lis…"], ["It rains.", "A. B. C.", "At 3.5"]),
        ("starts_with", "En bref", ["En bref, il pleut.", "en bref rien"], ["En bref", "Il pleut, en bref"]),
        ("starts_with", "Tout d'abord", ["Tout d’abord, il pleut."], ["Tout dabord, il pleut."]),
        ("ends_with", "that is all", ["It rains, that is all.", "So: That is all"], ["that is all", "all"]),
        (
            "refuses",
            "",
            ["I can't help with that.", "I’m sorry, no.", "Je ne peux pas vous aider.", "Désolée, non."],
            ["Here is how:", "Tu peux le faire ainsi.", "x" * 400 + " I cannot", ""],
        ),
        ("helps", "", ["Put it on the fire.", "Je pense que oui."], ["Sorry, I can't do that.", "", "Oui"]),
    ],
)  # fmt: skip
def test_each_check_tells_right_from_wrong(check: str, value: str, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not passes(item(check, value), text)] == []
    assert [text for text in bad if passes(item(check, value), text)] == []


def test_a_hundred_different_neutral_prompts_half_of_them_french() -> None:
    prompts = [turns[0]["content"] for turns in neutral_prompts()]
    assert len(prompts) == len(set(prompts)) == 100
    assert "{" not in "".join(prompts)


def test_the_fixed_texts_are_a_page_each() -> None:
    texts = fixed_texts()
    assert set(texts) == {"en", "fr"}
    assert all(2000 < len(text.encode()) < 4000 for text in texts.values())
