from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetuneflow.errors import UsageError
from finetuneflow.retrieval.index import RANK_CONSTANT, Hit, build_index, fuse
from finetuneflow.retrieval.vectors import pieces, vector_index
from finetuneflow.schemas.retrieval import Kind

PASSAGES = ["The feline sleeps.", "A lorry on the road.", "A loaf for lunch.", "The cat and the truck."]


def test_embeddings_find_what_shares_no_word(encoder: Any) -> None:
    assert build_index(PASSAGES).search(["hound"], 2) == [[]]
    index = build_index(PASSAGES, kind="embeddings", encoder=encoder)
    assert index.search(["hound", "bread"], 1) == [[0], [2]]


def test_hybrid_puts_first_what_both_lists_hold(encoder: Any) -> None:
    index = build_index(PASSAGES, kind="hybrid", encoder=encoder)
    assert index.search(["cat"], 2)[0] == [3, 0]
    assert build_index(PASSAGES, kind="embeddings", encoder=encoder).search(["cat"], 1) == [[0]]


def test_fusion_is_the_sum_of_reciprocal_ranks() -> None:
    merged = fuse([[Hit(7, 9.0), Hit(5, 1.0)], [Hit(5, 0.3)]], 5)
    assert [hit.position for hit in merged] == [5, 7]
    assert merged[0].score == pytest.approx(1 / (RANK_CONSTANT + 2) + 1 / (RANK_CONSTANT + 1))
    assert fuse([], 5) == []


@pytest.mark.parametrize("kind", ["bm25", "embeddings", "hybrid"])
def test_degenerate_input_gives_few_or_no_passages(kind: Kind, encoder: Any) -> None:
    def search(passages: list[str], queries: list[str], k: int) -> list[list[int]]:
        return build_index(passages, kind=kind, encoder=encoder).search(queries, k)

    assert search([], ["cat"], 5) == [[]]
    assert search(["", "  \n"], ["cat"], 5) == [[]]
    assert search(["A cat."], ["cat"], 50) == [[0]]
    assert search(PASSAGES, ["", "   "], 5) == [[], []]
    assert search(PASSAGES, [], 5) == []
    assert search(PASSAGES, ["cat"], 0) == [[]]
    assert search(["", "A cat.", ""], ["cat"], 5) == [[1]]


def test_meaning_without_an_encoder_is_refused() -> None:
    with pytest.raises(UsageError, match="needs an encoder"):
        build_index(PASSAGES, kind="hybrid")


def test_a_passage_counts_by_its_best_piece(encoder: Any) -> None:
    long = "Nothing to see. " * 40 + "A cat."
    index = build_index([long, "A cat in a truck with bread."], kind="embeddings", encoder=encoder)
    assert index.search(["cat"], 1) == [[0]]


def test_prefixes_stand_before_questions_and_passages(encoder: Any) -> None:
    index = build_index(
        ["A cat."], kind="embeddings", encoder=encoder, query_prefix="query: ", passage_prefix="passage: "
    )
    index.search(["dog"], 1)
    assert encoder.texts == ["passage: A cat.", "query: dog"]


def test_a_stop_word_counts_little_but_still_names_things() -> None:
    records = [
        "Nom : Si\nStatut : retiré",
        "Nom : Atlas\nStatut : retiré",
        "Le statut est ce qui est le plus lu.",
    ]
    index = build_index(records)
    assert index.search(["Quel est le statut de Atlas ?"], 1) == [[1]]
    assert index.search(["Statut de Si"], 1) == [[0]]


def test_a_passage_that_shares_only_stop_words_is_not_found_unless_there_are_no_others(encoder: Any) -> None:
    passages = ["The lorry.", "Drizzle on Sunday."]
    assert build_index(passages).search(["the rain", "the"], 2) == [[], [0]]
    assert build_index(passages, kind="hybrid", encoder=encoder).search(["the rain"], 1) == [[1]]


def test_vectors_are_made_once_for_the_same_texts(tmp_path: Path, encoder: Any) -> None:
    first = vector_index(PASSAGES, encoder, cache=tmp_path)
    asked = len(encoder.texts)
    again = vector_index(PASSAGES, encoder, cache=tmp_path)
    assert asked == len(encoder.texts) == 4
    assert np.array_equal(first.rows, again.rows)
    vector_index([*PASSAGES[:3], "Another text."], encoder, cache=tmp_path)
    assert len(encoder.texts) == 8
    encoder.identity = "ideas-2"
    vector_index(PASSAGES, encoder, cache=tmp_path)
    assert len(encoder.texts) == 12


def test_another_source_costs_its_own_vectors_alone(tmp_path: Path, encoder: Any) -> None:
    vector_index(PASSAGES[:2], encoder, blocks=[2], cache=tmp_path)
    told: list[tuple[int, int]] = []
    index = vector_index(
        PASSAGES,
        encoder,
        blocks=[2, 2],
        cache=tmp_path,
        on_progress=lambda done, all: told.append((done, all)),
    )
    assert encoder.texts == PASSAGES
    assert told == [(2, 2)]
    assert index.owners.tolist() == [0, 1, 2, 3]


def test_an_encoder_that_fails_leaves_nothing_in_the_cache(tmp_path: Path, encoder: Any) -> None:
    def fail(texts: list[str]) -> None:
        raise RuntimeError("out of memory")

    encoder.embed = fail
    with pytest.raises(RuntimeError):
        build_index(PASSAGES, kind="embeddings", encoder=encoder, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_index_is_made_anew(damage: str, tmp_path: Path, encoder: Any) -> None:
    def build() -> list[list[int]]:
        return build_index(PASSAGES, kind="hybrid", encoder=encoder, cache=tmp_path).search(
            ["cat", "road"], 4
        )

    expected = build()
    for file in tmp_path.rglob("*"):
        if file.is_file():
            data = bytearray(file.read_bytes())
            middle = len(data) // 2
            data[middle] ^= 255
            file.write_bytes({"cut": data[:middle], "flipped": data, "emptied": b""}[damage])
    assert build() == expected
    asked = len(encoder.texts)
    assert build() == expected
    assert len(encoder.texts) == asked + 2  # the questions: the index is whole again


def test_a_saved_word_index_finds_what_a_fresh_one_finds(tmp_path: Path) -> None:
    questions = ["sleeps lorry", "lunch", "the cat", "nothing known"]
    fresh = build_index(PASSAGES).find(questions, 4)
    build_index(PASSAGES, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert build_index(PASSAGES, cache=tmp_path).find(questions, 4) == fresh


@given(st.text(max_size=800), st.integers(5, 60))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_pieces_hold_every_character_but_spaces(text: str, limit: int) -> None:
    cut = pieces(text, limit)
    assert "".join("".join(piece.split()) for piece in cut) == "".join(text.split())
    assert all(piece == piece.strip() and piece for piece in cut)
    assert all(len(piece) <= limit or " " not in piece for piece in cut)


def test_text_without_spaces_is_cut_too() -> None:
    assert [len(piece) for piece in pieces("漢" * 700)] == [300, 300, 100]
