"""Answers from a model in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from finetuneflow.errors import FineTuneFlowError, UsageError
from finetuneflow.schemas.recipe import Hyperparameters, Recipe
from finetuneflow.schemas.run import Run, TrainResult
from finetuneflow.services import predictions
from finetuneflow.services.context import Context

pytestmark = [pytest.mark.integration, pytest.mark.slow]
QUESTION = [{"role": "user", "content": "Où ?"}]
NO_CONTEXT = cast(Context, None)


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer and one token per byte."""
    folder = tmp_path_factory.mktemp("model")
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_ = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token="<end>", pad_token="<pad>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}<end>{% endfor %}"
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def finished(base_model: Path, *, result: bool = True) -> Run:
    """A run whose result is the base model as it stands."""
    made = TrainResult(
        base_model=str(base_model),
        base_fingerprint="0",
        method="lora",
        steps=1,
        epochs=1,
        best_step=1,
        train_loss=1,
        trainable_parameters=1,
        parameters=1,
        tokens=1,
        supervised_tokens=1,
        tokens_per_second=1,
        seconds=1,
        precision="fp32",
        device="CPU",
        hyperparameters=Hyperparameters(
            num_epochs=1,
            learning_rate=1e-3,
            per_device_batch_size=1,
            max_seq_length=64,
            lora_r=1,
            lora_alpha=1,
            lora_dropout=0,
        ),
    )
    return Run(
        id="run-1",
        name="mine",
        dataset_id="ds-1",
        recipe=Recipe(base_model=str(base_model), dataset="d.jsonl"),
        status="success" if result else "running",
        folder=str(base_model.parent),
        created_at="",
        result=made if result else None,
    )


def test_a_model_answers_again_and_again_and_errors_do_not_end_it(
    random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions.runs, "get_run", lambda *_: finished(random_model))
    with predictions.open_model(NO_CONTEXT, "run-1", max_new_tokens=4) as model:
        first = model.answer(QUESTION)
        with pytest.raises(FineTuneFlowError, match="context"):
            model.answer([{"role": "user", "content": "x" * 100}])
        assert model.answer(QUESTION).text == first.text
    assert first.seconds > 0


def test_a_model_that_is_gone_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions.runs, "get_run", lambda *_: finished(tmp_path / "gone"))
    with pytest.raises(FineTuneFlowError, match="gone"), predictions.open_model(NO_CONTEXT, "run-1"):
        pass


def test_a_run_that_has_not_ended_has_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions.runs, "get_run", lambda *_: finished(tmp_path, result=False))
    with pytest.raises(UsageError, match="running"), predictions.open_model(NO_CONTEXT, "run-1"):
        pass
