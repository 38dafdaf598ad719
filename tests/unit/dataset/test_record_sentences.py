from typing import Any

import pytest

from finetuneflow.dataset.from_records import generate
from finetuneflow.dataset.record_text import record_passage
from finetuneflow.schemas.dataset import FieldMapping, QuestionType
from finetuneflow.schemas.source import Record, RecordSource

MAPPING = FieldMapping(
    id="id",
    name="nom",
    long_name="nom long",
    definition=["descriptif"],
    status=["statut"],
    domain=["domaine"],
    actors=["acteurs"],
    sites=["sites"],
)


def source(*rows: dict[str, Any], language: str = "fr") -> RecordSource:
    fields = list(dict.fromkeys(["id", *(field for row in rows for field in row), *ALL_FIELDS]))
    records = [
        Record(
            id=row.get("id", str(place)),
            line=place + 1,
            fields={key: value for key, value in row.items() if value},
        )
        for place, row in enumerate(rows, 1)
    ]
    return RecordSource(source_id="s", name="outils.csv", fields=fields, records=records, language=language)


ALL_FIELDS = ("nom", "nom long", "descriptif", "statut", "domaine", "acteurs", "sites")


def mapping(**changes: Any) -> FieldMapping:
    return MAPPING.model_copy(update=changes)


def answers(
    rows: list[dict[str, Any]], question_type: QuestionType, using: FieldMapping = MAPPING
) -> list[str]:
    examples = generate(source(*rows), using, question_types=[question_type])
    return sorted(
        {example.answer for example in examples if example.provenance.question_type == question_type}
    )


@pytest.mark.parametrize(
    ("row", "question_type", "expected"),
    [
        ({"statut": "En production"}, "status", "L'application Orme est en production."),
        ({"statut": "retiré"}, "status", "L'application Orme est retirée."),
        ({"statut": "Niveau 3."}, "status", "L'application Orme a le statut « Niveau 3 »."),
        ({"domaine": "Eau"}, "domain", "L'application Orme relève du domaine « Eau »."),
        (
            {"domaine": ["Eau", "Air", "eau"]},
            "domain",
            "L'application Orme relève des domaines « Eau » et « Air ».",
        ),
        (
            {"acteurs": "Direction de l'eau;Équipe réseaux"},
            "actors",
            "L'application Orme est suivie par la Direction de l'eau et l'Équipe réseaux.",
        ),
        ({"acteurs": "MIMO"}, "actors", "L'application Orme est suivie par MIMO."),
        ({"sites": "Lyon"}, "sites", "L'application Orme est déployée sur le site de Lyon."),
        (
            {"sites": ["Lyon", "Le Havre", "Angers"]},
            "sites",
            "L'application Orme est déployée sur les sites de Lyon, du Havre et d'Angers.",
        ),
        (
            {"sites": ["France entière", "Lyon"]},
            "sites",
            "L'application Orme est déployée sur les sites suivants : France entière et Lyon.",
        ),
        ({"descriptif": "Suit les ormes."}, "definition", "L'application Orme suit les ormes."),
        (
            {"descriptif": "Registre des ormes", "nom long": "Ormes réunis"},
            "definition",
            "L'application Orme (Ormes réunis) est un registre des ormes.",
        ),
        (
            {"descriptif": "Gestion des ormes"},
            "definition",
            "L'application Orme sert à la gestion des ormes.",
        ),
        (
            {"descriptif": "Partage de fichiers"},
            "definition",
            "L'application Orme sert au partage de fichiers.",
        ),
        ({"descriptif": "Partage les ormes"}, "definition", "L'application Orme partage les ormes."),
        ({"descriptif": "Suivre les ormes"}, "definition", "L'application Orme sert à suivre les ormes."),
        ({"descriptif": "Orme recense les ormes."}, "definition", "L'application Orme recense les ormes."),
        ({"descriptif": "L'outil des ormes"}, "definition", "L'application Orme est l'outil des ormes."),
        (
            {"descriptif": "Gestion de parc et suivi d'incidents"},
            "definition",
            "L'application Orme est décrite ainsi : « Gestion de parc et suivi d'incidents ».",
        ),
        (
            {"descriptif": "**Outil** des [ormes](https://orme.example)"},
            "definition",
            "L'application Orme est un outil des ormes.",
        ),
        (
            {"nom long": "Ormes réunis"},
            "definition",
            "L'application Orme a pour nom complet « Ormes réunis ».",
        ),
    ],
)
def test_a_fact_has_one_good_french_sentence(
    row: dict[str, Any], question_type: QuestionType, expected: str
) -> None:
    assert answers([{"nom": "Orme", **row}], question_type) == [expected]


def test_a_masculine_noun_changes_articles_and_agreement() -> None:
    rows = [{"nom": "7zip", "statut": "R", "acteurs": "MIMO", "sites": "Lyon"}]
    software = mapping(
        entity="logiciel", entity_gender="m", value_labels={"statut": {"R": "recommandé"}}, actors=["groupe"]
    )
    rows[0]["groupe"] = "MIMO"
    assert answers(rows, "status", software) == ["Le logiciel 7zip est recommandé."]
    assert answers(rows, "actors", software) == ["Le logiciel 7zip est suivi par le groupe MIMO."]
    questions = {example.question for example in generate(source(*rows), software)}
    assert "Par qui le logiciel 7zip est-il géré ?" in questions
    assert "Donne-moi le statut du logiciel 7zip." in questions


def test_english_sentences() -> None:
    english = mapping(language="en")
    rows = [
        {
            "nom": "Oak",
            "descriptif": "Register of oaks.",
            "statut": "Retired",
            "domaine": "Trees;Maps",
            "acteurs": "Parks Unit",
            "sites": "Bath;York",
        }
    ]
    assert answers(rows, "definition", english) == ["The Oak application is a register of oaks."]
    assert answers(rows, "status", english) == ["The Oak application is retired."]
    assert answers(rows, "domain", english) == [
        'The Oak application belongs to the "Trees" and "Maps" domains.'
    ]
    assert answers(rows, "actors", english) == ["The Oak application is managed by the Parks Unit."]
    assert answers(rows, "sites", english) == ["The Oak application is deployed in Bath and York."]


def test_a_name_that_says_what_it_is_does_not_say_it_twice() -> None:
    assert answers([{"nom": "Application Orme", "statut": "en recette"}], "status") == [
        "L'application Orme est en recette."
    ]


def test_questions_elide_and_keep_digits() -> None:
    asked = {
        example.question
        for example in generate(
            source(*[{"nom": name, "statut": "en test"} for name in ("Orme", "8-Bus")]), MAPPING
        )
    }
    assert {"Quel est le statut d'Orme ?", "Quel est le statut de 8-Bus ?"} <= asked


def test_a_comparison_tells_the_difference_in_fields_that_both_have() -> None:
    rows = [
        {"nom": "Orme", "statut": "en production", "domaine": "Eau", "sites": "Lyon"},
        {"nom": "Pin", "statut": "en test", "domaine": "Eau"},
    ]
    assert answers(rows, "comparative") == [
        "L'application Orme est en production, alors que l'application Pin est en test."
    ]


def test_a_listing_gives_all_records_of_a_criterion_sorted_and_only_short_lists() -> None:
    rows = [{"nom": f"Bois {letter}", "statut": "en test", "domaine": "Mer"} for letter in "ihgfedcba"]
    rows[3]["domaine"] = rows[7]["domaine"] = "Eau & Air"
    rows[8]["domaine"] = "Eau et air"
    rows.append({"nom": "Seul", "statut": "retiré"})
    listed = answers(rows, "listing")
    assert "Les applications du domaine « Eau & Air » sont Bois a, Bois b et Bois f." in listed
    assert not any("en test" in answer or "retiré" in answer for answer in listed)


def test_two_records_of_one_name_are_told_apart() -> None:
    rows = [{"id": "7", "nom": "Orme", "statut": "en test"}, {"id": "8", "nom": "ORME", "statut": "retiré"}]
    assert answers(rows, "status") == [
        "L'application ORME (8) est retirée.",
        "L'application Orme (7) est en test.",
    ]
    rows[0]["nom long"], rows[1]["nom long"] = "Arbre", "Bateau"
    assert "L'application Orme (Arbre) est en test." in answers(rows, "status")


def test_two_records_that_cannot_be_told_apart_are_asked_only_where_they_agree() -> None:
    rows = [
        {"nom": "Orme", "statut": "en test", "domaine": "Eau"},
        {"nom": "Orme", "statut": "retiré", "domaine": "Eau"},
    ]
    examples = generate(source(*rows), mapping(id=None))
    assert {example.provenance.question_type for example in examples} == {"domain"}
    assert all(example.provenance.record_ids == ["1", "2"] for example in examples)


def test_a_record_as_a_passage_spells_codes_out_and_leaves_empty_fields_out() -> None:
    record = source({"nom": "Orme", "statut": "R", "domaine": "Eau;Air", "sites": "-"}).records[0]
    using = mapping(value_labels={"statut": {"R": "recommandé"}})
    assert record_passage(record, using) == "Nom : Orme\nStatut : recommandé\nDomaine : Eau, Air"
    assert record_passage(record, mapping(language="en")).startswith("Nom: Orme\n")
