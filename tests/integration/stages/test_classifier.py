from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from finetuneflow.artifacts import JobFolder, write_examples, write_lines
from finetuneflow.errors import UsageError
from finetuneflow.evaluation.run import run
from finetuneflow.export.merge import merge
from finetuneflow.modeling.load import load_classifier
from finetuneflow.schemas.evaluation import EvaluateInputs, EvaluationConfig, TestItem
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import TrainInputs
from finetuneflow.training import sequence_classification

pytestmark = pytest.mark.integration
LABELS = ["joie", "peur", "calme"]
WORDS = {"joie": ["rire", "soleil"], "peur": ["ombre", "cri"], "calme": ["lac", "silence"]}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a random encoder, and of a LoRA run that taught it six words."""
    base, job = tmp_path_factory.mktemp("encoder"), tmp_path_factory.mktemp("run")
    words = ["[PAD]", "[UNK]", *(word for group in WORDS.values() for word in group)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(base)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(base)
    examples = [Example(text=word, label=label) for label, group in WORDS.items() for word in group]
    write_examples(job / "train.jsonl", examples)
    recipe = Recipe(
        base_model=str(base),
        dataset="words",
        task="sequence_classification",
        max_steps=60,
        num_epochs=60,
        learning_rate=0.02,
        per_device_batch_size=6,
        max_seq_length=32,
        lora_r=8,
        lora_alpha=16,
        lora_dropout=0.0,
        precision="fp32",
    )
    inputs = TrainInputs(train=str(job / "train.jsonl"), labels=LABELS)
    sequence_classification.run(recipe, inputs, JobFolder(job))
    return base, job / "adapter"


def inputs(classifier: tuple[Path, Path], folder: Path, **changes: Any) -> EvaluateInputs:
    texts = [(word, label) for label, group in WORDS.items() for word in group] + [("rire soleil", "joie")]
    items = [
        TestItem(id=str(i), messages=[{"role": "user", "content": text}], expected=label)
        for i, (text, label) in enumerate(texts)
    ]
    write_lines(folder / "items.jsonl", (item.model_dump_json() for item in items))
    values = {
        "items": str(folder / "items.jsonl"),
        "base_model": str(classifier[0]),
        "adapter": str(classifier[1]),
        "precision": "fp32",
        "task": "sequence_classification",
        "labels": LABELS,
    }
    return EvaluateInputs(**(values | changes))


def test_a_classifier_is_compared_with_the_most_frequent_label_which_is_named_as_such(
    classifier: tuple[Path, Path], tmp_path: Path
) -> None:
    result = run(EvaluationConfig(bootstrap_samples=100), inputs(classifier, tmp_path), JobFolder(tmp_path))
    assert result.arms == {}
    assert list(result.classification) == ["base", "tuned"]
    base, tuned = result.classification["base"], result.classification["tuned"]
    assert base.accuracy == pytest.approx(3 / 7)
    assert [sum(column) for column in zip(*base.confusion, strict=True)] == [7, 0, 0]
    assert tuned.accuracy > 0.8
    assert tuned.labels == LABELS
    assert result.config.metric == "accuracy"
    assert [comparison.baseline for comparison in result.comparisons] == ["base"]
    assert result.verdict is not None
    assert any("most frequent label" in reason for reason in result.verdict.reasons)


def test_a_classifier_without_labels_is_refused(classifier: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="labels"):
        run(EvaluationConfig(), inputs(classifier, tmp_path, labels=[]), JobFolder(tmp_path))


def test_a_merged_classifier_keeps_its_trained_head(classifier: tuple[Path, Path], tmp_path: Path) -> None:
    merged = merge(str(classifier[0]), classifier[1], tmp_path, labels=LABELS)
    assert merged.max_difference < 1e-4
    assert merged.top1_agreement == 1.0
    assert load_classifier(str(tmp_path), labels=LABELS).model.config.id2label[1] == "peur"
    assert not (tmp_path / "chat_template.jinja").exists()
