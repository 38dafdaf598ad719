"""Records of any schema out of CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetuneflow.ingest.read import read_records

Write = Callable[[str, bytes | str], Path]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(write: Write, delimiter: str) -> None:
    rows = [
        ["nom", "rôle", "sites"],
        ["Gestor", "suivi, contrôle ; audit", "Lyon"],
        ["Ondivia", "eau | air", ""],
    ]
    lines = [delimiter.join(f'"{c}"' if delimiter in c else c for c in row) for row in rows]
    source = read_records(write("a.csv", "\n".join(lines)))
    assert source.fields == ["nom", "rôle", "sites"]
    assert source.records[0].fields == {"nom": "Gestor", "rôle": "suivi, contrôle ; audit", "sites": "Lyon"}
    assert source.records[1].fields == {"nom": "Ondivia", "rôle": "eau | air"}


def test_quoted_newlines_keep_the_line_numbers_right(write: Write) -> None:
    source = read_records(write("a.csv", 'nom,texte\r\nA,"un\r\ndeux\r\ntrois"\r\n\r\nB, espace \r\n'))
    assert [record.line for record in source.records] == [2, 6]
    assert source.records[0].fields["texte"] == "un\ndeux\ntrois"
    assert source.records[1].fields["texte"] == "espace"


def test_the_id_field_names_the_records_only_when_it_is_unique(write: Write) -> None:
    assert [r.id for r in read_records(write("a.csv", "ID,nom\n7,a\n9,b\n")).records] == ["7", "9"]
    assert [r.id for r in read_records(write("b.csv", "ID,nom\n7,a\n7,b\n")).records] == ["1", "2"]


@pytest.mark.parametrize(
    "value",
    [
        [{"nom": "A", "sites": ["Lyon", None, " Paris "], "n": 3, "vide": "", "rien": None, "oui": True}],
        {"applications": [{"nom": "A", "sites": ["Lyon", "Paris"], "n": 3, "oui": True}], "version": 2},
        {"data": {"applications": [{"nom": "A", "sites": ["Lyon", "Paris"], "n": 3, "oui": True}]}},
    ],
)
def test_json_in_a_list_or_nested_gives_the_same_records(write: Write, value: object) -> None:
    source = read_records(write("a.json", json.dumps(value)))
    assert [r.fields for r in source.records] == [
        {"nom": "A", "sites": ["Lyon", "Paris"], "n": "3", "oui": "true"}
    ]


def test_nested_objects_become_dotted_fields(write: Write) -> None:
    source = read_records(write("a.json", '[{"nom": "A", "contact": {"nom": "B", "tel": ["1", "2"]}}]'))
    assert source.records[0].fields == {"nom": "A", "contact.nom": "B", "contact.tel": ["1", "2"]}
    assert source.fields == ["nom", "contact.nom", "contact.tel"]


def test_jsonl_is_read_by_suffix_and_by_content(write: Write) -> None:
    text = '{"nom": "A"}\n\n{"nom": "B"}\n'
    for name in ("a.jsonl", "b.json"):
        source = read_records(write(name, text))
        assert [(r.line, r.fields["nom"]) for r in source.records] == [(1, "A"), (3, "B")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le"])
def test_usual_encodings_give_the_same_records(write: Write, encoding: str) -> None:
    text = "nom,descriptif\nŒuvre,L'été à l'hôtel de région où l'on déclare 3 € — « déjà »\n"
    source = read_records(write("a.csv", text.encode(encoding)))
    assert source.records[0].fields["nom"] == "Œuvre"
    assert source.records[0].fields["descriptif"].endswith("3 € — « déjà »")
    assert source.language == "fr"
    assert bool(source.notes) is (encoding not in ("utf-8", "utf-8-sig"))


def test_mojibake_is_repaired_with_a_note(write: Write) -> None:
    text = "nom,descriptif\nA,ok\nB,L’application dématérialisée\n"
    spoilt = text.encode().decode("cp1252").encode()
    source = read_records(write("a.csv", spoilt))
    assert source.records[1].fields["descriptif"] == "L’application dématérialisée"
    assert source.notes == ["Text decoded with the wrong encoding was repaired on 1 line (first: line 3)."]


def test_the_language_is_that_of_names_and_values(write: Write) -> None:
    assert (
        read_records(write("a.csv", "name,description\nA,The tool for the payroll of the town\n")).language
        == "en"
    )
    assert read_records(write("b.csv", "nom,rôle\nA,Outil de paie des agents de la ville\n")).language == "fr"


cells = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="Ã\ufeff"), max_size=12
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=6))
def test_json_values_come_back_as_they_were(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "a.json"
    entries = [{"nom": f"x{number}", "a": a, "b": b} for number, (a, b) in enumerate(rows)]
    path.write_text(json.dumps(entries), encoding="utf-8")
    for entry, record in zip(entries, read_records(path).records, strict=True):
        assert record.fields == {name: value.strip() for name, value in entry.items() if value.strip()}
