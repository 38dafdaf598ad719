"""Files of predictions: every row kept, or dropped with line, reason and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.errors import InputError, NotFoundError, UsageError
from finetuneflow.ingest.predictions import load_mapping, read_predictions
from finetuneflow.schemas.prediction import NO_ANSWER, PredictionFile

GOOD: dict[str, Any] = {"verbatim": "je vérifie", "predicted": "A", "goldStandard": "B", "confidence": 0.9}


def write(path: Path, *rows: object) -> Path:
    """JSON lines; text and bytes as they are."""
    data = b""
    for row in rows:
        if isinstance(row, bytes):
            data += row + b"\n"
        else:
            data += (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)).encode() + b"\n"
    path.write_bytes(data)
    return path


def counted(file: PredictionFile) -> bool:
    """Nothing vanished."""
    return file.rows == len(file.predictions) + sum(file.dropped_by_reason.values())


BAD_ROWS: dict[str, tuple[object, str]] = {
    "torn JSON": ('{"verbatim": "x", ', "json_invalid"),
    "a list": ("[1, 2]", "not_an_object"),
    "no text": (GOOD | {"verbatim": "  "}, "missing_text"),
    "text is a number": (GOOD | {"verbatim": 3}, "wrong_type"),
    "no gold": (GOOD | {"goldStandard": None}, "missing_gold"),
    "no prediction key": ({"verbatim": "x", "goldStandard": "A"}, "missing_predicted"),
    "gold is an object": (GOOD | {"goldStandard": {"x": 1}}, "wrong_type"),
    "NUL": (GOOD | {"verbatim": "a\0b"}, "nul_bytes"),
    "not UTF-8": (b'{"verbatim": "\xff\xfe\xff", "predicted": "A", "goldStandard": "B"}', "not_utf8"),
    "nested too deep": ('{"verbatim": ' + "[" * 100_000, "json_invalid"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_costs_only_itself_and_is_named(case: str, tmp_path: Path) -> None:
    row, reason = BAD_ROWS[case]
    file = read_predictions(write(tmp_path / "p.jsonl", GOOD, "", row, GOOD))
    assert counted(file)
    assert (file.rows, len(file.predictions)) == (3, 2)
    (dropped,) = file.dropped
    assert (dropped.line, dropped.reason) == (3, reason)
    assert dropped.message
    assert dropped.remedy


def test_everything_that_the_document_names_is_read(tmp_path: Path) -> None:
    metadata = {
        "turnId": 7,
        "prev2_turn_verbatim": "deux",
        "prev1_turn_verbatim": "un",
        "next_turn_verbatim": "après",
        "annotations": [{"rationale": "r"}, {"comment": "c"}, {"note": "n"}, {"reason": "q"}, "t", {"x": 1}],
        "classifier": "openai",
        "model": "gpt",
        "type": "llm",
        "provider": "x",
        "temperature": 0,
        "maxTokens": 5,
    }
    row = GOOD | {"correct": False, "processingTime": 12, "metadata": metadata}
    (read,) = read_predictions(write(tmp_path / "p.jsonl", row)).predictions
    assert (read.text, read.predicted, read.gold, read.confidence, read.milliseconds) == (
        "je vérifie",
        "A",
        "B",
        0.9,
        12,
    )
    assert read.around is not None
    assert (read.around.prev2, read.around.prev1, read.around.next1) == ("deux", "un", "après")
    assert read.around.annotations == ("r", "c", "n", "q", "t")
    assert read.around.algorithm == "openai (gpt)"
    assert (read.around.turn_id, read.around.temperature, read.around.max_tokens) == ("7", 0.0, 5)


def test_a_missing_answer_is_an_error_not_a_loss(tmp_path: Path) -> None:
    file = read_predictions(write(tmp_path / "p.jsonl", GOOD | {"predicted": None}, GOOD | {"predicted": ""}))
    assert [row.predicted for row in file.predictions] == [NO_ANSWER] * 2
    assert [(notice.reason, notice.rows) for notice in file.notices] == [("no_answer", 2)]


def test_numbers_and_booleans_are_labels(tmp_path: Path) -> None:
    row = {"text": "x", "predicted": 1.0, "gold": 1}
    other = {"text": "x", "predicted": True, "gold": "true"}
    assert all(row.correct for row in read_predictions(write(tmp_path / "p.jsonl", row, other)).predictions)


def test_labels_are_compared_composed(tmp_path: Path) -> None:
    row = {"text": "x", "predicted": "e\u0301tat", "gold": "\u00e9tat"}
    assert read_predictions(write(tmp_path / "p.jsonl", row)).predictions[0].correct


@pytest.mark.parametrize(
    ("given", "read"),
    [(0.93, 0.93), ("0,93", 0.93), ("0.93", 0.93), (None, None), ("high", None), (-1, None), (True, None)],
)
def test_confidences(given: object, read: float | None, tmp_path: Path) -> None:
    file = read_predictions(write(tmp_path / "p.jsonl", GOOD | {"confidence": given}))
    assert file.predictions[0].confidence == read


def test_percentages_are_told_by_one_above_1(tmp_path: Path) -> None:
    rows = [GOOD | {"confidence": "93 %"}, GOOD | {"confidence": 40}, GOOD | {"confidence": 1}]
    file = read_predictions(write(tmp_path / "p.jsonl", *rows))
    assert [row.confidence for row in file.predictions] == [0.93, 0.40, 0.01]
    assert [notice.reason for notice in file.notices] == ["confidence_in_percent"]


def test_a_probability_rounded_above_1_makes_no_percentages_of_the_others(tmp_path: Path) -> None:
    rows = [GOOD | {"confidence": 1.0000001192092896}, GOOD | {"confidence": 0.9}]
    file = read_predictions(write(tmp_path / "p.jsonl", *rows))
    assert [row.confidence for row in file.predictions] == [1.0, 0.9]
    assert file.notices == []


def test_labels_of_probabilities_are_read_like_labels(tmp_path: Path) -> None:
    rows = [GOOD | {"probabilities": {" be\u0301 ": 0.7, "b": 0.3}}]
    file = read_predictions(write(tmp_path / "p.jsonl", *rows))
    assert file.predictions[0].probabilities == {"bé": 0.7, "b": 0.3}


def test_nan_and_lone_surrogates_are_read(tmp_path: Path) -> None:
    rows = [
        '{"verbatim": "x", "predicted": "A", "goldStandard": "B", "confidence": NaN}',
        '{"verbatim": "half \\ud83d face", "predicted": "A", "goldStandard": "B"}',
    ]
    file = read_predictions(write(tmp_path / "p.jsonl", *rows))
    assert [row.text for row in file.predictions] == ["x", "half \ufffd face"]
    assert file.predictions[0].confidence is None
    assert {notice.reason for notice in file.notices} == {"confidence_unreadable", "broken_unicode"}


def test_a_correct_that_contradicts_the_labels_is_seen(tmp_path: Path) -> None:
    file = read_predictions(
        write(tmp_path / "p.jsonl", GOOD | {"correct": True}, GOOD | {"correct": "false"})
    )
    assert [(notice.reason, notice.rows, notice.line) for notice in file.notices] == [
        ("correct_disagrees", 1, 1)
    ]


@pytest.mark.parametrize("shape", ["list", "pretty", "results", "lines in .json"])
def test_json_in_every_shape(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    rows = [GOOD, GOOD | {"goldStandard": None}]
    if shape == "lines in .json":
        write(path, *rows)
    else:
        held: object = {"model": "m", "results": rows} if shape == "results" else rows
        path.write_text(json.dumps(held, indent=2 if shape == "pretty" else None), encoding="utf-8")
    file = read_predictions(path)
    assert (len(file.predictions), file.dropped_by_reason) == (1, {"missing_gold": 1})
    expected = {"pretty": 8, "results": 2, "lines in .json": 2, "list": 2}
    assert file.dropped[0].line == expected[shape]


def test_csv_with_context_and_a_ragged_row(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(
        "verbatim;predicted;goldStandard;confidence;metadata.prev1_turn_verbatim;metadata.annotations\n"
        '"deux\nlignes; et plus";A;B;0,5;avant;"[{""rationale"": ""parce que""}]"\n'
        "trop;court\n"
        "bien;A;A;0,9;;\n",
        encoding="utf-8",
    )
    file = read_predictions(path)
    assert [row.text for row in file.predictions] == ["deux\nlignes; et plus", "bien"]
    first = file.predictions[0].around
    assert first is not None
    assert (first.prev1, first.annotations) == ("avant", ("parce que",))
    assert [(row.line, row.reason) for row in file.dropped] == [(4, "ragged_row")]
    assert counted(file)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_other_encodings_are_read(encoding: str, suffix: str, tmp_path: Path) -> None:
    text = "La vérification a été faite à l'été, où l'élève était très étonné."
    path = tmp_path / f"p.{suffix}"
    rows = [{"verbatim": text, "predicted": "é", "goldStandard": "à"}] * 5
    if suffix == "csv":
        body = "verbatim,predicted,goldStandard\n" + f'"{text}",é,à\n' * 5
    else:
        body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(body.encode(encoding))
    file = read_predictions(path)
    assert {row.text for row in file.predictions} == {text}
    assert bool(file.notes) == (encoding != "utf-8-sig")


def test_a_mapping_names_other_fields(tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("text: item.body\npredicted: [guess]\ngold: truth\nprev1: before\n", encoding="utf-8")
    row = {"item": {"body": "x"}, "guess": "A", "truth": "B", "before": "y", "predicted": "not this"}
    (read,) = read_predictions(write(tmp_path / "p.jsonl", row), mapping=load_mapping(mapping)).predictions
    assert (read.text, read.predicted, read.gold) == ("x", "A", "B")
    assert read.around is not None
    assert read.around.prev1 == "y"


def test_our_own_evaluations_are_read(tmp_path: Path) -> None:
    row = {"item_id": "t1", "question": "q", "expected": "a", "predicted": "b", "exact_match": 0.0}
    (read,) = read_predictions(write(tmp_path / "predictions.jsonl", row)).predictions
    assert (read.text, read.gold, read.predicted) == ("q", "a", "b")


def test_when_nothing_is_usable_the_first_problem_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"p\.jsonl:1: none of the 1 rows .*`tweet`") as caught:
        read_predictions(write(tmp_path / "p.jsonl", {"tweet": "x", "predicted": "A", "gold": "B"}))
    assert "--mapping" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("p.jsonl", b"", "empty_file"),
        ("p.jsonl", b"\n\n", "no_rows"),
        ("p.txt", b"x", "suffix_unknown"),
        ("p.json", b'[{"a": 1},\n{"a": }]', "json_invalid"),
        ("p.json", b"3", "record_not_object"),
        ("p.json", b'{"a": [{}], "b": [{}]}', "several_lists"),
        ("p.csv", b"\n", "no_header"),
    ],
)
def test_files_that_are_no_predictions(name: str, data: bytes, code: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_predictions(path)
    assert caught.value.code == code
    assert caught.value.hint
    if code == "json_invalid":
        assert caught.value.line == 2


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_predictions(tmp_path / "absent.jsonl")
    with pytest.raises(InputError):
        read_predictions(tmp_path)


def test_a_wrong_mapping_names_the_fields(tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("golden: x\n", encoding="utf-8")
    with pytest.raises(UsageError, match="golden") as caught:
        load_mapping(mapping)
    assert "gold" in caught.value.hint
