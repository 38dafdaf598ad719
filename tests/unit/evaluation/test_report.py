import pytest

from finetuneflow.evaluation.classification import score
from finetuneflow.evaluation.compare import arm_result, compare
from finetuneflow.evaluation.report import markdown, question_type_table, table
from finetuneflow.schemas.evaluation import EvaluationConfig, EvaluationResult, Prediction

CONFIG = EvaluationConfig(bootstrap_samples=200)


def predictions(rights: str, held_out: str = "") -> list[Prediction]:
    return [
        Prediction(
            item_id=str(number),
            question="?",
            expected="a",
            predicted="a" if right == "1" else "b",
            exact_match=float(right),
            token_f1=float(right),
            rouge_l=float(right),
            latency_seconds=0.02,
            question_type="status" if number % 2 else "definition",
            wording_held_out=number >= len(rights),
        )
        for number, right in enumerate(rights + held_out)
    ]


def result(**arms: list[Prediction]) -> EvaluationResult:
    return EvaluationResult(
        items=4,
        test_set_hash="0" * 64,
        arms={arm: arm_result(arm, rows, CONFIG) for arm, rows in arms.items()},
        seconds=1,
        config=CONFIG,
    )


def test_held_out_wordings_are_counted_apart() -> None:
    figures = arm_result("tuned", predictions("1110", "01"), CONFIG)
    assert figures.overall is not None
    assert figures.held_out_wordings is not None
    assert (figures.overall.items, figures.overall.exact_match.value) == (4, 0.75)
    assert (figures.held_out_wordings.items, figures.held_out_wordings.exact_match.value) == (2, 0.5)
    assert {kind: scores.items for kind, scores in figures.by_question_type.items()} == {
        "definition": 2,
        "status": 2,
    }


def test_an_arm_with_only_held_out_wordings_has_no_overall_figure() -> None:
    figures = arm_result("tuned", predictions("", "01"), CONFIG)
    assert figures.overall is None
    rows = table(result(tuned=predictions("", "01")))
    assert rows[1][1] == rows[1][4]


def test_wins_losses_and_ties_are_paired_by_item() -> None:
    comparison = compare("base", predictions("1110"), predictions("1001"), CONFIG)
    assert (comparison.wins, comparison.losses, comparison.ties) == (2, 1, 1)
    assert comparison.difference.value == pytest.approx(0.25)
    assert comparison.difference.low <= 0.25 <= comparison.difference.high
    assert comparison.p_exact == 1.0


def test_the_table_has_one_row_per_arm() -> None:
    rows = table(result(base=predictions("0000"), rag=predictions("1000"), tuned=predictions("1111", "1")))
    assert [row[0] for row in rows] == ["arm", "base", "base + retrieval", "tuned"]
    assert rows[3][1] == "100.0% (51.0 to 100.0)"
    assert (rows[1][4], rows[3][4]) == ("-", "100.0% (20.7 to 100.0)")
    assert rows[1][5] == "20 ms"
    assert {len(row) for row in rows} == {len(rows[0])}


def test_question_types_stand_side_by_side() -> None:
    rows = question_type_table(result(base=predictions("0000"), tuned=predictions("1010")))
    assert [row[:2] for row in rows[1:]] == [["definition", "2"], ["status", "2"]]
    assert rows[1][3].startswith("100.0%")
    assert rows[2][3].startswith("0.0%")


def test_a_classifier_has_its_own_table() -> None:
    figures = {
        "base": score(["a", "b"], ["a", "a"], ["a", "b"]),
        "tuned": score(["a", "a"], ["a", "a"], ["a"]),
    }
    shown = result().model_copy(update={"classification": figures})
    rows = table(shown)
    assert rows[1][0] == "most frequent label"
    assert rows[1][1] == "50.0%"
    assert rows[2][5] == "undefined"


def test_markdown_cannot_be_broken_by_a_cell() -> None:
    text = markdown([["a", "b"], ["x | y", "two\nlines"]])
    assert text == "| a | b |\n| --- | --- |\n| x \\| y | two lines |"
