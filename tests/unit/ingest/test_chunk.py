"""Passages along the structure of a document."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from finetuneflow.ingest.assemble import assemble
from finetuneflow.ingest.chunk import chunk_document
from finetuneflow.ingest.readers.markdown import read_markdown
from finetuneflow.schemas.source import Document


def document(text: str) -> Document:
    return assemble(read_markdown(text), source_id="doc", name="doc.md")


def test_a_chunk_keeps_to_its_section_and_knows_the_titles_above() -> None:
    made = document("# A\n\n## B\n\nUn.\n\nDeux.\n\n## C\n\nTrois.\n")
    chunks = chunk_document(made)
    assert [(c.text, c.headings) for c in chunks] == [
        ("A\n\nB\n\nUn.\n\nDeux.", ["A", "B"]),
        ("C\n\nTrois.", ["A", "C"]),
    ]
    assert [c.id for c in chunks] == ["doc-1", "doc-2"]


def test_lists_and_tables_stay_whole_with_the_sentence_before() -> None:
    filler = "Une phrase de remplissage assez longue pour prendre de la place. " * 3
    items = "\n".join(f"- point {n}" for n in range(8))
    table = "| a | b |\n|---|---|\n" + "\n".join(f"| {n} | x{n} |" for n in range(12))
    made = document(f"{filler}\n\nVoici les points :\n\n{items}\n\n{filler}\n\n{table}")
    texts = [c.text for c in chunk_document(made, max_characters=260)]
    assert any(t.startswith("Voici les points :\n\n- point 0") and t.endswith("- point 7") for t in texts)
    assert any(t.startswith("a | b") and t.endswith("11 | x11") for t in texts)


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    made = document(" ".join(f"Phrase numéro {n} du texte." for n in range(100)))
    chunks = chunk_document(made, max_characters=200)
    assert all(c.text.endswith(".") and c.text.startswith("Phrase") and len(c.text) <= 200 for c in chunks)


blocks = st.one_of(
    st.text("abcdé .!?\n-", max_size=120),
    st.sampled_from(
        ["# T", "## U", "- a\n- b\n- c", "1. x\n2. y", "| a | b |\n|---|---|\n| c | d |", "```\ncode\n```"]
    ),
)


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(blocks, max_size=8), limit=st.integers(5, 90))
def test_every_character_is_in_exactly_one_chunk_and_no_word_is_cut(parts: list[str], limit: int) -> None:
    made = document("\n\n".join(parts))
    chunks = chunk_document(made, max_characters=limit)
    end = 0
    for chunk in chunks:
        assert chunk.text == made.text[chunk.start : chunk.end]
        assert chunk.text == chunk.text.strip() != ""
        assert not made.text[end : chunk.start].strip()
        assert not re.match(r"\S\S", made.text[max(0, chunk.end - 1) : chunk.end + 1])
        assert len(chunk.text) <= limit or len(chunk.text.split()[-1]) > 0
        if len(chunk.text) > limit:
            assert max(map(len, chunk.text.split())) > limit - len("\n\n".join(chunk.headings)) - 4
        end = chunk.end
    assert not made.text[end:].strip()
