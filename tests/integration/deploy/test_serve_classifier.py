"""A classifier behind `POST /predict`, held against transformers' own pipeline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, pipeline

from finetuneflow.deploy.classifier_server import Classifier, Gatherer, Scores, batches
from finetuneflow.deploy.guard import Refused
from finetuneflow.modeling.load import load_classifier

pytestmark = [pytest.mark.integration, pytest.mark.slow]
LABELS = ["colère", "joie", "optimisme", "tristesse"]
WORDS = [f"w{number}" for number in range(200)]
LIMIT = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder with sharp opinions, that reads 64 tokens."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate(special + WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LIMIT,
        initializer_range=0.2,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    path = tmp_path_factory.mktemp("classifier")
    BertForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def texts(count: int) -> list[str]:
    """Texts of 1 to 40 words."""
    return [
        " ".join(WORDS[(seed * 37 + word * word * 11) % len(WORDS)] for word in range(1 + seed * 7 % 40))
        for seed in range(count)
    ]


@pytest.fixture(scope="module")
def server(folder: Path, start_server: Callable[..., Any]) -> Iterator[httpx.Client]:
    request = {
        "engine": "transformers",
        "task": "sequence_classification",
        "name": "emotions",
        "model": str(folder),
        "labels": LABELS,
        "precision": "bf16",
    }
    with start_server(request) as started, httpx.Client(base_url=started.address, timeout=60) as client:
        yield client


def test_labels_and_probabilities_are_those_of_the_pipeline(server: httpx.Client, folder: Path) -> None:
    asked = texts(120)
    expected = pipeline("text-classification", model=str(folder), top_k=None)(asked)
    reply = server.post("/predict", json={"texts": asked}).raise_for_status().json()
    assert reply["model"] == "emotions"
    assert len(reply["predictions"]) == len(asked)
    for made, scores in zip(reply["predictions"], expected, strict=True):
        assert made["label"] == scores[0]["label"]
        assert set(made["probabilities"]) == set(LABELS)
        for score in scores:
            assert made["probabilities"][score["label"]] == pytest.approx(score["score"], abs=0.05)
    assert len({made["label"] for made in reply["predictions"]}) > 1
    one = server.post("/predict", json={"text": asked[3]}).json()
    assert one["label"] == expected[3][0]["label"]
    assert one["probabilities"][one["label"]] == pytest.approx(expected[3][0]["score"], abs=1e-4)


def test_close_calls_are_decided_in_fp32(folder: Path) -> None:
    loaded = load_classifier(str(folder), labels=LABELS, precision="fp32")
    asked = texts(60)
    torch.manual_seed(1)
    with torch.no_grad():
        # Two labels a hair apart on every text, and ahead of the others.
        head = loaded.model.classifier
        head.weight[1] = head.weight[0] + torch.randn_like(head.weight[0]) * 1e-3
        head.bias[:2] = 9.0
        passes = [loaded.tokenizer(text, return_tensors="pt") for text in asked]
        exact = [int(loaded.model(**one).logits.argmax()) for one in passes]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = [int(loaded.model(**one).logits.argmax()) for one in passes]
    assert set(exact) == {0, 1}
    assert rounded != exact
    classifier = Classifier(loaded, bf16=True)
    assert classifier.bf16
    made = [scores.probabilities for scores in classifier(asked)]
    assert [max(range(4), key=row.__getitem__) for row in made] == exact


def test_a_text_that_is_cut_says_so(server: httpx.Client) -> None:
    asked = [" ".join(WORDS[: LIMIT - 2]), " ".join(WORDS[: LIMIT - 1]), " ".join(WORDS)]
    made = server.post("/predict", json={"texts": asked}).json()["predictions"]
    assert [row["truncated"] for row in made] == [False, True, True]


def test_health_and_labels(server: httpx.Client) -> None:
    assert server.get("/health").json()["status"] == "ok"
    assert server.get("/labels").json() == {"model": "emotions", "labels": LABELS}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, None),
        ({"text": "a", "texts": ["b"]}, 400, None),
        ({"text": "a", "top_k": 1}, 400, None),
        ({"text": ""}, 400, "text"),
        ({"text": " \n"}, 400, "text"),
        ({"text": ["a"]}, 400, "text"),
        ({"text": None}, 400, "text"),
        ({"texts": []}, 400, "texts"),
        ({"texts": "a"}, 400, "texts"),
        ({"texts": ["a", 1]}, 400, "texts"),
        ({"texts": ["a", ""]}, 400, "texts[1]"),
        ({"texts": ["a"] * 1001}, 413, "texts"),
        ({"text": "a" * 20_001}, 413, "text"),
        ({"text": "a" * (9 << 20)}, 413, None),
    ],
)
def test_what_cannot_be_labelled_is_refused_by_name(
    server: httpx.Client, body: dict[str, Any], status: int, param: str | None
) -> None:
    reply = server.post("/predict", json=body)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error["param"] == param
    assert len(error["message"]) < 200


def test_half_a_character_is_refused(server: httpx.Client) -> None:
    body = b'{"text": "\xed\xa0\x80"}'
    reply = server.post("/predict", content=body, headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_json")


def test_many_small_requests_at_once_each_get_their_own_labels(server: httpx.Client) -> None:
    asked = texts(64)
    together = server.post("/predict", json={"texts": asked}).json()["predictions"]
    with ThreadPoolExecutor(16) as pool:
        alone = list(pool.map(lambda text: server.post("/predict", json={"text": text}).json(), asked))
    assert [row["label"] for row in alone] == [row["label"] for row in together]


def test_texts_that_wait_go_through_the_model_together() -> None:
    seen: list[int] = []

    def slow(batch: Sequence[str]) -> list[Scores]:
        seen.append(len(batch))
        time.sleep(0.05)
        if "bad" in batch:
            raise ZeroDivisionError
        return [Scores([float(text)], False) for text in batch]

    async def ask() -> list[Any]:
        gatherer = Gatherer(slow)
        first = asyncio.create_task(gatherer(["0"]))
        await asyncio.sleep(0.01)
        more = [asyncio.create_task(gatherer([str(number), str(-number)])) for number in range(1, 20)]
        answers = await asyncio.gather(first, *more)
        bad = await asyncio.gather(
            *(gatherer([text]) for text in ("4", "bad", "5", "6")), return_exceptions=True
        )
        full = await asyncio.gather(
            *(gatherer(["1"] * 1000) for _ in range(5)), gatherer(["7"]), return_exceptions=True
        )
        gatherer.close()
        return [answers, bad, full]

    answers, bad, full = asyncio.run(ask())
    assert [[scores.probabilities[0] for scores in answer] for answer in answers] == [
        [0.0],
        *([float(number), -float(number)] for number in range(1, 20)),
    ]
    assert seen[:2] == [1, 38]
    assert isinstance(bad[1], ZeroDivisionError)
    assert [answer[0].probabilities[0] for answer in (bad[0], *bad[2:])] == [4.0, 5.0, 6.0]
    assert [isinstance(answer, Refused) for answer in full] == [False] * 4 + [True, True]
    assert full[-1].status == 503


def test_a_pass_is_bounded_in_texts_and_tokens() -> None:
    made = [(part.start, part.stop) for part in batches([5] * 130)]
    assert made == [(0, 64), (64, 128), (128, 130)]
    lengths = [10] * 10 + [512] * 40
    parts = list(batches(lengths))
    assert [position for part in parts for position in part] == list(range(50))
    assert all(len(part) * lengths[part[-1]] <= 8192 for part in parts)
    assert [len(part) for part in batches([9000, 9001])] == [1, 1]
    assert list(batches([])) == []
