from pathlib import Path

import pytest

from finetuneflow.export.license import base_license


def test_the_text_beside_the_weights_goes_along_whole(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("Some licence\nof two lines\n", encoding="utf-8")
    (tmp_path / "USE_POLICY.md").write_text("Do no harm\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("---\nlicense: some-1.0\n---\n# Model\n", encoding="utf-8")
    found = base_license(tmp_path, "owner/name")
    assert found.id == "some-1.0"
    assert found.text == "Some licence\nof two lines\n\nDo no harm\n"


def test_a_card_alone_names_the_licence(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlanguage: fr\nlicense: apache-2.0\n---\n", encoding="utf-8")
    found = base_license(tmp_path, "owner/name")
    assert found.id == "apache-2.0"
    assert found.text is not None
    assert "owner/name" in found.text


def test_a_folder_that_says_nothing_has_no_licence(tmp_path: Path) -> None:
    assert base_license(tmp_path, "x") == (None, None)
    (tmp_path / "README.md").write_text("---\n: [broken\n---\n", encoding="utf-8")
    assert base_license(tmp_path, "x") == (None, None)
    (tmp_path / "README.md").write_text("# license: none of this\n", encoding="utf-8")
    assert base_license(tmp_path, "x") == (None, None)


@pytest.mark.parametrize("head", ["date: 2024-02-31", "license: " + "[" * 3000 + "]" * 3000])
def test_a_card_that_cannot_be_read_names_no_licence(tmp_path: Path, head: str) -> None:
    (tmp_path / "LICENSE").write_text("Some licence\n", encoding="utf-8")
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n", encoding="utf-8")
    assert base_license(tmp_path, "x") == (None, "Some licence\n")
