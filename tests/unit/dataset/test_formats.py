from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetuneflow.dataset.folders import read_dataset_folder, read_text_label_files
from finetuneflow.dataset.formats import read_dataset, write_dataset
from finetuneflow.dataset.sidecar import sidecar_path
from finetuneflow.errors import DatasetError, InputError, NotFoundError, UsageError
from finetuneflow.schemas.dataset import DatasetFormat
from finetuneflow.schemas.example import Example, Message, Provenance

SHARED = Path(os.environ.get("FTF_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
FORMATS: tuple[DatasetFormat, ...] = ("openai", "sharegpt", "alpaca", "prompt_completion", "text_label")


def chat(question: str, answer: str, system: str = "", **provenance: object) -> Example:
    turns = [Message(role="system", content=system)] if system else []
    turns += [Message(role="user", content=question), Message(role="assistant", content=answer)]
    return Example(messages=turns, provenance=Provenance.model_validate(provenance))


def content(example: Example) -> dict[str, object]:
    return example.model_dump(exclude={"provenance"})


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def row(question: str = "Qui ?", answer: str = "Moi.") -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns}, ensure_ascii=False)


# what tables and JSON must carry unharmed: formulas, quotes, line ends, separators that are not line ends
words = st.text(
    st.one_of(
        st.sampled_from("=+-@'\"\t\r\n,;[]{}é«\u2028\u00a0\u202f😀\ufeff"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    ),
    min_size=1,
    max_size=12,
).filter(str.strip)
provenances = st.builds(
    Provenance,
    source_id=st.none() | st.text("0123456789abcdef", min_size=4, max_size=4),
    record_ids=st.lists(st.sampled_from("abc"), max_size=2),
    fact=st.none() | st.just("42:status"),
    wording_held_out=st.booleans(),
)
systems = st.none() | words
pairs = st.lists(st.tuples(words, words), min_size=1, max_size=3)
roles = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), words), max_size=4)


def conversation(system: str | None, asked: list[tuple[str, str]]) -> list[Message]:
    turns = [Message(role="system", content=system)] if system else []
    for question, answer in asked:
        turns += [Message(role="user", content=question), Message(role="assistant", content=answer)]
    return turns


def free(turns: list[tuple[str, str]], question: str, answer: str) -> list[Message]:
    return [
        *(Message.model_validate({"role": role, "content": text}) for role, text in turns),
        Message(role="user", content=question),
        Message(role="assistant", content=answer),
    ]


expressible = {
    "openai": st.builds(Example, messages=st.builds(free, roles, words, words), provenance=provenances),
    "sharegpt": st.builds(Example, messages=st.builds(free, roles, words, words), provenance=provenances),
    "alpaca": st.builds(Example, messages=st.builds(conversation, systems, pairs), provenance=provenances),
    "prompt_completion": st.builds(
        Example,
        messages=st.builds(conversation, systems, st.lists(st.tuples(words, words), min_size=1, max_size=1)),
        provenance=provenances,
    ),
    "text_label": st.builds(Example, text=words, label=words, provenance=provenances),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_what_a_format_can_say_reads_back_the_same(
    format: DatasetFormat, suffix: str, data: st.DataObject
) -> None:
    examples = data.draw(st.lists(expressible[format], min_size=1, max_size=4))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"data{suffix}"
        write_dataset(path, examples, format)
        found, report = read_dataset(path)
    assert [content(example) for example in found] == [content(example) for example in examples]
    assert report.format == format
    assert not report.dropped
    assert not report.warnings
    nothing = Provenance()
    for example, original in zip(found, examples, strict=True):
        if original.provenance != nothing and examples.count(original) == 1 and _only_one(original, examples):
            assert example.provenance == original.provenance


def _only_one(example: Example, examples: list[Example]) -> bool:
    return [content(other) for other in examples].count(content(example)) == 1


lines = st.one_of(
    st.just(row()),
    st.just(""),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=20),
    st.sampled_from(
        ["[]", "[1]", "{}", "null", "3", '{"messages": 3}', '{"messages": [3]}', '{"text": "a"}']
    ),
    st.builds(
        lambda role, text: json.dumps({"messages": [{"role": role, "content": text}]}),
        st.sampled_from(["user", "assistant", "tool", "", None, 3, ["user"]]),
        st.sampled_from(["a", "", None, 3, "\0", [{"type": "text", "text": "a"}], [{"type": "image"}]]),
    ),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(lines, max_size=8))
def test_every_row_is_either_valid_or_dropped(rows: list[str]) -> None:
    rows.append(row())
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "data.jsonl", "\n".join(rows))
        examples, report = read_dataset(path)
    assert report.rows == report.valid + len(report.dropped)
    assert report.valid == len(examples)
    assert report.rows == sum(bool(line.strip()) for line in rows)
    assert all(drop.remedy and drop.message for drop in report.dropped)


def turns(*spoken: tuple[object, object]) -> str:
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in spoken]})


@pytest.mark.parametrize(
    ("line", "reason", "words"),
    [
        ('{"messages": [}', "invalid_json", "not valid JSON"),
        ('"just text"', "not_an_object", "not an object"),
        ('{"prompt": "a"}', "missing_keys", "`prompt`"),
        ('{"messages": "nonsense"}', "invalid_json", "`messages`"),
        ('{"messages": {"role": "user"}}', "wrong_type", "an object, not a list"),
        (turns(("tool", "a"), ("assistant", "b")), "unknown_role", "'tool'"),
        (turns(("assistant", "b")), "no_user_turn", "user"),
        (turns(("user", "b")), "no_assistant_turn", "assistant"),
        (turns(("user", "a"), ("assistant", " ")), "empty_answer", "turn 2"),
        (turns(("user", ""), ("assistant", "a")), "empty_question", "turn 1"),
        (turns(("user", "a\0"), ("assistant", "b")), "nul_bytes", "turn 1"),
        (turns(("user", 3), ("assistant", "b")), "wrong_type", "a number"),
        (
            '{"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}',
            "missing_keys",
            "content",
        ),
        ('{"messages": [{"role": "assistant", "tool_calls": [{}]}]}', "tool_calls", "calls a tool"),
        ('{"messages": []}\0', "nul_bytes", "NUL"),
    ],
)
def test_a_bad_row_is_named_with_line_reason_and_remedy(
    tmp_path: Path, line: str, reason: str, words: str
) -> None:
    path = write(tmp_path / "data.jsonl", f"{row()}\n\n{line}\n{row()}\n")
    examples, report = read_dataset(path)
    assert len(examples) == 2
    (drop,) = report.dropped
    assert (drop.line, drop.reason) == (3, reason)
    assert words in drop.message
    assert drop.remedy


def test_an_example_without_provenance_points_back_to_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", f"{row()}\n\n{row('Quoi ?')}\n")
    examples, _ = read_dataset(path)
    assert [example.provenance.line for example in examples] == [1, 3]
    assert examples[0].provenance.source_name == "data.jsonl"


def test_a_byte_order_mark_and_utf_16_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "mark.jsonl").write_bytes(b"\xef\xbb\xbf" + row("Où ça ?").encode())
    (tmp_path / "wide.csv").write_bytes("prompt;completion\r\nOù ça ?;Là\r\n".encode("utf-16"))
    for name in ("mark.jsonl", "wide.csv"):
        assert read_dataset(tmp_path / name)[0][0].question == "Où ça ?"


def test_another_encoding_is_named_with_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("text,label\nbonjour,fr\nété,fr\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.csv:3: byte 0xe9 at offset 22 is not UTF-8") as caught:
        read_dataset(path)
    assert "iconv" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.jsonl", b"", "empty"),
        ("blank.jsonl", b"\n \n", "blank"),
        ("zeros.jsonl", b"\0" * 200, "NUL"),
        ("wide.jsonl", '{"text": "a", "label": "b"}'.encode("utf-16-le"), "UTF-16"),
        ("broken.json", b'[{"text": "a"', "not valid JSON"),
        ("number.json", b"3", "no rows"),
        ("none.json", b"[]", "no rows"),
        ("broken.parquet", b"PAR1 not really", "Parquet"),
        ("header.csv", b"text,label\n", "no known dataset format|no rows"),
        ("twice.csv", b"text,label,text\na,b,c\n", "twice"),
        ("keys.jsonl", b'{"colour": 1}\n', "`colour`"),
        ("lines.jsonl", b"{\n{\n", "not valid JSON"),
        ("unusable.jsonl", b'{"text": "", "label": "b"}\n', "none of the 1 rows"),
    ],
)
def test_a_file_without_usable_rows_is_one_error(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        read_dataset(path)
    assert name in str(caught.value)
    assert caught.value.hint


def test_missing_files_folders_and_unknown_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        read_dataset(tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match="suffix"):
        read_dataset(write(tmp_path / "data.xlsx", "x"))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match="folder"):
        read_dataset(tmp_path / "folder.jsonl")


def test_a_ragged_or_unclosed_csv_row_is_named_with_its_line(tmp_path: Path) -> None:
    text = 'text,label\n"two\nlines",a\nonly one cell\nfine,b\n"never closed,c\n'
    examples, report = read_dataset(write(tmp_path / "data.csv", text))
    assert [(example.text, example.label) for example in examples] == [("two\nlines", "a"), ("fine", "b")]
    assert [(drop.line, drop.reason) for drop in report.dropped] == [(4, "ragged_row"), (6, "invalid_csv")]


def test_csv_cells_are_no_formulas_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    texts = ["=1+1", "+33", "-x", "@user", "'=x", "'quoted'"]
    write_dataset(path, [Example(text=text, label="a") for text in texts], "text_label")
    written = path.read_text(encoding="utf-8").splitlines()[1:]
    assert [line.split(",")[0] for line in written] == ["'=1+1", "'+33", "'-x", "'@user", "''=x", "'quoted'"]
    assert [example.text for example in read_dataset(path)[0]] == texts


@pytest.mark.parametrize(
    ("line", "format", "question", "answer"),
    [
        (
            '{"instruction": "Résume", "input": "Un texte", "output": "Oui"}',
            "alpaca",
            "Résume\n\nUn texte",
            "Oui",
        ),
        ('{"instruction": "Qui ?", "input": "", "output": "Moi"}', "alpaca", "Qui ?", "Moi"),
        ('{"question": "Qui ?", "answer": "Moi"}', "prompt_completion", "Qui ?", "Moi"),
        (
            '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}',
            "sharegpt",
            "a",
            "b",
        ),
        ('{"text": "Bien", "label": 1}', "text_label", "Bien", "1"),
        ('{"text": "Bien", "label": 1, "label_text": "joy"}', "text_label", "Bien", "joy"),
        ('{"prompt": [{"role": "user", "content": "a"}], "completion": "b"}', "prompt_completion", "a", "b"),
    ],
)
def test_the_format_is_told_from_the_keys(
    tmp_path: Path, line: str, format: str, question: str, answer: str
) -> None:
    examples, report = read_dataset(write(tmp_path / "data.jsonl", line))
    assert (report.format, examples[0].question, examples[0].answer) == (format, question, answer)


def test_json_may_be_a_list_an_object_around_one_or_lines(tmp_path: Path) -> None:
    for text in (
        f"[{row()}]",
        f'{{"data": [{row()}]}}',
        f'{{"questions": [{row()}]}}',
        row(),
        f"{row()}\n{row()}",
    ):
        examples, _ = read_dataset(write(tmp_path / "data.json", text))
        assert examples[0].question == "Qui ?"
    assert read_dataset(write(tmp_path / "list.jsonl", f"[\n{row()},\n3]"))[1].dropped[0].line == 2


def test_keys_that_are_left_out_are_said_once(tmp_path: Path) -> None:
    line = '{"prompt": "a", "completion": "b", "score": 3}'
    _, report = read_dataset(write(tmp_path / "data.jsonl", f"{line}\n{line}\n"))
    (warning,) = report.warnings
    assert (warning.line, warning.reason) == (1, "ignored_key")
    assert "`score`" in warning.message


def test_provenance_stays_out_of_the_file_and_survives_editing_it(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_dataset(path, [chat("A ?", "a", fact="1:a"), chat("B ?", "b", fact="2:b"), chat("C ?", "c")])
    assert "fact" not in path.read_text(encoding="utf-8")
    assert (tmp_path / "x.provenance.jsonl").read_text(encoding="utf-8").count("\n") == 2
    kept = path.read_text(encoding="utf-8").splitlines()
    write(path, "\n".join([kept[2], kept[1], row()]))
    assert [example.provenance.fact for example in read_dataset(path)[0]] == [None, "2:b", None]


def test_identical_examples_keep_their_own_provenance(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    write_dataset(path, [chat("A ?", "a", fact="1"), chat("A ?", "a", fact="2")])
    assert [example.provenance.fact for example in read_dataset(path)[0]] == ["1", "2"]


def test_without_provenance_there_is_no_sidecar_and_an_old_one_goes(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_dataset(path, [chat("A ?", "a", fact="1")])
    assert sidecar_path(path).exists()
    write_dataset(path, [chat("A ?", "a")])
    assert not sidecar_path(path).exists()


def test_a_damaged_sidecar_line_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_dataset(path, [chat("A ?", "a", fact="1")])
    write(sidecar_path(path), "{torn")
    examples, report = read_dataset(path)
    assert examples[0].provenance.fact is None
    assert [warning.reason for warning in report.warnings] == ["provenance"]


def test_what_a_format_cannot_say_is_refused_and_nothing_written(tmp_path: Path) -> None:
    two = Example(messages=conversation(None, [("a", "b"), ("c", "d")]))
    path = tmp_path / "x.jsonl"
    with pytest.raises(UsageError, match="example 2 cannot be written as prompt_completion"):
        write_dataset(path, [chat("a", "b"), two], "prompt_completion")
    with pytest.raises(UsageError, match="conversation"):
        write_dataset(path, [two], "text_label")
    with pytest.raises(UsageError, match="not a conversation"):
        write_dataset(path, [Example(text="a", label="b")], "openai")
    with pytest.raises(UsageError, match="suffix"):
        write_dataset(tmp_path / "x.xlsx", [two])
    assert not list(tmp_path.iterdir())


def test_text_and_label_files_are_read_with_the_names_of_the_labels(tmp_path: Path) -> None:
    texts = write(tmp_path / "train_text.txt", "one \ntwo\n\nfour\n")
    labels = write(tmp_path / "train_labels.txt", "1\n0\n1\n7\n")
    mapping = write(tmp_path / "mapping.txt", "0\tanger\n1\tjoy\n")
    examples, report = read_text_label_files(texts, labels, mapping)
    assert [(example.text, example.label) for example in examples] == [("one", "joy"), ("two", "anger")]
    assert [(drop.line, drop.reason) for drop in report.dropped] == [
        (3, "empty_question"),
        (4, "unknown_label"),
    ]
    assert report.rows == 4
    with pytest.raises(InputError, match="2 labels for the 4 texts"):
        read_text_label_files(texts, write(tmp_path / "short.txt", "1\n0\n"), mapping)


def test_a_folder_gives_its_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "text,category\na,x\nb,y\n")
    write(tmp_path / "dev.jsonl", '{"text": "c", "label": "x"}\n')
    splits, reports = read_dataset_folder(tmp_path)
    assert {split: len(examples) for split, examples in splits.items()} == {
        "train": 2,
        "validation": 1,
        "test": 0,
    }
    assert len(reports) == 2
    (tmp_path / "train.csv").unlink()
    with pytest.raises(InputError, match="no training file"):
        read_dataset_folder(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared data is not here (FTF_SHARED_DATA)")
def test_published_classification_sets_are_read_whole() -> None:
    emotion, _ = read_dataset_folder(SHARED / "classification" / "emotion")
    assert [len(emotion[split]) for split in ("train", "validation", "test")] == [3257, 374, 1421]
    assert {example.label for example in emotion["train"]} == {"anger", "joy", "optimism", "sadness"}
    banking, reports = read_dataset_folder(SHARED / "classification" / "banking77")
    assert (len(banking["train"]), len(banking["test"])) == (10003, 3080)
    assert not any(report.dropped for report in reports)
    assert len({example.label for example in banking["train"]}) == 77


def test_a_dataset_error_is_an_input_error_about_rows(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"data\.jsonl:2: none of the 1 rows"):
        read_dataset(write(tmp_path / "data.jsonl", '\n{"messages": []}\n'))
