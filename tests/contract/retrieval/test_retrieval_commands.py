"""`finetuneflow retrieval` from the outside: what it prints, where a server is asked, what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GUIDE = "# Guide\n\n## Animals\n\nA feline sleeps all day.\n\n## Roads\n\nA lorry needs a wide road.\n"


@pytest.fixture
def guide(tmp_path: Path) -> Path:
    """A document of two sections."""
    path = tmp_path / "guide.md"
    path.write_text(GUIDE, encoding="utf-8")
    return path


def test_passages_come_with_their_sources(cli: Any, guide: Path, catalogue: Path) -> None:
    said = cli(
        "retrieval", "search", guide, catalogue, "Quel est le statut de l’application BOREAL ?", "-k", 1
    )
    assert said.code == 0
    assert said.out.startswith("[1] catalogue.csv, record 2, line 3  (score ")
    assert "En projet" in said.out
    found = cli("retrieval", "search", guide, catalogue, "wide roads", "--json").json()
    best = found["passages"][0]
    assert best["passage"]["source_name"] == "guide.md"
    assert best["passage"]["chunk_id"] == best["passage"]["id"]
    assert best["source"] == "guide.md, passage 2, “Roads”"
    assert best["passage"]["text"] == "Roads\n\nA lorry needs a wide road."


def test_no_hit_is_said_and_is_no_failure(cli: Any, guide: Path) -> None:
    said = cli("retrieval", "search", guide, "xylophone")
    assert (said.code, said.out) == (0, "")
    assert "No passage" in said.err


def test_what_cannot_be_searched_is_refused_in_words(cli: Any, guide: Path, tmp_path: Path) -> None:
    said = cli("retrieval", "search", guide, "  ")
    assert said.code == 2
    assert "the question is empty" in said.err
    empty = tmp_path / "empty.json"
    empty.write_text('{"data": []}')
    said = cli("retrieval", "search", empty, "cat")
    assert said.code == 1
    assert "no passage" in said.err
    assert cli("retrieval", "search", tmp_path / "none.md", "cat").code == 2
    assert cli("retrieval", "search", guide, "cat", "-k", 0).code == 2


def test_meaning_is_asked_of_a_server(cli: Any, guide: Path, embeddings: Any, workspace: Path) -> None:
    asked = ("retrieval", "search", guide, "cat", "--kind", "embeddings", "-k", 1)
    server = ("--url", embeddings.url, "--encoder", "nomic-embed-text", "--api-key", "k-123")
    said = cli(*asked, *server)
    assert said.code == 0
    assert "feline" in said.out
    assert embeddings.requests[0]["input"][0].startswith("search_document: ")
    assert embeddings.requests[-1]["input"] == ["search_query: cat"]
    assert {headers["Authorization"] for headers in embeddings.headers} == {"Bearer k-123"}
    before = len(embeddings.requests)
    assert cli(*asked, *server).out == said.out
    assert len(embeddings.requests) == before + 1  # the question alone: the vectors were kept
    kept = "".join(str(path) + path.read_bytes().decode("latin-1") for path in workspace.rglob("*.npz"))
    assert "k-123" not in kept


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"object": "list", "data": []}, "gave 0 vectors for 2 texts"),
        (
            {"object": "list", "data": [{"index": 0, "embedding": [0.0]}, {"index": 1, "embedding": [1.0]}]},
            "zero",
        ),
        ({"choices": []}, "did not answer with embeddings"),
        ({"data": [{"index": 0, "embedding": [1, 2]}, {"index": 1, "embedding": [1]}]}, "did not answer"),
    ],
)
def test_a_server_that_answers_otherwise_is_named(
    answer: Any, words: str, cli: Any, guide: Path, embeddings: Any, workspace: Path
) -> None:
    embeddings.answer = answer
    said = cli("retrieval", "search", guide, "cat", "--kind", "embeddings", "--url", embeddings.url,
               "--encoder", "nomic-embed-text")  # fmt: skip
    assert said.code == 1
    assert words in said.err
    assert "127.0.0.1" in said.err
    assert not list(workspace.rglob("*.npz"))


def test_an_unknown_model_or_a_server_that_is_away_is_named(cli: Any, guide: Path, embeddings: Any) -> None:
    asked = ("retrieval", "search", guide, "cat", "--kind", "hybrid", "--url")
    said = cli(*asked, embeddings.url, "--encoder", "bge-m3")
    assert said.code == 1
    assert "ollama pull bge-m3" in said.err
    assert cli(*asked, "localhost:11434", "--encoder", "x").code == 2


def test_what_may_pass_is_tried_again(cli: Any, guide: Path, embeddings: Any) -> None:
    embeddings.statuses = [503]
    said = cli("retrieval", "search", guide, "cat", "--kind", "hybrid", "--url", embeddings.url,
               "--encoder", "nomic-embed-text")  # fmt: skip
    assert said.code == 0


def test_the_kinds_are_measured_on_a_dataset_with_provenance(
    cli: Any, catalogue: Path, embeddings: Any, tmp_path: Path
) -> None:
    questions = tmp_path / "questions.jsonl"
    made = cli("dataset", "from-records", catalogue, "--add-negatives", "--out", questions, "--json").json()
    said = cli("retrieval", "measure", catalogue, "-q", questions, "--url", embeddings.url,
               "--encoder", "nomic-embed-text")  # fmt: skip
    assert said.code == 0
    assert [line.split()[0] for line in said.out.splitlines()] == ["kind", "bm25", "embeddings", "hybrid"]
    assert "hybrid against bm25, recall@5" in said.err
    report = cli("retrieval", "measure", catalogue, "-q", questions, "--kind", "bm25", "--json").json()
    assert report["passages"] == 5
    assert report["questions"] + sum(report["left_out"].values()) == made["examples"]
    assert report["left_out"].keys() == {"no source known"}
    [bm25] = report["kinds"]
    assert bm25["recall"]["1"]["low"] <= bm25["recall"]["1"]["value"] <= bm25["recall"]["1"]["high"]
    assert bm25["recall"]["5"]["value"] > 0.9


def test_a_squad_file_is_source_and_questions_at_once(cli: Any, tmp_path: Path) -> None:
    paragraphs = []
    for name, place in (("mill", "Delft"), ("tower", "Paris"), ("bridge", "Porto")):
        answers = [{"text": place, "answer_start": len(f"The {name} is in ")}]
        asked = {"id": name, "question": f"Where is the {name}?", "answers": answers}
        paragraphs.append({"context": f"The {name} is in {place}.", "qas": [asked]})
    file = tmp_path / "squad.json"
    file.write_text(json.dumps({"data": [{"title": "Places", "paragraphs": paragraphs}]}))
    report = cli("retrieval", "measure", file, "-q", file, "--kind", "bm25", "--json").json()
    assert (report["questions"], report["sources"], report["left_out"]) == (3, 3, {})
    assert report["kinds"][0]["mrr"]["value"] == 1
    assert report["kinds"][0]["mrr"]["low"] < 0.5


def test_questions_of_other_sources_are_refused(cli: Any, guide: Path, dataset: Path) -> None:
    said = cli("retrieval", "measure", guide, "-q", dataset)
    assert said.code == 1
    assert "no source known: 40" in said.err


def test_a_workspace_that_cannot_be_written_stops_nobody(cli: Any, guide: Path, workspace: Path) -> None:
    workspace.mkdir()
    (workspace / "indexes").write_text("in the way")
    said = cli("retrieval", "search", guide, "wide road")
    assert said.code == 0
    assert "lorry" in said.out
