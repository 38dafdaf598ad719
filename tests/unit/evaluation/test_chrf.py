import pytest
from sacrebleu.metrics.chrf import CHRF

from finetuneflow.errors import DatasetError
from finetuneflow.evaluation.chrf import chrf, corpus_chrf


def test_identical_answers_score_one_in_every_script_and_others_less() -> None:
    for text, other in [("Où est-il ?", "Qui est-ce ?"), ("北京是首都", "南京是古都"), ("กรุงเทพ", "กรุงเก่า")]:
        assert chrf(text, text) == pytest.approx(1.0)
        assert 0 < chrf(text, other) < 1


def test_empty_answers_are_defined() -> None:
    assert chrf("", "") == chrf(" ", "") == 1.0
    assert chrf("", "word") == chrf("word", "") == 0.0
    assert corpus_chrf(["", " "], ["", ""])[0] == 1.0


def test_the_signature_says_how_it_was_computed() -> None:
    score, signature = corpus_chrf(["a small house", "rain"], ["a big house", "rain"])
    assert 0 < score < 1
    assert {"nc:6", "nw:0", "case:mixed"} <= set(signature.split("|"))
    assert "version:" in signature


def test_figures_are_those_of_sacrebleu() -> None:
    predicted, expected = ["the cat sat", "on a mat"], ["the cat sits", "on the mat"]
    reference = CHRF()
    assert chrf(predicted[0], expected[0]) * 100 == pytest.approx(
        reference.sentence_score(predicted[0], [expected[0]]).score
    )
    assert corpus_chrf(predicted, expected)[0] * 100 == pytest.approx(
        reference.corpus_score(predicted, [expected]).score
    )


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(DatasetError, match="0 answers"):
        corpus_chrf([], [])
    with pytest.raises(DatasetError, match="1 answers and 2"):
        corpus_chrf(["a"], ["a", "b"])
