import random
import re
import string
import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetuneflow.metrics import (
    exact_match,
    json_validity,
    longest_common_subsequence,
    normalize,
    rouge_l,
    token_f1,
)

METRICS = (exact_match, token_f1, rouge_l)

# text, the same written another way, a different text
SCRIPTS = {
    "latin": ("L'été à Grüße", "l’ÉTÉ a\u0300 GRÜSSE !", "L'été à Größe"),
    "greek": ("Οδυσσεύς", "ΟΔΥΣΣΕΎΣ.", "Οδυσσεία"),
    "cyrillic": ("Ёлка и йод", "ёлка  И ЙОД", "Елка и иод"),
    "arabic": ("ما الحالة؟ قيد الإنتاج", "ما الحالة قيد الإنتاج.", "ما الحالة؟ متوقفة"),
    "hebrew": ("שלום עולם", "שלום עולם׃", "שלום ירושלים"),
    "devanagari": ("हिन्दी में।", "हिन्दी  में", "हन्दी में"),
    "thai": ("กรุงเทพมหานคร", "กรุงเทพมหานคร ", "กรุงเก่า"),
    "chinese": ("北京是首都。", "北京是首都", "南京是古都"),
    "japanese": ("データベース", "ﾃﾞｰﾀﾍﾞｰｽ", "テータヘース"),
    "korean": ("한국어 데이터", "한국어 데이터!", "한국어 모델"),
    "georgian": ("საქართველო", "საქართველო.", "საფრანგეთი"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_counts_the_same_text_as_equal_and_another_as_different(script: str) -> None:
    text, same, other = SCRIPTS[script]
    assert [metric(text, same) for metric in METRICS] == [1.0, 1.0, 1.0]
    assert all(metric(text, other) < 1 for metric in METRICS)


def test_unspaced_scripts_score_by_character() -> None:
    assert token_f1("北京是首都", "南京是古都") == pytest.approx(3 / 5)
    assert rouge_l("北京是首都", "南京是古都") == pytest.approx(3 / 5)
    assert rouge_l("กรุงเก่า", "กรุงเทพ") == pytest.approx(8 / 12)


def test_empty_answers() -> None:
    for metric in METRICS:
        assert metric("", "") == metric("  ", "\u200b") == 1.0
        assert metric("", "word") == metric("word", "") == 0.0


def test_punctuation_articles_and_invisible_characters() -> None:
    assert normalize("«\u202fEn production\u00a0!\u202f»") == "en production"
    assert exact_match("soft\u00adware", "software") == 1.0
    assert exact_match("the status", "status") == 0.0
    assert exact_match("+", "-") == 0.0
    assert rouge_l("+", "-") == 0.0


@pytest.mark.parametrize(
    ("predicted", "expected", "rouge"),
    [
        # fmeasure of the field's reference implementation (rouge-score 0.1.2, no stemming)
        ("the cat sat on the mat", "the cat was on the mat", 0.8333333333333334),
        ("police killed the gunman", "police kill the gunman", 0.75),
        ("police killed the gunman", "the gunman kill police", 0.5),
        ("a b c d e", "e d c b a", 0.2),
        (
            "8-SINP is in production since 2019.",
            "The application 8-SINP is in production.",
            0.7142857142857143,
        ),
        ("yes", "no", 0.0),
        ("a a a", "a", 0.5),
        ("Snake_case and camelCase", "snake case and camelcase", 1.0),
        ("one two three four five six seven", "two four six eight", 0.5454545454545454),
    ],
)
def test_rouge_l_equals_the_reference_on_ascii(predicted: str, expected: str, rouge: float) -> None:
    assert rouge_l(predicted, expected) == pytest.approx(rouge, abs=1e-12)


def squad(predicted: str, expected: str, *, articles: bool) -> tuple[float, float]:
    """Exact match and F1 as SQuAD 2.0 defines them: lower case, no punctuation, no articles."""

    def tokens(text: str) -> list[str]:
        bare = "".join(c for c in text.lower() if c not in string.punctuation)
        return (re.sub(r"\b(a|an|the)\b", " ", bare) if articles else bare).split()

    ours, theirs = tokens(predicted), tokens(expected)
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not ours or not theirs:
        return float(ours == theirs), float(ours == theirs)
    return float(ours == theirs), 2 * common / (len(ours) + len(theirs))


WORDS = [
    "Status", "status,", "in", "production.", "8-SINP", "e.g.", "3.5", "$5", "a_b", "'quoted'", "C++", "x",
    "the", "The", "a", "an", "A.", "theatre", "a-n", "banana", "(the)", "I", "#1", "50%", "no-one",
]  # fmt: skip


@pytest.mark.parametrize("articles", [False, True])
def test_exact_match_and_f1_equal_squad_on_500_ascii_pairs(articles: bool) -> None:
    rng = random.Random(0)  # noqa: S311
    words = [*WORDS, "?!", "--", ""] if articles else WORDS
    seen: Counter[tuple[float, bool]] = Counter()
    for _ in range(500):
        first = " ".join(rng.choices(words, k=rng.randint(1, 6)))
        second = rng.choice(
            [
                first.upper(),
                " ".join(rng.choices(words, k=rng.randint(1, 6))),
                first + " x",
                f" the  {first} ",
            ]
        )
        want = squad(first, second, articles=articles)
        got = (
            exact_match(first, second, english_articles=articles),
            token_f1(first, second, english_articles=articles),
        )
        assert got == pytest.approx(want, abs=1e-12), (first, second)
        seen[want[0], 0 < want[1] < 1] += 1
    assert min(seen[1.0, False], seen[0.0, True], seen[0.0, False]) > 20


# two answers and their exact match and token F1, worked out by hand
GOLDEN = [
    ("Latin", "L’Été à Évry", "l'été à évry", 1.0, 1.0),
    ("Latin", "Straße nach Köln", "STRASSE nach Bonn", 0.0, 2 / 3),
    ("Latin", "İzmir’de yağmur", "Ankara’da yağmur", 0.0, 1 / 2),
    ("Greek", "Ο ΟΔΥΣΣΕΥΣ", "ο Οδυσσευς", 1.0, 1.0),
    ("Greek", "η μεγάλη πόλη", "η μικρή πόλη", 0.0, 2 / 3),
    ("Cyrillic", "«Мир», труд, май!", "мир труд май", 1.0, 1.0),
    ("Cyrillic", "старый мост закрыт", "новый мост", 0.0, 2 / 5),
    ("Arabic", "نعم، قيد الإنتاج؟", "نعم قيد الإنتاج", 1.0, 1.0),
    ("Arabic", "قيد الإنتاج", "قيد الدراسة", 0.0, 1 / 2),
    ("Hebrew", "״שלום״, עולם", "שלום עולם", 1.0, 1.0),
    ("Hebrew", "שלום עולם", "שלום ירושלים", 0.0, 1 / 2),
    ("Devanagari", "दिल्ली भारत में है।", "दिल्ली भारत में है", 1.0, 1.0),
    ("Devanagari", "दिल्ली भारत में", "मुंबई भारत में", 0.0, 2 / 3),
    ("Bengali", "ঢাকা শহর।", "ঢাকা শহর", 1.0, 1.0),
    ("Tamil", "சென்னை நகரம்", "மதுரை நகரம்", 0.0, 1 / 2),
    ("Thai", "กา มา", "กามา", 0.0, 1.0),  # spaces separate phrases there, tokens are characters
    ("Chinese", "「北京」。", "北京", 1.0, 1.0),
    ("Chinese", "东京", "北京", 0.0, 1 / 2),
    ("Japanese", "ｶﾞｲﾄﾞ", "ガイド", 1.0, 1.0),
    ("Japanese", "東京都", "京都", 0.0, 4 / 5),
    ("Korean", "서울, 한국", "서울 한국", 1.0, 1.0),
    ("Korean", "서울 한국", "부산 한국", 0.0, 1 / 2),
    ("Georgian", "თბილისი ქალაქია", "თბილისი", 0.0, 2 / 3),
    ("Armenian", "Գյումրի, քաղաք։", "ԳՅՈՒՄՐԻ ՔԱՂԱՔ", 1.0, 1.0),
]


@pytest.mark.parametrize(("script", "first", "second", "exact", "f1"), GOLDEN)
def test_golden_pairs_in_many_scripts(script: str, first: str, second: str, exact: float, f1: float) -> None:
    assert exact_match(first, second) == exact
    assert token_f1(first, second) == pytest.approx(f1)


def test_the_golden_pairs_cover_at_least_eight_scripts() -> None:
    assert len({script for script, *_ in GOLDEN}) >= 8


@pytest.mark.parametrize(
    ("predicted", "validity"),
    [
        ('{"a": 1}', 1.0),
        (" [1, 2]\n", 1.0),
        ('```json\n{"a": [1]}\n```', 1.0),
        ('{"été": "«où»"}', 1.0),
        ("3", 1.0),
        ("{'a': 1}", 0.0),
        ('{"a": NaN}', 0.0),
        ('{"a": 1, "a": 2}', 0.0),
        ('Here it is: {"a": 1}', 0.0),
        ("", 0.0),
        ("[" * 100_000, 0.0),
    ],
)
def test_json_is_valid_or_not(predicted: str, validity: float) -> None:
    assert json_validity(predicted, '{"a": 1}') == validity


@pytest.mark.parametrize("expected", ["42", "a sentence", '"text"', "", "{broken"])
def test_json_validity_is_null_where_no_json_is_expected(expected: str) -> None:
    assert json_validity('{"a": 1}', expected) is None


@given(st.text(max_size=40), st.text(max_size=40))
def test_metrics_are_symmetric_bounded_and_one_on_the_same_text(first: str, second: str) -> None:
    for metric in METRICS:
        assert metric(first, first) == 1.0
        assert metric(first, second) == metric(second, first)
        assert 0.0 <= metric(first, second) <= 1.0
    assert exact_match(first, second) <= token_f1(first, second)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_the_fast_common_subsequence_equals_the_textbook_one(first: list[str], second: list[str]) -> None:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    assert longest_common_subsequence(first, second) == table[-1][-1]


def test_a_thousand_pairs_of_sixty_words_take_under_a_second() -> None:
    rng = random.Random(0)  # noqa: S311
    words = [f"mot{i}" for i in range(200)]
    texts = [" ".join(rng.choices(words, k=60)) for _ in range(1001)]
    started = time.process_time()
    for first, second in pairwise(texts):
        rouge_l(first, second)
    assert time.process_time() - started < 1
