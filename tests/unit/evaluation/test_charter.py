"""Charters: shipped ones by name, a user's own by path, and what is said of one that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetuneflow.errors import InputError, NotFoundError
from finetuneflow.evaluation.charter import charter_text, known_confusion, load_charter

OWN = """
name: moods
title: Moods
language: en
priority: [anger, joy]
labels: {anger: Somebody is angry, joy: Somebody is glad}
confusions:
  - {predicted: joy, gold: anger, cause: irony, action: add ironic examples}
default_cause: unknown
default_action: {en: read them, fr: les lire}
prompts: {system: "Say the mood out of {labels}.", with_comments: "{comments}"}
"""


def test_a_charter_of_ones_own_may_be_in_one_language(tmp_path: Path) -> None:
    path = tmp_path / "moods.yaml"
    path.write_text(OWN, encoding="utf-8")
    charter = load_charter(path)
    known = known_confusion(charter, "joy", "anger")
    assert known is not None
    assert (known.cause.say("fr"), known.cause.say("en")) == ("irony", "irony")
    assert (charter.default_action.say("fr"), charter.default_action.say("en")) == ("les lire", "read them")
    assert known_confusion(charter, "anger", "joy") is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("default_cause: unknown\n", "", "default_cause"),
        ("language: en", "language: it", "language"),
        ("gold: anger", "golden: anger", "confusions.0"),
        ("name: moods", "name: [moods", "YAML"),
        (OWN, "", "the file"),
    ],
)
def test_a_file_that_is_no_charter_is_refused_by_key(old: str, new: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "moods.yaml"
    path.write_text(OWN.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=said) as caught:
        load_charter(path)
    assert "errors charters generic" in caught.value.hint


def test_a_mistyped_name_gets_the_nearest() -> None:
    with pytest.raises(NotFoundError) as caught:
        load_charter("councelling")
    assert "did you mean `counselling`?" in caught.value.hint
    with pytest.raises(NotFoundError):
        load_charter("absent.yaml")


def test_the_shipped_charter_says_what_the_document_says() -> None:
    charter = load_charter("counselling")
    assert charter.priority == [
        "ENGAGEMENT",
        "OUVERTURE",
        "REFLET_VOUS",
        "REFLET_JE",
        "REFLET_ACQ",
        "EXPLICATION",
    ]
    known = known_confusion(charter, "REFLET_VOUS", "EXPLICATION")
    assert known is not None
    assert known.action.fr == "Si données chiffrées (€, %, dates) → JAMAIS REFLET"
    assert len(charter.confusions) == 6
    assert charter_text("counselling").startswith("#")
