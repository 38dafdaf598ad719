"""Bad input gets one clear error, naming file, line and remedy; nothing is half-written."""

from __future__ import annotations

import io
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.e2e

PDF_WITHOUT_TEXT = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
)


def bomb() -> bytes:
    """A DOCX whose document would unpack to 200 MB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", b"0" * 200_000_000)
    return buffer.getvalue()


CASES = {
    "empty.csv": (b"", "from-records", "empty"),
    "ragged.csv": (b"nom,statut\na,en production\nb,c,d\n", "from-records", "ragged.csv:3"),
    "nul.csv": (b"nom,statut\na,en\x00prod\n", "from-records", "nul.csv:2"),
    "binary.csv": (bytes(range(128, 256)) * 40, "from-records", "binary.csv"),
    "records.json": (b'[{"nom": "a"}, 7]', "from-records", "records.json"),
    "broken.json": (b'[{"nom": "a",]', "from-records", "broken.json:1"),
    "empty.md": (b"", "from-documents", "empty"),
    "image.pdf": (PDF_WITHOUT_TEXT, "from-documents", "image.pdf"),
    "broken.pdf": (b"%PDF-1.4 nothing", "from-documents", "broken.pdf"),
    "broken.docx": (b"PK\x03\x04 nothing", "from-documents", "broken.docx"),
    "bomb.docx": (bomb(), "from-documents", "bomb.docx"),
    "picture.png": (b"\x89PNG", "from-documents", "picture.png"),
}


def one_clear_error(stderr: str, *said: str) -> None:
    assert "Traceback" not in stderr
    assert stderr.count("error:") == 1, stderr
    assert "hint:" in stderr
    for words in said:
        assert words in stderr


@pytest.mark.parametrize("name", CASES)
def test_a_source_that_cannot_be_read_is_named(name: str, tmp_path: Path, finetuneflow: Run) -> None:
    content, command, said = CASES[name]
    path, out = tmp_path / name, tmp_path / "out" / "made.jsonl"
    path.write_bytes(content)
    done = finetuneflow("dataset", command, path, "--out", out)
    assert done.returncode in (1, 2), done.stderr
    assert done.stdout == ""
    one_clear_error(done.stderr, said)
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_mojibake_is_repaired_and_said(tmp_path: Path, finetuneflow: Run) -> None:
    path, out = tmp_path / "records.csv", tmp_path / "made.jsonl"
    rows = "".join(
        f"Outil{number},Gère les dépôts à Évreux n° {number},en préparation\n" for number in range(12)
    )
    path.write_text(("nom,descriptif,statut\n" + rows).encode("utf-8").decode("cp1252"), encoding="utf-8")
    done = finetuneflow("dataset", "from-records", path, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "repaired" in done.stderr
    assert "Évreux" in out.read_text(encoding="utf-8")


def test_an_unknown_recipe_key_gets_the_nearest_known_one(tmp_path: Path, finetuneflow: Run) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("base_model: embedded:tiny\ndataset: d.jsonl\nlearning_rat: 0.1\n", encoding="utf-8")
    done = finetuneflow("train", recipe)
    assert done.returncode == 2
    one_clear_error(done.stderr, "learning_rat", "`learning_rate`", "recipe.yaml:3")


def test_an_unknown_base_model_is_refused_before_anything_starts(tmp_path: Path, finetuneflow: Run) -> None:
    dataset = tmp_path / "d.jsonl"
    dataset.write_text('{"instruction": "Où ?", "output": "Ici."}\n' * 3, encoding="utf-8")
    done = finetuneflow("train", "--dataset", dataset, "--base-model", "gpt-9")
    assert done.returncode in (1, 2)
    one_clear_error(done.stderr, "gpt-9", "embedded:tiny")


def test_a_dataset_without_answers_is_refused(tmp_path: Path, finetuneflow: Run) -> None:
    dataset = tmp_path / "d.jsonl"
    dataset.write_text('{"messages": [{"role": "user", "content": "Où ?"}]}\n' * 3, encoding="utf-8")
    done = finetuneflow("train", "--dataset", dataset)
    assert done.returncode in (1, 2)
    one_clear_error(done.stderr, "d.jsonl")


def test_examples_too_long_to_learn_from_are_refused(tmp_path: Path, finetuneflow: Run) -> None:
    dataset = tmp_path / "d.jsonl"
    lines = [f'{{"instruction": "{"mot " * 400}{n}", "output": "Ici {n}."}}' for n in range(20)]
    dataset.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = finetuneflow("train", "--dataset", dataset, "--set", "max_seq_length=64")
    assert done.returncode == 1
    one_clear_error(done.stderr, "max_seq_length", "longer than 64 tokens")
