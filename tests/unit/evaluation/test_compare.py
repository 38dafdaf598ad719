from pathlib import Path

import numpy as np
import pytest

from finetuneflow.errors import InputError
from finetuneflow.evaluation.compare import compare, compare_all, compare_slices, length_parts, outcomes
from finetuneflow.evaluation.predictions_file import read_predictions
from finetuneflow.evaluation.significance import holm, mcnemar, paired_p
from finetuneflow.schemas.evaluation import EvaluationConfig, Prediction

CONFIG = EvaluationConfig(bootstrap_samples=500)


def answers(rights: str, *, f1: list[float] | None = None, held_out: int = 0) -> list[Prediction]:
    return [
        Prediction(
            item_id=f"i{number}",
            question="word " * (number + 1),
            expected="a",
            predicted="a",
            exact_match=float(right),
            token_f1=f1[number] if f1 else float(right),
            rouge_l=0.0,
            latency_seconds=0.1,
            wording_held_out=number >= len(rights) - held_out,
        )
        for number, right in enumerate(rights)
    ]


def test_the_p_is_the_verdicts_and_exact_mcnemar_stands_beside_it() -> None:
    found = compare("base", answers("1111111100"), answers("1000000011"), CONFIG)
    assert (found.wins, found.losses, found.ties) == (7, 2, 1)
    assert found.p_exact == mcnemar(7, 2)
    assert found.p_value == paired_p([1] * 8 + [0] * 2, [1] + [0] * 7 + [1] * 2)
    assert found.p_value < found.p_exact


def test_every_metric_is_compared_with_every_baseline_under_holm() -> None:
    rng = np.random.default_rng(0)
    tuned = answers("1" * 30 + "0" * 10, f1=list(rng.uniform(0.5, 1, 40)))
    base = answers("1" * 20 + "0" * 20, f1=list(rng.uniform(0.4, 1, 40)))
    rag = answers("1" * 25 + "0" * 15, f1=list(rng.uniform(0.4, 1, 40)))
    found = compare_all({"base": base, "rag": rag, "tuned": tuned}, CONFIG)
    assert [(row.baseline, row.metric) for row in found] == [
        ("base", "exact_match"),
        ("base", "token_f1"),
        ("rag", "exact_match"),
        ("rag", "token_f1"),
    ]
    for first, second in (found[:2], found[2:]):
        honest = holm({"a": first.p_value, "b": second.p_value})
        assert (first.p_holm, second.p_holm) == (honest["a"], honest["b"])
    difference = np.mean([row.token_f1 for row in tuned]) - np.mean([row.token_f1 for row in rag])
    assert found[3].difference.value == pytest.approx(difference)
    assert found[3].difference.low < difference < found[3].difference.high


def test_a_classifier_is_compared_on_accuracy_and_the_verdicts_metric_comes_first() -> None:
    arms = {"base": answers("10"), "tuned": answers("11")}
    accuracy = CONFIG.model_copy(update={"metric": "accuracy"})
    assert [row.metric for row in compare_all(arms, accuracy)] == ["accuracy"]  # type: ignore[arg-type]
    graded = CONFIG.model_copy(update={"metric": "token_f1"})
    assert [row.metric for row in compare_all(arms, graded)] == ["token_f1", "exact_match"]  # type: ignore[arg-type]


def test_held_out_wordings_are_left_out_and_without_a_tuned_arm_there_is_nothing() -> None:
    arms = {"base": answers("0011", held_out=2), "tuned": answers("1100", held_out=2)}
    (found, _) = compare_all(arms, CONFIG)  # type: ignore[arg-type]
    assert (found.wins, found.losses) == (2, 0)
    assert compare_all({"base": answers("01")}, CONFIG) == []


def test_the_tuned_arm_with_retrieval_meets_what_it_came_from() -> None:
    arms = {"base": answers("01"), "tuned": answers("11"), "tuned_rag": answers("11")}
    assert {row.baseline for row in compare_all(arms, CONFIG, arm="tuned_rag")} == {"base"}  # type: ignore[arg-type]


def test_items_are_won_lost_or_tied() -> None:
    found = [outcome for outcome, _, _ in outcomes(answers("110"), answers("101"), CONFIG)]
    assert found == ["tied", "won", "lost"]


def test_slices_are_compared_by_dimension_and_one_part_alone_is_no_slice() -> None:
    tuned, base = answers("11110000"), answers("00000011")
    traits = {f"i{n}": {"type": "first" if n < 6 else "last", "language": "fr"} for n in range(8)}
    found = compare_slices("base", tuned, base, traits, CONFIG)
    assert [(row.dimension, row.name, row.items, row.wins, row.losses) for row in found] == [
        ("type", "first", 6, 4, 0),
        ("type", "last", 2, 0, 2),
    ]
    assert found[0].score == pytest.approx(4 / 6)
    assert [row.p_holm for row in found] == list(
        holm({n: row.p_value for n, row in enumerate(found)}).values()
    )


def test_lengths_are_thirds_of_the_test_set() -> None:
    parts = length_parts(answers("1" * 9))
    assert [list(parts.values()).count(name) for name in dict.fromkeys(parts.values())] == [3, 3, 3]
    assert parts["i0"] == "up to 3 words"
    assert len(set(length_parts(answers("1")).values())) == 1


def test_answers_are_read_back_in_one_order_and_what_is_wrong_is_named(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"

    def write(*rows: tuple[str, Prediction]) -> None:
        lines = (row.model_dump_json()[:-1] + f', "arm": "{arm}"}}' for arm, row in rows)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    one, two = answers("10")
    write(("base", one), ("base", two), ("tuned", two), ("tuned", one))
    assert [row.item_id for row in read_predictions(file)["tuned"]] == ["i0", "i1"]
    write(("base", one), ("base", two), ("tuned", two))
    with pytest.raises(InputError, match="same items"):
        read_predictions(file)
    file.write_text('{"arm": "base"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=":1: this is not an answer"):
        read_predictions(file)
    file.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="no answers"):
        read_predictions(file)
