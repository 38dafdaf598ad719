"""Documents as text with structure and exact offsets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePath
from types import SimpleNamespace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetuneflow.ingest import child
from finetuneflow.ingest.assemble import assemble
from finetuneflow.ingest.read import read_document
from finetuneflow.ingest.readers.markdown import read_markdown
from finetuneflow.ingest.readers.text import read_text
from finetuneflow.schemas.source import Block, Document

Write = Callable[[str, bytes | str], Path]

MARKDOWN = """---
title: x
---
# Gestor {#gestor}

**Gestor** est un [outil](https://example.org) de `suivi`,
sur deux lignes.

## Étapes

Les étapes sont les suivantes :

1. Ouvrir
1. Remplir
   - la *date*
   - le lieu

| Champ | Valeur |
|-------|--------|
| Nom   | A \\| B |

```python
x = 1
```
"""


def kinds(document: Document) -> list[tuple[str, str]]:
    return [(block.kind, block.text) for block in document.blocks]


def test_markdown_becomes_plain_text_with_structure(write: Write) -> None:
    document = read_document(write("a.md", MARKDOWN))
    assert kinds(document) == [
        ("heading", "Gestor"),
        ("paragraph", "Gestor est un outil de suivi, sur deux lignes."),
        ("heading", "Étapes"),
        ("paragraph", "Les étapes sont les suivantes :"),
        ("list_item", "1. Ouvrir"),
        ("list_item", "2. Remplir"),
        ("list_item", "- la date"),
        ("list_item", "- le lieu"),
        ("table", "Champ | Valeur\nNom | A | B"),
        ("code", "x = 1"),
    ]
    assert document.language == "fr"
    assert [b.level for b in document.blocks if b.kind == "heading"] == [1, 2]
    assert document.blocks[8].rows == [["Champ", "Valeur"], ["Nom", "A | B"]]
    assert [b.level for b in document.blocks if b.kind == "list_item"] == [0, 0, 1, 1]


def test_plain_text_shows_titles_lists_and_key_value_lines(write: Write) -> None:
    text = "GUIDE\n=====\nUn texte\ncoupé ici.\n\n2.1 Mise en service\n\n"
    text += "Nom : Gestor\nStatut : actif\n\n- un\n- deux\n  suite\n"
    document = read_document(write("a.txt", text))
    assert kinds(document) == [
        ("heading", "GUIDE"),
        ("paragraph", "Un texte coupé ici."),
        ("heading", "2.1 Mise en service"),
        ("paragraph", "Nom : Gestor"),
        ("paragraph", "Statut : actif"),
        ("list_item", "- un"),
        ("list_item", "- deux suite"),
    ]
    assert [b.level for b in document.blocks if b.kind == "heading"] == [1, 2]


def exact(document: Document) -> bool:
    end = 0
    for block in document.blocks:
        if document.text[block.start : block.end] != block.text or document.text[end : block.start].strip():
            return False
        end = block.end
    return end == len(document.text)


markup = st.text(st.sampled_from(list("ab É.:|-#*`_>[]()!1 \n\t\\é\u00a0\u2028")), max_size=200)


@settings(max_examples=150, deadline=None)
@given(text=markup)
def test_offsets_are_exact_in_any_markdown_and_any_text(text: str) -> None:
    for pieces in (read_markdown(text), read_text(text)):
        assert exact(assemble(pieces, source_id="x", name="x"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines=st.lists(st.text("abcé .:-", min_size=1, max_size=30), max_size=12))
def test_plain_text_loses_no_character(lines: list[str]) -> None:
    text = "\n".join(lines)
    document = assemble(read_text(text), source_id="x", name="x")
    underlines = [line for line in lines if line.strip() and set(line.strip()) == {"-"}]
    if not underlines:
        assert "".join(document.text.split()) == "".join(text.split())


def test_encodings_and_mojibake_are_repaired_with_a_note(write: Write) -> None:
    text = "L’été à la mairie, où l’œuvre coûte 3 €."
    assert read_document(write("a.txt", text.encode("cp1252"))).text == text
    spoilt = read_document(write("b.txt", text.encode().decode("cp1252", errors="ignore")))
    assert spoilt.text.startswith("L’été")
    assert any("wrong encoding" in note for note in spoilt.notes)
    assert read_document(write("c.txt", "e\u0301te\u0301")).text == "été"


STYLES = """
<w:style w:type="paragraph" w:styleId="HeadA"><w:name w:val="HeadA"/></w:style>
<w:style w:type="paragraph" w:styleId="T1"><w:name w:val="heading 1"/></w:style>
<w:style w:type="paragraph" w:styleId="Out"><w:name w:val="Maison"/>
<w:pPr><w:outlineLvl w:val="2"/></w:pPr></w:style>
<w:style w:type="paragraph" w:styleId="Mono"><w:name w:val="Machine"/>
<w:rPr><w:rFonts w:ascii="Courier New"/></w:rPr></w:style>
"""


def read_docx(data: bytes) -> Document:
    return child.read(data, PurePath("a.docx"), "x")


def test_docx_styles_of_all_makes_give_headings_and_code(make: SimpleNamespace) -> None:
    p = make.paragraph
    body = (
        p("Guide", "T1")
        + p("Partie", "HeadA")
        + p("Point", "Out")
        + p("x = 1", "Mono")
        + p("y = 2", "Mono")
        + p("Fin.")
    )
    document = read_docx(make.docx(body, styles=STYLES))
    assert [(b.kind, b.level, b.text) for b in document.blocks] == [
        ("heading", 1, "Guide"),
        ("heading", 2, "Partie"),
        ("heading", 3, "Point"),
        ("code", 0, "x = 1\ny = 2"),
        ("paragraph", 0, "Fin."),
    ]


def test_docx_tables_keep_merged_cells_in_every_row(make: SimpleNamespace) -> None:
    def cell(text: str, merge: str = "") -> str:
        return f"<w:tc><w:tcPr>{merge}</w:tcPr>{make.paragraph(text)}</w:tc>"

    rows = [
        cell("Secteur") + cell("Nom"),
        cell("Eau", '<w:vMerge w:val="restart"/>') + cell("Ondivia"),
        cell("", "<w:vMerge/>") + cell("Fluvio"),
        cell("Les deux", '<w:gridSpan w:val="2"/>'),
    ]
    table = "<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in rows) + "</w:tbl>"
    document = read_docx(make.docx(table))
    assert document.blocks[0].rows == [
        ["Secteur", "Nom"],
        ["Eau", "Ondivia"],
        ["Eau", "Fluvio"],
        ["Les deux", "Les deux"],
    ]
    assert exact(document)


def test_docx_text_boxes_are_not_lost_nor_doubled(make: SimpleNamespace) -> None:
    inside = f"<w:txbxContent>{make.paragraph('Dans le cadre')}</w:txbxContent>"
    box = (
        "<w:p><w:r><w:t>Avant</w:t></w:r><w:r><mc:AlternateContent><mc:Choice Requires='wps'><w:drawing>"
        f"<wps:wsp><wps:txbx>{inside}</wps:txbx></wps:wsp></w:drawing></mc:Choice></mc:AlternateContent></w:r></w:p>"
    )
    document = read_docx(make.docx(box + make.paragraph("Après")))
    assert document.text.count("Dans le cadre") == 1
    assert document.text.count("Avant") == 1
    assert any("text boxes" in note for note in document.notes)


def read_pdf(data: bytes) -> Document:
    return child.read(data, PurePath("a.pdf"), "x")


def grid(xs: list[int], ys: list[int]) -> str:
    """Lines of a full grid."""
    lines = [f"{x} {ys[0]} m {x} {ys[-1]} l S" for x in xs] + [f"{xs[0]} {y} m {xs[-1]} {y} l S" for y in ys]
    return "\n".join(lines)


def test_a_drawn_table_with_wrapped_and_merged_cells_is_read_cell_by_cell(make: SimpleNamespace) -> None:
    xs, ys = [50, 150, 300, 400], [700, 670, 640, 610]
    lines = grid(xs, ys).replace(
        "50 640 m 400 640 l S", "150 640 m 400 640 l S"
    )  # the first column is merged
    words = [
        (60, 680, "SECTEUR"), (160, 680, "LOGICIEL"), (310, 680, "STATUT"),
        (60, 636, "Eau"), (160, 657, "Ondivia"), (160, 645, "mobile"), (310, 650, "O"),
        (160, 620, "Fluvio"), (310, 620, "R"),
    ]  # fmt: skip
    page = lines + "\n" + make.pdf_text([*words, (60, 500, "Une phrase hors du tableau, avec des mots.")])
    document = read_pdf(make.pdf([page]))
    tables: list[Block] = [block for block in document.blocks if block.kind == "table"]
    assert [table.rows for table in tables] == [
        [["SECTEUR", "LOGICIEL", "STATUT"], ["Eau", "Ondivia mobile", "O"], ["Eau", "Fluvio", "R"]]
    ]
    assert tables[0].page == 1
    assert exact(document)
    assert "hors du tableau" in document.text


def test_pdf_pages_headers_and_cut_paragraphs(make: SimpleNamespace) -> None:
    def page(number: int, text: str) -> str:
        head = make.pdf_text([(50, 770, "Ministere des exemples")], size=9)
        foot = make.pdf_text([(280, 20, f"Page {number} / 3")], size=9)
        return f"{head}\n{make.pdf_text([(50, 600, text)])}\n{foot}"

    document = read_pdf(
        make.pdf(
            [
                page(1, "Le service de paie traite les dossiers"),
                page(2, "des agents."),
                page(3, "La fin est ici."),
            ]
        )
    )
    assert document.num_pages == 3
    assert "Le service de paie traite les dossiers des agents." in document.text
    assert "Page 2" not in document.text
    assert document.text.count("Ministere") <= 1
    assert document.blocks[-1].page == 3
