import json
from pathlib import Path

import numpy as np
import pytest

from finetuneflow.errors import InputError
from finetuneflow.retrieval.cite import cited
from finetuneflow.retrieval.measure import difference, interval, recall_values, reciprocal_ranks
from finetuneflow.retrieval.relevant import NO_QUESTION, NO_SOURCE, NOT_INDEXED, from_examples, from_spans
from finetuneflow.retrieval.squad import AskedSpan, read_squad
from finetuneflow.schemas.example import Example, Message, Provenance
from finetuneflow.schemas.retrieval import Passage, SourcedQuestion


def _asked(*relevant: list[int]) -> list[SourcedQuestion]:
    return [SourcedQuestion(text="?", relevant=positions) for positions in relevant]


def test_recall_and_reciprocal_rank_of_known_lists() -> None:
    asked = _asked([4], [4], [4], [1, 2, 3])
    found = [[4, 0], [0, 4], [], [1, 9, 2]]
    assert recall_values(asked, found, 1).tolist() == [1, 0, 0, 1]
    assert recall_values(asked, found, 3).tolist() == [1, 1, 0, pytest.approx(2 / 3)]
    assert reciprocal_ranks(asked, found).tolist() == [1, 0.5, 0, 1]
    assert reciprocal_ranks(_asked([7]), [[*range(8, 108), 7]]).tolist() == [0]


def test_the_interval_holds_the_truth_in_about_95_of_100_trials() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(100):
        values = (rng.random(80) < 0.8).astype(float)
        got = interval(values, _asked(*([n] for n in range(80))), seed=trial)
        held += got.low <= 0.8 <= got.high
    assert 88 <= held <= 100


def test_questions_on_one_passage_count_as_one_witness() -> None:
    values = np.array([1.0, 0.0] * 40).repeat(5)
    apart = interval(values, _asked(*([n] for n in range(400))))
    together = interval(values, _asked(*([n // 5] for n in range(400))))
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_all_found_is_not_taken_for_certain() -> None:
    asked = _asked(*([n] for n in range(20)))
    assert interval(np.ones(20), asked).low == pytest.approx(0.8389, abs=1e-4)
    assert interval(np.zeros(20), asked).high == pytest.approx(0.1611, abs=1e-4)
    same = difference(np.ones(20), np.ones(20), asked)
    assert (same.value, same.low) == (0, -same.high)
    with pytest.raises(ValueError, match="at least one"):
        interval(np.array([]), [])


def test_a_paired_difference_is_that_of_the_same_questions() -> None:
    asked = _asked(*([n] for n in range(100)))
    theirs = np.array([1.0, 0.0] * 50)
    ours = np.maximum(theirs, np.arange(100) < 20)
    got = difference(ours, theirs, asked)
    assert got.value == pytest.approx(0.1)
    assert 0 < got.low < 0.1 < got.high < 0.2


def _example(question: str = "Who?", **provenance: object) -> Example:
    return Example(
        messages=[Message(role="user", content=question), Message(role="assistant", content="A.")],
        provenance=Provenance.model_validate(provenance),
    )


CHUNKS = [
    Passage(id="d-1", text="a", source_id="d", source_name="d.md", chunk_id="d-1", start=0, end=10),
    Passage(id="d-2", text="b", source_id="d", source_name="d.md", chunk_id="d-2", start=12, end=30),
]
RECORDS = [
    Passage(id=f"r#{n}", text="r", source_id="r", source_name="r.csv", record_id=str(n), line=n + 1)
    for n in (1, 2, 3)
]


def test_the_source_of_a_question_is_told_by_its_provenance() -> None:
    passages = [*CHUNKS, *RECORDS]
    examples = [
        _example(source_id="d", source_name="d.md", start=13, end=20),
        _example(source_id="d", start=8, end=14),
        _example(source_id="r", source_name="r.csv", record_ids=["3", "1"]),
        _example(source_id="changed since", source_name="r.csv", record_ids=["2"]),
    ]
    asked, left_out = from_examples(examples, passages)
    assert [question.relevant for question in asked] == [[1], [0, 1], [2, 4], [3]]
    assert not left_out


def test_questions_that_cannot_be_measured_are_counted_by_reason() -> None:
    examples = [
        _example(),
        _example(" ", source_id="r", record_ids=["1"]),
        _example(source_id="r", source_name="r.csv", record_ids=["99"]),
        _example(source_id="changed since", source_name="d.md", start=1, end=2),
    ]
    asked, left_out = from_examples(examples, [*CHUNKS, *RECORDS])
    assert asked == []
    assert left_out == {NO_SOURCE: 1, NO_QUESTION: 1, NOT_INDEXED: 2}


def _squad(path: Path, answer_start: int = 4) -> Path:
    answers = [{"text": "cat", "answer_start": answer_start}]
    questions = [
        {"id": "1", "question": "Who sat?", "answers": answers},
        {"id": "2", "question": "Who flew?", "answers": [], "is_impossible": True},
    ]
    paragraph = {"context": "The cat sat.", "qas": questions}
    file = {"version": "1", "data": [{"title": "A_tale", "paragraphs": [paragraph]}]}
    path.write_text(json.dumps(file), encoding="utf-8")
    return path


def test_squad_files_give_passages_and_questions(tmp_path: Path) -> None:
    squad = read_squad(_squad(tmp_path / "s.json"))
    assert squad is not None
    assert squad.paragraphs == [("A tale", "The cat sat.")]
    passages = [
        Passage(id="1", text="Another.", source_id="s", source_name="s"),
        Passage(id="2", text="Once.\nThe  cat\nsat. And went.", source_id="s", source_name="s"),
    ]
    asked, left_out = from_spans([*squad.questions, AskedSpan("Why?", "not there")], passages)
    assert [(question.text, question.relevant) for question in asked] == [("Who sat?", [1])]
    assert left_out == {NO_SOURCE: 1, NOT_INDEXED: 1}


def test_an_answer_that_is_not_where_the_file_says_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not stand at character 5"):
        read_squad(_squad(tmp_path / "s.json", answer_start=5))


@pytest.mark.parametrize("text", ["[]", '{"data": 3}', "{", '{"nom": "Atlas"}', ""])
def test_other_json_is_no_squad_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text(text)
    assert read_squad(file) is None


def test_an_answer_cites_the_passages_that_hold_it() -> None:
    passages = ["Atlas : en production", "Boréal : en projet", "Atlas : cartographie des bâtiments publics"]
    question = "À quoi sert Atlas ?"
    assert cited("Atlas sert à la cartographie des bâtiments.", passages, question) == [2]
    assert cited("En production.", passages, "Quel est le statut ?") == [0]
    assert cited("Je ne sais pas.", passages, question) == []
    assert cited("", passages) == cited("Atlas", []) == []
