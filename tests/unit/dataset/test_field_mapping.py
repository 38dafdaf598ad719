import os
from pathlib import Path

import pytest

from finetuneflow.dataset.field_mapping import check_mapping, guess_mapping, load_mapping, mapping_yaml
from finetuneflow.errors import FineTuneFlowError, InputError, RecipeError
from finetuneflow.ingest.read import read_records
from finetuneflow.schemas.dataset import FieldMapping
from finetuneflow.schemas.source import Record, RecordSource

SAMPLE = Path(__file__).parents[3] / "src/finetuneflow/assets/sample/catalogue.json"
SHARED = Path(os.environ.get("FTF_SHARED_DATA", Path(__file__).parents[4] / "shared/data"))


def source(*rows: dict[str, str], language: str = "fr", name: str = "outils.csv") -> RecordSource:
    fields = list(dict.fromkeys(field for row in rows for field in row))
    records = [
        Record(id=str(place), line=place + 1, fields={key: value for key, value in row.items() if value})
        for place, row in enumerate(rows, 1)
    ]
    return RecordSource(source_id="s", name=name, fields=fields, records=records, language=language)


def shared(name: str) -> RecordSource:
    path = SHARED / "records" / name
    if not path.exists():
        pytest.skip(f"real data is absent: {path} (set FTF_SHARED_DATA)")
    return read_records(path)


def test_every_field_of_the_sample_is_recognised() -> None:
    mapping = guess_mapping(read_records(SAMPLE))
    assert mapping == FieldMapping(
        id="id",
        name="nom",
        long_name="nom long",
        definition=["descriptif"],
        status=["statut si"],
        domain=["domaines et sous domaines"],
        actors=["acteurs"],
        sites=["sites"],
        separators=";|",
    )


def test_sill_2020_is_recognised_with_its_codes() -> None:
    mapping = guess_mapping(shared("sill-2020.csv"))
    assert (mapping.id, mapping.name, mapping.long_name) == ("ID", "nom", None)
    assert (mapping.entity, mapping.entity_gender) == ("logiciel", "m")
    assert mapping.definition == ["fonction"]
    assert mapping.status == ["statut"]
    assert mapping.domain == ["secteur", "composant"]
    assert mapping.actors == ["groupe"]
    assert mapping.sites == []
    assert mapping.value_labels == {
        "statut": {"R": "recommandé", "O": "en observation", "FR": "en fin de vie"}
    }
    assert mapping.separators == ";|"


def test_sill_2019_with_capitals_and_other_columns_is_recognised() -> None:
    mapping = guess_mapping(shared("sill-2019.csv"))
    assert mapping.name == "LOGICIEL"
    assert mapping.entity == "logiciel"
    assert mapping.definition == ["FONCTIONNALITÉ"]
    assert mapping.status == ["STATUT"]
    assert mapping.domain == ["SECTEUR", "COMPOSANT"]
    assert mapping.value_labels["STATUT"]["R"] == "recommandé"


def test_english_and_camel_case_names_are_recognised() -> None:
    mapping = guess_mapping(
        source(
            {"assetId": "7", "ToolName": "Oak", "shortDescription": "Lists oaks", "lifeCycleStage": "live"},
            {
                "assetId": "8",
                "ToolName": "Elm",
                "shortDescription": "Lists elms",
                "lifeCycleStage": "retired",
            },
            language="en",
        )
    )
    assert (mapping.language, mapping.entity) == ("en", "tool")
    assert (mapping.name, mapping.definition, mapping.status) == (
        "ToolName",
        ["shortDescription"],
        ["lifeCycleStage"],
    )


def test_the_name_is_the_filled_and_unique_field_when_no_field_is_called_so() -> None:
    rows = [{"rubrique": "Eau", "truc": f"Outil {place}", "remarque": "x" * 90} for place in range(9)]
    assert guess_mapping(source(*rows)).name == "truc"


def test_a_field_called_name_that_is_mostly_empty_is_not_the_name() -> None:
    rows = [{"nom": "", "intitulé": f"Outil {place}"} for place in range(9)]
    rows[0]["nom"] = "Un"
    assert guess_mapping(source(*rows)).name == "intitulé"


def test_a_web_address_is_no_site() -> None:
    rows = [{"nom": f"N{place}", "site": f"https://n{place}.example"} for place in range(4)]
    assert guess_mapping(source(*rows)).sites == []


def test_a_comma_separates_only_where_it_is_common() -> None:
    common = [{"nom": f"N{place}", "domaine": "Eau, Air"} for place in range(4)]
    rare = [{"nom": f"N{place}", "domaine": "Eau"} for place in range(9)] + [
        {"nom": "N", "domaine": "Eau, air"}
    ]
    assert guess_mapping(source(*common)).separators == ";,|"
    assert guess_mapping(source(*rare)).separators == ";|"


def test_records_without_a_possible_name_are_refused() -> None:
    with pytest.raises(InputError, match="name") as caught:
        guess_mapping(source({"a": "1"}, {"a": "1"}, {"a": "1"}))
    assert "name:" in caught.value.hint


def test_a_written_mapping_reads_back_the_same_and_says_what_is_unused(tmp_path: Path) -> None:
    mapping = guess_mapping(read_records(SAMPLE)).model_copy(
        update={"value_labels": {"statut si": {"P": "en production : oui", "F": "d'hier"}}}
    )
    text = mapping_yaml(mapping, read_records(SAMPLE))
    path = tmp_path / "mapping.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_mapping(path) == mapping
    assert "# Champs non utilisés: contacts" in text
    assert "# champ du nom" in text


def test_an_edited_mapping_may_give_one_field_where_a_list_stands(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text("name: nom\nstatus: état\nsites:\n", encoding="utf-8")
    mapping = load_mapping(path)
    assert (mapping.status, mapping.sites) == (["état"], [])


@pytest.mark.parametrize(
    ("text", "error", "says", "hint"),
    [
        ("name: nom\nstatuts: [x]\n", RecipeError, "statuts", "did you mean `status`"),
        ("status: [x]\n", RecipeError, "name", "name:"),
        ("name: nom\nentity_gender: x\n", RecipeError, "entity_gender", ""),
        ("name: [nom\n", InputError, "mapping.yaml:2", ""),
        ("- nom\n", InputError, "key: field", ""),
    ],
)
def test_a_bad_mapping_is_refused_with_its_remedy(
    tmp_path: Path, text: str, error: type[FineTuneFlowError], says: str, hint: str
) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(error, match=r"mapping\.yaml") as caught:
        load_mapping(path)
    assert says in str(caught.value)
    assert hint in caught.value.hint


def test_a_mapping_that_is_no_utf8_or_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        load_mapping(path)
    with pytest.raises(InputError, match="no such file"):
        load_mapping(tmp_path / "none.yaml")


def test_a_field_that_the_records_lack_is_named_with_the_nearest() -> None:
    rows = source({"nom": "A", "domaine": "Eau"}, {"nom": "B", "domaine": "Air"})
    with pytest.raises(InputError, match="`domaines`") as caught:
        check_mapping(FieldMapping(name="nom", domain=["domaines"]), rows)
    assert "did you mean `domaine`" in caught.value.hint
    assert "outils.csv" in str(caught.value)
