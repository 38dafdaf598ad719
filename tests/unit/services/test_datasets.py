"""Dataset versions: what goes in comes out or is told of, and the same content is the same version."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetuneflow.artifacts import Workspace, read_examples
from finetuneflow.errors import DatasetError, NotFoundError, StorageError, UsageError
from finetuneflow.schemas.example import Example, Message, Provenance
from finetuneflow.services import datasets
from finetuneflow.services.context import Context, open_context, using_context
from finetuneflow.settings import Settings
from finetuneflow.store.database import open_store


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    settings = Settings(home=tmp_path / "home", database_url=f"sqlite:///{tmp_path / 'test.db'}")
    store = open_store(settings.database_url)
    yield Context(settings, Workspace(settings.home), store)
    store.close()


def chat(question: str, answer: str, fact: str | None = None) -> Example:
    return Example(
        messages=[Message(role="user", content=question), Message(role="assistant", content=answer)],
        provenance=Provenance(record_ids=[fact] if fact else [], fact=fact),
    )


def labelled(text: str, label: str) -> Example:
    return Example(text=text, label=label)


def many(count: int = 40) -> list[Example]:
    return [chat(f"Quel est l'état de {n} ?", f"état {n}", fact=f"r{n}") for n in range(count)]


def ledger_lines(folder: str) -> list[dict[str, object]]:
    text = (Path(folder) / "ledger.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_every_row_of_a_file_is_kept_or_told_of(context: Context, tmp_path: Path) -> None:
    path = tmp_path / "données.jsonl"
    datasets.write(path, [*many(), *many(3)])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"messages": []}\nnot json\n')
    version = datasets.create_version(context, path)
    assert version.name == "données"
    assert version.ledger["rows"] == 45
    assert version.ledger["duplicate"] == 3
    lines = ledger_lines(version.path)
    assert version.ledger["kept"] + len(lines) == 45
    assert {line["line"] for line in lines if line["reason"] == "duplicate"} == {41, 42, 43}
    assert {44, 45} <= {line["line"] for line in lines}
    assert {line["file"] for line in lines} == {"données.jsonl"}
    counts = version.counts
    assert counts.train + counts.validation + counts.test == version.ledger["kept"]
    for split, count in counts.model_dump().items():
        assert len(read_examples(Path(version.path) / f"{split}.jsonl")) == count


def test_provenance_is_kept(context: Context) -> None:
    version = datasets.create_version(context, many(), name="n")
    kept = read_examples(Path(version.path) / "train.jsonl")
    assert all(example.provenance.fact for example in kept)


def test_the_same_content_is_the_same_version(context: Context) -> None:
    first = datasets.create_version(context, many(), name="one", seed=3)
    second = datasets.create_version(context, list(many()), name="two", seed=3)
    other = datasets.create_version(context, many(41), name="one", seed=3)
    assert first == second
    assert first.id != other.id
    assert first.id == f"ds-{first.content_hash[:12]}"
    assert [version.id for version in datasets.list_datasets(context)] == [other.id, first.id]
    assert not list((context.workspace.datasets()).glob(".*"))


def test_a_version_whose_folder_is_gone_is_written_again(context: Context) -> None:
    version = datasets.create_version(context, many())
    for path in Path(version.path).iterdir():
        path.unlink()
    Path(version.path).rmdir()
    again = datasets.create_version(context, many())
    assert again.id == version.id
    assert read_examples(Path(again.path) / "train.jsonl")


def test_ready_splits_are_taken_as_they_are(context: Context, tmp_path: Path) -> None:
    folder = tmp_path / "ready"
    folder.mkdir()
    datasets.write(folder / "train.jsonl", many(8))
    datasets.write(folder / "dev.csv", [chat("a ?", "b")], "alpaca")
    datasets.write(folder / "test.json", [chat("c ?", "d"), many(1)[0]])
    version = datasets.create_version(context, folder)
    assert version.counts.model_dump() == {"train": 8, "validation": 1, "test": 2}
    assert version.ledger["test_questions_in_train"] == 1


def test_a_version_s_own_folder_gives_the_version_back(context: Context) -> None:
    version = datasets.create_version(context, many())
    assert datasets.create_version(context, Path(version.path)).id == version.id
    assert len(datasets.read(Path(version.path))) == version.ledger["kept"]


def test_texts_and_labels_in_two_files_make_a_classification_dataset(
    context: Context, tmp_path: Path
) -> None:
    (tmp_path / "train_text.txt").write_text("super\nnul\nbof\n", encoding="utf-8")
    (tmp_path / "train_labels.txt").write_text("1\n0\n10\n", encoding="utf-8")
    version = datasets.create_version(context, tmp_path, task="sequence_classification")
    assert version.labels == ["0", "1", "10"]
    assert version.counts.train == 3


@pytest.mark.parametrize(
    ("examples", "task", "remedy"),
    [
        ([labelled(f"t{n}", "a") for n in range(20)], "causal_lm", "sequence_classification"),
        (many(20), "sequence_classification", "causal_lm"),
    ],
)
def test_a_dataset_for_another_task_is_refused_with_the_line_to_change(
    context: Context, examples: list[Example], task: str, remedy: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        datasets.create_version(context, examples, task=task)  # type: ignore[arg-type]
    assert remedy in caught.value.hint
    assert datasets.list_datasets(context) == []


def test_an_unknown_dataset_is_not_found(context: Context) -> None:
    with pytest.raises(NotFoundError):
        datasets.get_dataset(context, "ds-000000000000")


def test_split_writes_a_whole_folder_and_never_over_another(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    datasets.write(path, many())
    out = tmp_path / "out"
    files = datasets.split(path, out, seed=1)
    assert [file.split for file in files] == ["train", "validation", "test"]
    assert sum(file.examples for file in files) == 40
    assert len(datasets.read(out)) == 40
    assert datasets.statistics(out).splits.train == files[0].examples
    with pytest.raises(UsageError, match="exists"):
        datasets.split(path, out)


def test_deduplicate_names_lines_and_keeps_the_format(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    datasets.write(path, [*many(2), many(1)[0]], "prompt_completion")
    kept, dropped = datasets.deduplicate(path, tmp_path / "out.csv")
    assert len(kept) == 2
    assert [row.line for row in dropped] == [4], "line 1 of a CSV is its header"
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[0] == "prompt,completion"


def test_convert_changes_the_format_alone(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    datasets.write(path, many(3))
    report = datasets.convert(path, tmp_path / "d.json", to="sharegpt")
    assert (report.rows, report.valid) == (3, 3)
    assert [e.messages for e in datasets.read(tmp_path / "d.json")] == [e.messages for e in many(3)]


def test_records_become_examples_that_cover_them(tmp_path: Path) -> None:
    path = tmp_path / "applications.csv"
    lines = ["nom,descriptif,statut"]
    lines += [f"Appli{n},Outil numéro {n} de gestion des demandes,en production" for n in range(12)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    mapping, text = datasets.guess_mapping(path)
    (tmp_path / "mapping.yaml").write_text(text, encoding="utf-8")
    made = datasets.from_records(path, mapping=tmp_path / "mapping.yaml", num_questions=30)
    assert (made.records, len(made.examples), made.mapping) == (12, 30, mapping)
    datasets.write(tmp_path / "d.jsonl", made.examples)
    report = datasets.coverage(path, tmp_path / "d.jsonl")
    assert (report.records, report.covered, report.uncovered) == (12, 12, [])


def test_documents_share_a_number_of_questions(tmp_path: Path) -> None:
    for name in ("a", "b"):
        facts = "\n".join(f"- **Terme{name}{n}** : l'outil numéro {n} du service {name}." for n in range(8))
        (tmp_path / f"{name}.md").write_text(f"# Guide {name}\n\n{facts}\n", encoding="utf-8")
    paths = [tmp_path / "a.md", tmp_path / "b.md"]
    every = datasets.from_documents(paths).examples
    some = datasets.from_documents(paths, num_questions=4).examples
    assert len(some) == 4
    assert len({example.provenance.source_name for example in some}) == 2
    assert {example.question for example in some} <= {example.question for example in every}


def test_a_context_makes_its_workspace_and_database(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    settings = Settings(home=home, database_url=f"sqlite:///{home / 'finetuneflow.db'}")
    with using_context(settings) as context:
        assert datasets.list_datasets(context) == []
    assert (home / "finetuneflow.db").is_file()


def test_a_workspace_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="home"):
        open_context(Settings(home=tmp_path / "home", database_url="sqlite://"))
