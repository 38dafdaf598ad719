"""Wrong predictions to training examples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetuneflow.dataset.formats import read_dataset
from finetuneflow.dataset.from_predictions import ErrorExamples, fill
from finetuneflow.errors import DatasetError
from finetuneflow.evaluation.charter import load_charter
from finetuneflow.schemas.prediction import Prediction, Surroundings
from finetuneflow.services import errors

AROUND = Surroundings(
    turn_id="12", prev1="avant", next1="après", annotations=("premier avis", "second avis"), classifier="c"
)
ROW = Prediction(3, "je vais voir", "OUVERTURE", "ENGAGEMENT", 0.876, around=AROUND)
BARE = Prediction(4, "oui", "OUVERTURE", "REFLET_ACQ")


def test_the_words_of_the_document() -> None:
    system, user, answer = ErrorExamples(load_charter("counselling"), "fr").messages(ROW)
    assert system["content"] == (
        "Tu es un expert en analyse conversationnelle. Analyse le tour de parole dans son contexte et "
        "attribue le bon tag selon les annotations d'experts.\n\nAnnotations disponibles :\n"
        "1. premier avis\n2. second avis"
    )
    assert user["content"] == (
        'Contexte conversationnel :\nTour -1: "avant"\n**Tour à analyser**: "je vais voir"\n'
        'Tour +1: "après"\n\n'
        "Algorithme actuel prédit: OUVERTURE (confiance: 87.6%)\nQuel devrait être le bon tag selon vous ?"
    )
    assert answer["content"] == (
        "Le tag correct est **ENGAGEMENT**.\n\nJustification selon l'expert : premier avis\n\n"
        'L\'algorithme a incorrectement prédit "OUVERTURE" au lieu de "ENGAGEMENT".'
    )


def test_without_comments_the_charter_speaks() -> None:
    system, user, answer = ErrorExamples(load_charter("counselling"), "fr").messages(BARE)
    assert "ENGAGEMENT > OUVERTURE > REFLET_VOUS > REFLET_JE > REFLET_ACQ > EXPLICATION" in system["content"]
    assert user["content"].startswith('**Tour à analyser**: "oui"\n')
    assert "confiance: inconnue" in user["content"]
    assert "Justification : application stricte de la charte" in answer["content"]


def test_a_plain_example_gives_nothing_away() -> None:
    turns = ErrorExamples(load_charter("counselling"), "fr", style="plain").messages(ROW)
    said = " ".join(turn["content"] for turn in turns[:2]).replace("ENGAGEMENT > OUVERTURE", "")
    assert "OUVERTURE" not in said
    assert "premier avis" not in said
    assert turns[2]["content"] == "ENGAGEMENT"


def test_the_generic_charter_names_the_labels() -> None:
    examples = ErrorExamples(load_charter("generic"), "en", labels=["joy", "anger"])
    assert "out of: anger, joy." in examples.messages(BARE)[0]["content"]


def test_what_is_filled_in_is_never_filled_again() -> None:
    assert fill("{a} {b} {c}", a="{b}", b="{a}") == "{b} {a} {c}"


def test_a_label_example_is_text_and_label() -> None:
    line = ErrorExamples(load_charter("generic"), "en", style="label").line(ROW)
    assert line == {"text": "je vais voir", "label": "ENGAGEMENT"}


def write(path: Path, *rows: tuple[str, str, str]) -> Path:
    """Predictions: text, predicted, gold."""
    keys = ("verbatim", "predicted", "goldStandard")
    path.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize("style", ["document", "plain", "label"])
def test_what_is_extracted_is_a_dataset_that_knows_where_it_comes_from(style: str, tmp_path: Path) -> None:
    source = write(tmp_path / "p.jsonl", ("one", "a", "b"), ("two", "a", "a"), ("three", "b", "a"))
    out = tmp_path / "train.jsonl"
    made = errors.extract(source, out, style=style)  # type: ignore[arg-type]
    assert (made.rows, made.examples, made.correct, made.dropped) == (3, 2, 1, 0)
    examples, report = read_dataset(out)
    assert report.dropped == []
    assert [example.provenance.line for example in examples] == [1, 3]
    assert {example.provenance.source_name for example in examples} == {"p.jsonl"}
    assert examples[0].answer.endswith(("b", 'instead of "b".'))


def test_nothing_wrong_means_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="all 1 predictions are right"):
        errors.extract(write(tmp_path / "p.jsonl", ("one", "a", "a")), tmp_path / "train.jsonl")
    assert not (tmp_path / "train.jsonl").exists()
