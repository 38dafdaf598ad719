import json
from pathlib import Path

import pytest

from finetuneflow.errors import DatasetError
from finetuneflow.evaluation.items import AnswerLog, read_items, test_set_hash
from finetuneflow.schemas.evaluation import Prediction, TestItem


def item(number: int, expected: str = "yes") -> TestItem:
    return TestItem(
        id=str(number), messages=[{"role": "user", "content": f"Question {number}?"}], expected=expected
    )


def answer(number: int, predicted: str = "no") -> Prediction:
    return Prediction(
        item_id=str(number),
        question=f"Question {number}?",
        expected="yes",
        predicted=predicted,
        exact_match=0,
        token_f1=0,
        rouge_l=0,
        latency_seconds=0.1,
    )


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_items_are_read_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "items.jsonl", item(2).model_dump_json(), "", item(1).model_dump_json())
    assert [row.id for row in read_items(path)] == ["2", "1"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{not json"], r"items\.jsonl:1: not a test item"),
        ([item(1).model_dump_json(), '{"id": "2", "messages": []}'], r"items\.jsonl:2: .*expected"),
        ([item(1).model_dump_json()] * 2, r"items\.jsonl:2: the id `1` was used on line 1"),
        ([""], "empty"),
    ],
)
def test_a_test_set_that_cannot_be_used_is_named_with_its_line(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read_items(write(tmp_path / "items.jsonl", *lines))
    assert caught.value.hint


def test_a_missing_or_binary_test_set_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        read_items(tmp_path / "none.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_items(tmp_path / "binary")


def test_the_hash_depends_on_content_and_not_on_order() -> None:
    assert test_set_hash([item(1), item(2)]) == test_set_hash([item(2), item(1)])
    assert test_set_hash([item(1)]) != test_set_hash([item(1, "no")])


def test_answers_survive_and_a_torn_line_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    AnswerLog(path, [item(1), item(2)]).add("base", [answer(1), answer(2, "été")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    log = AnswerLog(path, [item(1), item(2)])
    assert list(log.answers["base"]) == ["1"]
    log.rewrite(["base"], [item(1), item(2)])
    log.add("base", [answer(2, "été")])
    assert path.read_bytes() == whole
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[1])["arm"] == "base"


def test_answers_to_another_question_are_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    AnswerLog(path, [item(1)]).add("base", [answer(1)])
    assert AnswerLog(path, [item(1, "something else")]).answers == {}


def test_the_final_order_is_by_arm_and_item(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    log = AnswerLog(path, [item(1), item(2)])
    log.add("tuned", [answer(2), answer(1)])
    log.add("base", [answer(1), answer(2)])
    log.rewrite(["base", "tuned"], [item(1), item(2)])
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    order = [(row["arm"], row["item_id"]) for row in rows]
    assert order == [("base", "1"), ("base", "2"), ("tuned", "1"), ("tuned", "2")]
