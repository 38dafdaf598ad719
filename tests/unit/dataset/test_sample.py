import json
from importlib import resources

SAMPLE = resources.files("finetuneflow").joinpath("assets/sample")


def test_the_sample_catalogue_is_fictional_varied_and_every_record_can_be_told_apart() -> None:
    applications = json.loads(SAMPLE.joinpath("catalogue.json").read_text(encoding="utf-8"))["applications"]
    assert 40 <= len(applications) <= 60
    assert len({application["nom"].casefold() for application in applications}) == len(applications)
    described = [application["descriptif"] for application in applications if application["descriptif"]]
    assert len(set(described)) == len(described)
    assert all(10 <= len(text.split()) <= 22 for text in described)
    assert len({application["statut si"] for application in applications} - {""}) in (5, 6, 7)
    contacts = [application["contacts"] for application in applications if application["contacts"]]
    assert all(contact.endswith(".example") for contact in contacts)
    with_a_gap = sum(not all(application.values()) for application in applications)
    assert 0.1 <= with_a_gap / len(applications) <= 0.2


def test_the_sample_documents_have_headings_lists_tables_and_key_values() -> None:
    for name in ("guide-exploitation.md", "service-handbook.md"):
        text = SAMPLE.joinpath(name).read_text(encoding="utf-8")
        assert 400 <= len(text.split()) <= 700
        for mark in ("\n## ", "\n- ", "\n1. ", "\n|---"):
            assert mark in text
