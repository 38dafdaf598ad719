"""Questions on documents whose answers are spans of the source."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from finetuneflow.dataset.from_documents import generate
from finetuneflow.ingest.assemble import assemble, prose
from finetuneflow.ingest.language import detect_language
from finetuneflow.ingest.read import read_document
from finetuneflow.ingest.readers.markdown import read_markdown
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.source import Document

DATA = Path(os.environ.get("FTF_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data")) / "documents"

STEPS = "1. Ouvrir le dossier\n2. Vérifier les pièces\n3. Rendre la décision"
INSTRUCTION = "L'instruction est l'étape où un agent vérifie les pièces du dossier."
GESTOR = "Gestor est une application de suivi des dossiers pour les agents de la région."
FRENCH = """# Guide de Gestor

Gestor est une application de suivi des dossiers pour les agents de la région. Elle remplace
les fiches en papier.

## L'instruction des dossiers

L'instruction est l'étape où un agent vérifie les pièces du dossier. Une pièce manquante suspend le délai.
La Direction interministérielle du numérique (DINUM) publie le calendrier.

Les étapes sont les suivantes :

1. Ouvrir le dossier
2. Vérifier les pièces
3. Rendre la décision

## Ondivia

Statut : en production

Éditeur : Ville d'Orléans

Licence : GPL-3.0

## Applications

| Application | Statut | Version | Coût (k€) | Coché |
|---|---|---|---|---|
| Ondivia | actif | 2.1 | 30 | x |
| Fluvio | fermé | 1.0 | 45 | x |
| Hôtelia | actif | 3.4 | 12 | x |

## Code

```
statut = "x est un y"
```
"""

ENGLISH = """# The handbook

A ledger is a list of every row that was read, with what became of it. This is a promise.

## What is a split?

A split is a part of the dataset that is kept for one use. There are three of them.

Here are the parts of a dataset:

- train
- validation
- test

## Glossary

- **Recipe**: the whole configuration of a run, kept in one file.
- **Note**: this one is not a term but an aside to the reader.

| Country | Population (millions) | Official Language |
|---|---|---|
| Austria | 8.9 | German |
| Finland | 5.5 | Finnish |
"""


TYPES = {f"document.{kind}" for kind in ("definition", "section", "list", "key_value", "table")}


def document(text: str) -> Document:
    made = assemble(read_markdown(text), source_id="0123456789abcdef", name="guide.md")
    return made.model_copy(update={"language": detect_language(prose(made))})


def pairs(text: str, **options: int) -> dict[str, str]:
    return {example.question: example.answer for example in generate(document(text), **options)}


def grounded(examples: list[Example], source: Document) -> int:
    return sum(source.text[e.provenance.start : e.provenance.end] == e.answer != "" for e in examples)


def test_french_questions_read_as_french() -> None:
    asked = pairs(FRENCH)
    expected = {
        "Qu'est-ce que Gestor ?": GESTOR,
        "Qu'est-ce que l'instruction ?": INSTRUCTION,
        "Que signifie le sigle DINUM ?": "Direction interministérielle du numérique",
        "Peux-tu énumérer les étapes ?": STEPS,
        "Quel est l'éditeur d'Ondivia ?": "Ville d'Orléans",
        "Quelle est la licence d'Ondivia ?": "GPL-3.0",
        "Quel est le statut de Fluvio ?": "fermé",
        "Quelle est la version de Fluvio ?": "1.0",
        "Quel est le coût de Fluvio (en k€) ?": "45",
        "Comment le document présente-t-il « Guide de Gestor » ?": GESTOR,
    }
    # The table and the lines disagree on Ondivia's status: a question with two answers is not asked.
    assert "Quel est le statut d'Ondivia ?" not in asked
    assert {question: asked.get(question) for question in expected} == expected
    for question in asked:
        assert re.search(r"[^\s]\s\?$", question), question
        unquoted = re.sub("«.*?»", "", question)
        assert not re.search(r"\b(?:de|que|le|la) [aeiouéèêœ]", unquoted), question
        assert not re.search(r"[*`|]|\bdes? le\b", question), question


def test_english_questions_read_as_english() -> None:
    asked = pairs(ENGLISH)
    expected = {
        "What is a ledger?": "A ledger is a list of every row that was read, with what became of it.",
        "What is a split?": "A split is a part of the dataset that is kept for one use.",
        "Can you list the parts of a dataset?": "- train\n- validation\n- test",
        'What does "Recipe" mean?': "the whole configuration of a run, kept in one file.",
        "What is the population of Austria (in millions)?": "8.9",
        "What is the official language of Finland?": "Finnish",
    }
    assert {question: asked.get(question) for question in expected} == expected
    assert not any("Note" in question or "This" in question for question in asked)


def test_ticks_code_and_pronouns_are_no_facts() -> None:
    asked = pairs(FRENCH)
    assert not any("coché" in question.lower() for question in asked)
    assert not any("x est un y" in answer for answer in asked.values())
    assert (
        pairs("Il est un outil de gestion des dossiers du service.\n\nCeci est une phrase sur les outils.")
        == {}
    )


def test_every_example_knows_where_it_comes_from() -> None:
    source = document(FRENCH)
    examples = generate(source)
    assert grounded(examples, source) == len(examples) > 40
    for example in examples:
        origin = example.provenance
        assert origin.source_id == source.source_id
        assert origin.source_name == "guide.md"
        assert origin.generator == "documents-rules/1"
        assert (origin.wording or "").startswith("fr.document.")
        assert origin.question_type in TYPES
    facts = Counter(example.provenance.fact for example in examples)
    assert max(facts.values()) >= 2  # paraphrases share the fact


def test_a_cap_is_kept_seeded_and_spread() -> None:
    source = document(FRENCH)
    everything = generate(source)
    some = generate(source, num_questions=12, seed=3)
    assert len(some) == 12
    assert some == generate(source, num_questions=12, seed=3)
    assert some != generate(source, num_questions=12, seed=4)
    assert {e.provenance.question_type for e in some} == {e.provenance.question_type for e in everything}
    assert len({e.provenance.fact for e in some}) == 12  # no second wording before every fact was asked
    assert generate(source, num_questions=10_000) == everything
    assert generate(source, num_questions=0) == []


def test_a_table_on_its_side_is_turned() -> None:
    asked = pairs(
        "This is the table of the countries.\n\n"
        "|  | Germany | Austria |\n|---|---|---|\n"
        "| Capital | Berlin | Vienna |\n| Population | 83,190,556 | 8,935,112 |\n"
    )
    assert asked["What is the capital of Austria?"] == "Vienna"
    assert asked["What is the population of Germany?"] == "83,190,556"


REAL = {
    "sill-2019.pdf": (2500, "fr", "D'après le tableau, quel est le statut d'OpenJDK ?", "R"),
    "rust-book-chapter04.docx": (
        60,
        "en",
        "What is a slice?",
        "A slice is a kind of reference, so it does not have ownership.",
    ),
    "multicolumn.pdf": (50, "en", "What is the capital of Austria?", "Vienna"),
    "google-doc-document.pdf": (50, "en", "What is the capital of Austria?", "Vienna"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_documents_give_enough_pairs_and_every_answer_is_at_its_span(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"real data is absent: {DATA / name} (set FTF_SHARED_DATA)")
    minimum, language, question, answer = REAL[name]
    source = read_document(DATA / name)
    examples = generate(source)
    assert source.language == language
    assert len(examples) >= minimum
    assert grounded(examples, source) == len(examples)
    assert {e.question: e.answer for e in examples}[question] == answer
    answers: dict[str, set[str]] = {}
    for example in examples:
        answers.setdefault(example.question, set()).add(example.answer)
    assert all(len(found) == 1 for found in answers.values())
    if source.num_pages:
        assert all(1 <= (e.provenance.page or 0) <= source.num_pages for e in examples)
