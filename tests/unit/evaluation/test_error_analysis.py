"""The figures of an error report, against scikit-learn and SciPy, and where they are undefined."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score, confusion_matrix, precision_recall_fscore_support

from finetuneflow.errors import InputError
from finetuneflow.evaluation.charter import choose_charter, load_charter, shipped_charters
from finetuneflow.evaluation.confusions import at_least, confusion_tests, expected_errors
from finetuneflow.evaluation.error_analysis import analyse
from finetuneflow.evaluation.error_report import cell, render
from finetuneflow.schemas.error_report import ErrorReport, Language, TechnicalMetadata
from finetuneflow.schemas.prediction import Prediction, PredictionFile

METADATA = TechnicalMetadata(
    extraction_date="2026-11-21T00:00:00+00:00",
    total_examples=0,
    unique_algorithms=0,
    annotation_coverage=0,
    error_rate=0,
    generator="test",
    source="p.jsonl",
    source_sha256="0",
    charter="generic",
    seed=0,
)


def predictions(pairs: Sequence[tuple[str, str]], **more: Any) -> list[Prediction]:
    """Rows of (predicted, gold)."""
    return [
        Prediction(line, f"text {line}", predicted, gold, **more)
        for line, (predicted, gold) in enumerate(pairs, 1)
    ]


def report(rows: list[Prediction], charter: str = "generic", language: Language = "en") -> ErrorReport:
    """The figures of rows."""
    file = PredictionFile(
        path="p.jsonl",
        rows=len(rows),
        predictions=rows,
        dropped=[],
        dropped_by_reason={},
        notices=[],
        notes=[],
        algorithm=None,
    )
    return analyse(file, load_charter(charter), language=language, metadata=METADATA)


def random_pairs(seed: int, labels: int, rows: int) -> list[tuple[str, str]]:
    """Predictions that are right more often than not."""
    rng = random.Random(seed)  # noqa: S311
    names = [f"label {number}" for number in range(labels)]
    gold = [rng.choice(names) for _ in range(rows)]
    return [(label if rng.random() < 0.7 else rng.choice(names), label) for label in gold]


@pytest.mark.parametrize("seed", range(8))
def test_the_figures_are_those_of_scikit_learn(seed: int) -> None:
    pairs = random_pairs(seed, labels=2 + seed, rows=50 * (seed + 1))
    predicted, gold = [one for one, _ in pairs], [one for _, one in pairs]
    found = report(predictions(pairs))
    assert found.kappa == pytest.approx(cohen_kappa_score(gold, predicted), abs=1e-12)
    for average, figures in (
        ("macro", (found.macro_precision, found.macro_recall, found.macro_f1)),
        ("weighted", (None, None, found.weighted_f1)),
    ):
        expected = precision_recall_fscore_support(gold, predicted, average=average, zero_division=0)[:3]
        for ours, theirs in zip(figures, expected, strict=True):
            assert ours is None or ours == pytest.approx(theirs, abs=1e-12)
    by_gold = confusion_matrix(gold, predicted, labels=found.labels)
    assert found.confusion == by_gold.T.tolist()
    assert found.accuracy == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))


def test_one_label_in_all_gives_no_kappa_and_says_why() -> None:
    found = report(predictions([("a", "a")] * 5))
    assert found.kappa is None
    assert found.kappa_note
    assert found.confusions == []
    assert found.high_confidence_share is None
    assert not found.high_confidence_alarm
    text = render(found, load_charter("generic"))
    assert found.kappa_note in text
    assert "nan" not in text.lower().split()


def test_a_label_never_predicted_has_no_precision() -> None:
    found = report(predictions([("a", "a"), ("a", "b"), ("c", "a")]))
    by_label = {score.label: score for score in found.per_label}
    assert (by_label["b"].precision, by_label["b"].recall, by_label["b"].f1) == (None, 0.0, 0.0)
    assert (by_label["c"].precision, by_label["c"].recall) == (0.0, None)


def test_no_figure_is_ever_not_a_number() -> None:
    for pairs in ([("a", "b")], [("a", "a")], [("a", "b"), ("b", "a")], random_pairs(3, 40, 60)):
        found = report(predictions(pairs))
        numbers = [value for value in found.model_dump().values() if isinstance(value, float)]
        numbers += [
            value
            for one in found.confusions
            for value in one.model_dump().values()
            if isinstance(value, float)
        ]
        assert all(math.isfinite(value) for value in numbers)


def test_two_labels_are_not_tested_against_chance() -> None:
    found = report(predictions([("a", "b")] * 30 + [("b", "b")] * 5 + [("a", "a")] * 9))
    assert found.confusions[0].significant is None
    assert found.confusions_note


@pytest.mark.parametrize("trials", [1, 7, 60, 5000])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.97])
def test_the_binomial_tail_is_that_of_scipy(trials: int, share: float) -> None:
    for successes in sorted({0, 1, trials // 3, trials // 2, trials - 1, trials}):
        theirs = binomtest(successes, trials, share, alternative="greater").pvalue
        assert at_least(successes, trials, share) == pytest.approx(theirs, rel=1e-8, abs=1e-300)


def test_expected_errors_keep_the_margins_and_the_diagonal_free() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 30, (6, 6))
    expected = expected_errors(matrix)
    errors = matrix.copy()
    np.fill_diagonal(errors, 0)
    assert np.diag(expected).sum() == 0
    assert expected.sum(0) == pytest.approx(errors.sum(0))
    assert expected.sum(1) == pytest.approx(errors.sum(1))


def test_chance_alone_is_seldom_called_more_than_chance() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(200):
        attraction = rng.dirichlet(np.full(5, 3.0))
        matrix = np.diag(rng.integers(50, 100, 5))
        for gold in range(5):
            share = np.delete(attraction, gold)
            drawn = rng.multinomial(40, share / share.sum())
            matrix[[row for row in range(5) if row != gold], gold] = drawn
        tests = confusion_tests(matrix)
        assert tests is not None
        alarms += any(adjusted < 0.05 for _, adjusted in tests[1].values())
    assert alarms <= 20  # 5 % asked for; 10 is the mean of an exact test, 20 its far tail


def test_a_planted_confusion_is_found() -> None:
    matrix = np.full((5, 5), 6) + np.diag([100] * 5)
    matrix[1, 3] = 40
    tests = confusion_tests(matrix)
    assert tests is not None
    assert [cell for cell, (_, adjusted) in tests[1].items() if adjusted < 0.05] == [(1, 3)]


def test_causes_and_actions_come_from_the_charter() -> None:
    pairs = [("ENGAGEMENT", "OUVERTURE")] * 3 + [("REFLET_ACQ", "REFLET_JE")] * 2 + [("ENGAGEMENT",) * 2]
    found = report(predictions(pairs), "counselling", "fr")
    assert found.confusions[0].cause == "Confusion verbes 1ère/2ème personne (je vais vs vous allez)"
    assert found.confusions[0].action.startswith("Renforcer la détection des verbes 2ème personne")
    assert found.confusions[1].cause.startswith("Ambiguïté dans l'application de la hiérarchie")
    assert found.labels[:2] == ["ENGAGEMENT", "OUVERTURE"]


@pytest.mark.parametrize(("high", "alarm"), [(1, False), (2, True)])
def test_the_alarm_rings_above_a_tenth_of_the_errors(high: int, alarm: bool) -> None:
    rows = [Prediction(n, "x", "a", "b", 0.95 if n <= high else 0.4) for n in range(1, 11)]
    found = report([*rows, Prediction(11, "x", "a", "a", 0.8)])
    assert found.high_confidence_alarm is alarm
    assert {band.band: (band.rows, band.errors) for band in found.by_confidence} == {
        "high": (high + 1, high),
        "medium": (0, 0),
        "low": (10 - high, 10 - high),
    }


def test_free_text_is_not_taken_for_labels() -> None:
    with pytest.raises(InputError, match="free text") as caught:
        report(predictions([(f"answer {n}", "b") for n in range(2500)]))
    assert "--mapping" in caught.value.hint


def test_the_charter_that_knows_the_labels_is_chosen() -> None:
    assert choose_charter({"ENGAGEMENT", "REFLET_JE"}).name == "counselling"
    assert choose_charter({"ENGAGEMENT", "joy"}).name == "generic"


@pytest.mark.parametrize("name", shipped_charters())
def test_shipped_charters_speak_both_languages(name: str) -> None:
    charter = load_charter(name)
    texts = [charter.title, charter.default_cause, charter.default_action, charter.prompts.system]
    texts += [charter.prompts.with_comments, charter.prompts.justification, *charter.labels.values()]
    texts += [text for one in charter.confusions for text in (one.cause, one.action)]
    assert all(text.fr and text.en and text.fr != text.en for text in texts)
    assert set(charter.priority) == set(charter.labels)
    assert {label for one in charter.confusions for label in (one.predicted, one.gold)} <= set(charter.labels)


HOSTILE = [
    "<script>alert(1)</script>",
    "a | b",
    "[x](javascript:alert(1))",
    "![x](http://x.example/p.png)",
    "**bold** _emphasis_ `code` ~~gone~~ $x$",
    "# heading",
    "line\nbreak\r\n\r\n# heading",
    "> quote",
    "https://x.example www.x.example a@x.example",
    "back\\slash \\| bar",
    "&lt;b&gt;",
    "\u202eright to left\u2066",
    "\x1b[31mred\x07",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_a_file_is_text_in_the_report(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    parser = markdown_it.MarkdownIt("gfm-like", {"linkify": False, "html": True})
    shown = cell(text)
    assert "\n" not in shown
    (inline,) = [token for token in parser.parse(f"- « {shown} »") if token.type == "inline"]
    kinds = {child.type for child in inline.children or ()}
    assert kinds <= {"text", "text_special"}
    rendered = parser.render(f"| a | b |\n| --- | --- |\n| {shown} | end |\n")
    assert rendered.count("<td>") == 2
    assert "<td>end</td>" in rendered
    assert not any(mark in shown for mark in ("://", "www.", "@", "\u202e", "\x1b"))


def test_words_of_labels_stay_readable() -> None:
    assert cell("REFLET_VOUS") == "REFLET_VOUS"


def test_the_matrix_of_many_labels_shows_the_worst() -> None:
    found = report(predictions([(f"l{n}", f"l{n}") for n in range(60)] + [("l3", "l59")] * 9))
    text = render(found, load_charter("generic"))
    head = next(line for line in text.splitlines() if line.startswith("| prediction"))
    assert head.count("|") == 25 + 2
    assert " l3 " in head
    assert " l59 " in head
    assert "the other 35 are in the JSON" in text
