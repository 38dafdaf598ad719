from __future__ import annotations

from finetuneflow.dataset.coverage import coverage
from finetuneflow.dataset.mentions import NameIndex
from finetuneflow.schemas.dataset import FieldMapping
from finetuneflow.schemas.example import Example, Message, Provenance
from finetuneflow.schemas.source import Record, RecordSource

MAPPING = FieldMapping(name="nom", long_name="nom long", definition=["descriptif"], status=["statut"])


def chat(question: str, answer: str, **provenance: object) -> Example:
    turns = [
        Message(role="system", content="Tu connais Gamma."),
        Message(role="user", content=question),
        Message(role="assistant", content=answer),
    ]
    return Example(messages=turns, provenance=Provenance.model_validate(provenance))


def source(*names: str, descriptif: str = "x" * 60) -> RecordSource:
    records = [
        Record(id=str(n), line=n + 1, fields={"nom": name, "descriptif": descriptif})
        for n, name in enumerate(names, start=1)
    ]
    return RecordSource(source_id="s1", name="x.csv", fields=["nom", "descriptif"], records=records)


def test_records_are_covered_by_provenance_or_by_name() -> None:
    examples = [
        chat("Lequel ?", "Celui-ci.", source_id="s1", record_ids=["1"]),
        chat("Quel est le statut de BÊTA ?", "En service."),
        chat("Et Deltaplane ?", "Non.", source_id="other", record_ids=["4"]),
    ]
    found = coverage(source("Alpha", "Bêta", "Gamma", "Delta"), MAPPING, examples)
    assert (found.records, found.covered, found.coverage) == (4, 2, 0.5)
    assert found.uncovered == ["Gamma", "Delta"]
    assert found.by_record == {"Alpha": 1, "Bêta": 1, "Gamma": 0, "Delta": 0}


def test_the_long_name_covers_too_and_nameless_records_go_by_id() -> None:
    records = source("Alpha")
    records.records[0].fields["nom long"] = "Portail des démarches"
    records.records.append(Record(id="77", line=3, fields={"statut": "R"}))
    found = coverage(records, MAPPING, [chat("Qui gère le portail des démarches ?", "Paul.")])
    assert found.covered == 1
    assert found.uncovered == ["77"]


def test_recommendations_name_what_to_add() -> None:
    examples = [chat(f"Alpha {n} ?", "Oui.", question_type="status") for n in range(30)]
    examples.append(chat("Et ?", "Oui.", question_type="comparative"))
    found = coverage(source(*"ABCDEFG", "Alpha", descriptif="court"), MAPPING, examples)
    told = "\n".join(found.recommendations)
    assert "7 records" in told
    assert "A, B, C, D, E and 2 more" in told
    assert "definition, listing" in told
    assert "comparative" in told
    assert "50 characters" in told
    assert "31 examples" in told
    assert "does not know" in told
    french = coverage(source("Zeta"), MAPPING, examples, language="fr").recommendations
    assert french[0] == "Ajouter des exemples pour les 1 fiches dont aucune question ne parle : Zeta."


def test_a_dataset_that_lacks_nothing_gets_no_recommendation() -> None:
    kinds = ["definition", "status", "comparative", "listing", "negative"]
    examples = [chat("Alpha ?", "Oui.", question_type=kinds[n % 5]) for n in range(100)]
    found = coverage(source("Alpha"), MAPPING, examples)
    assert found.recommendations == []
    assert found.question_types == dict.fromkeys(sorted(kinds), 20)


def test_no_records_are_no_coverage() -> None:
    assert coverage(source(), MAPPING, []).coverage == 0.0


def test_names_are_found_as_whole_words_the_longest_first() -> None:
    index = NameIndex(
        ["Calc", "LibreOffice", "LibreOffice Calc", "R", "C++", ".NET", "6tzen", "8-SINP", "l'Outil"]
    )
    assert index.find("Compare libreoffice calc et LibreOffice.") == {"LibreOffice", "LibreOffice Calc"}
    assert index.find("LibreOffice  Calc seul") == {"LibreOffice Calc"}
    assert index.find("r n'est pas R&D ?") == {"R"}
    assert index.find("en C++, sur .NET ; 6tzen/8-sinp ; l’outil") == {
        "C++",
        ".NET",
        "6tzen",
        "8-SINP",
        "l'Outil",
    }
    assert index.find("RStudio, 16tzens, LibreOffices") == set()
