"""Perplexity, bits per byte and divergence against what transformers and torch compute."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finetuneflow.errors import DatasetError
from finetuneflow.evaluation.forgetting_suite import fixed_texts
from finetuneflow.evaluation.likelihood import divergences, read_text
from finetuneflow.modeling.load import LoadedModel, load_causal_lm

pytestmark = pytest.mark.integration
TEXT = "L'été, à Évry-sur-Seine : 北京 and 3,5 €.\n" * 4


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """The embedded model in full precision."""
    return load_causal_lm("embedded:tiny", precision="fp32")


def with_model(loaded: LoadedModel, seed: int, positions: int = 1024) -> LoadedModel:
    """The same tokenizer around a random model of another seed."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=loaded.model.config.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=positions,
    )
    return replace(loaded, model=LlamaForCausalLM(config).eval())


def mean_loss(loaded: LoadedModel, ids: list[int]) -> float:
    """Mean negative log-likelihood as transformers computes it."""
    row = torch.tensor([ids])
    with torch.inference_mode():
        return float(loaded.model(input_ids=row, labels=row).loss)


def test_perplexity_is_exp_of_the_mean_loss_of_transformers(loaded: LoadedModel) -> None:
    for text in (TEXT, fixed_texts()["fr"]):
        ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        loss = mean_loss(loaded, [loaded.tokenizer.eos_token_id, *ids])
        found = read_text(loaded, text)
        assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
        assert found.nats / found.tokens == pytest.approx(loss, abs=1e-4)
        assert (found.tokens, found.bytes) == (len(ids), len(text.encode()))
        assert found.bits_per_byte == pytest.approx(loss * len(ids) / math.log(2) / len(text.encode()))


def test_a_mean_of_perplexities_would_be_another_figure(loaded: LoadedModel) -> None:
    easy, hard = "the the the the the the the the", "zq#9 Ωx"
    both = [read_text(loaded, text) for text in (easy, hard)]
    weighted = math.exp(sum(part.nats for part in both) / sum(part.tokens for part in both))
    assert abs(sum(part.perplexity for part in both) / 2 - weighted) > 1


@pytest.mark.parametrize(("window", "stride"), [(64, 32), (64, 1), (50, 49), (16, 5)])
def test_a_sliding_window_predicts_each_token_once_from_what_it_can_see(
    loaded: LoadedModel, window: int, stride: int
) -> None:
    ids = loaded.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    sequence = [loaded.tokenizer.eos_token_id, *ids]
    nats, done = 0.0, 1
    with torch.inference_mode():
        while done < len(sequence):
            end = min(len(sequence), window if done == 1 else done + stride)
            begin = max(0, end - window)
            logits = loaded.model(input_ids=torch.tensor([sequence[begin:end]])).logits[0].log_softmax(-1)
            nats -= sum(float(logits[at - begin - 1, sequence[at]]) for at in range(done, end))
            done = end
    found = read_text(loaded, TEXT, window=window, stride=stride)
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert found.tokens == len(ids)
    # less context, a worse guess
    assert found.nats > read_text(loaded, TEXT).nats


def test_a_text_longer_than_the_context_is_read_whole(loaded: LoadedModel) -> None:
    short = with_model(loaded, 0, positions=32)
    found = read_text(short, TEXT)
    assert found.tokens == len(loaded.tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    assert math.isfinite(found.bits_per_byte)


def test_nothing_to_predict_and_windows_that_do_not_slide_are_refused(loaded: LoadedModel) -> None:
    with pytest.raises(DatasetError, match="no token to predict"):
        read_text(loaded, "")
    with pytest.raises(ValueError, match="stride"):
        read_text(loaded, TEXT, window=8, stride=8)


def test_the_divergence_is_that_of_the_definition_and_zero_from_itself(loaded: LoadedModel) -> None:
    first, second = with_model(loaded, 1), with_model(loaded, 2)
    rows = [([5, 6, 7, 8, 9], 1), ([10, 11], 1), ([12, 13, 14, 15], 0)]
    found = divergences(first, second, rows)
    for (ids, start), ours in zip(rows, found, strict=True):
        with torch.inference_mode():
            p, q = (
                model.model(input_ids=torch.tensor([ids])).logits[0, start:].log_softmax(-1)
                for model in (first, second)
            )
        reference: Any = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum") / len(p)
        assert ours == pytest.approx(float(reference), rel=1e-4)
        assert ours > 0
    assert divergences(first, first, rows) == [0.0, 0.0, 0.0]
    assert divergences(first, second, rows) != divergences(second, first, rows)
