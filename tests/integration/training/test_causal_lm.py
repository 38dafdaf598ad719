"""Training a causal language model through the stage's own door."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetuneflow.artifacts import CANCEL, CHECKPOINTS, JobFolder, read_events, write_examples
from finetuneflow.errors import DatasetError, JobCancelled, ModelError, RecipeError
from finetuneflow.modeling.generate import generate
from finetuneflow.modeling.load import load_causal_lm
from finetuneflow.modeling.tokenize import IGNORED, encode
from finetuneflow.schemas.example import Example, Message
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import TrainInputs
from finetuneflow.training import causal_lm, outcome
from finetuneflow.training.checkpoint import list_checkpoints, newest_valid


def recipe(model: Path, **changes: object) -> Recipe:
    values: dict[str, object] = {
        "base_model": str(model),
        "dataset": "given",
        "num_epochs": 4,
        "learning_rate": 0.01,
        "per_device_batch_size": 4,
        "max_seq_length": 200,
        "lora_r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.1,
        "precision": "fp32",
    }
    return Recipe.model_validate(values | changes)


def prepare(folder: Path, examples: list[Example]) -> TrainInputs:
    folder.mkdir(parents=True, exist_ok=True)
    write_examples(folder / "train.jsonl", examples)
    write_examples(folder / "validation.jsonl", examples[:4])
    return TrainInputs(train=str(folder / "train.jsonl"), validation=str(folder / "validation.jsonl"))


def test_only_the_answer_and_its_end_token_carry_loss(tiny_model: Path, conversations: list[Example]) -> None:
    tokenizer = load_causal_lm(str(tiny_model)).tokenizer
    item = encode(tokenizer, conversations[0])
    learnt = [token for token, label in zip(item.input_ids, item.labels, strict=True) if label != IGNORED]
    assert tokenizer.decode(learnt) == conversations[0].answer + "<|im_end|>"
    whole = tokenizer.apply_chat_template(
        [message.model_dump() for message in conversations[0].messages], tokenize=True, return_dict=False
    )
    assert item.input_ids == whole


def test_every_assistant_turn_of_a_conversation_is_learnt(tiny_model: Path) -> None:
    tokenizer = load_causal_lm(str(tiny_model)).tokenizer
    turns = [("user", "a ?"), ("assistant", "b."), ("user", "c ?"), ("assistant", "d.")]
    item = encode(tokenizer, Example(messages=[Message(role=role, content=text) for role, text in turns]))
    learnt = [token for token, label in zip(item.input_ids, item.labels, strict=True) if label != IGNORED]
    assert tokenizer.decode(learnt) == "b.<|im_end|>d.<|im_end|>"


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_lowers_the_loss_and_leaves_a_model_that_loads(
    tmp_path: Path, tiny_model: Path, conversations: list[Example], method: str
) -> None:
    config = recipe(tiny_model, method=method, num_epochs=30)
    result = causal_lm.run(config, prepare(tmp_path, conversations), JobFolder(tmp_path))
    losses = [point.loss for point in result.history if point.loss is not None]
    # A random frozen base leaves an adapter little to work with; all the weights learn it by heart.
    assert losses[-1] < losses[0] - (0.3 if method == "lora" else 2)
    assert result.eval_loss is not None
    if method == "lora":
        loaded = load_causal_lm(str(tiny_model), precision="fp32", adapter=tmp_path / "adapter")
    else:
        loaded = load_causal_lm(str(tmp_path / "model"), precision="fp32")
    answers = generate(
        loaded, [[{"role": "user", "content": "Où est l'outil 3 ?"}]], max_new_tokens=20, batch_size=1
    )
    assert answers[0].new_tokens > 0


@pytest.mark.parametrize("completion_only", [True, False])
def test_packed_rows_and_padded_rows_have_the_same_loss(
    tiny_model: Path, conversations: list[Example], completion_only: bool
) -> None:
    losses = []
    for packing in (True, False):
        config = recipe(tiny_model, packing=packing, method="full", completion_only_loss=completion_only)
        loaded = load_causal_lm(str(tiny_model), precision="fp32")
        items = [encode(loaded.tokenizer, item, completion_only=completion_only) for item in conversations]
        hyper = outcome.filled(config)
        objective = causal_lm.CausalObjective(loaded, items, [], config, hyper, 200)
        losses.append(objective.loss(list(range(len(items)))).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_loss_is_that_of_transformers(tiny_model: Path, conversations: list[Example]) -> None:
    loaded = load_causal_lm(str(tiny_model), precision="fp32")
    item = encode(loaded.tokenizer, conversations[0])
    ids, labels = torch.tensor([item.input_ids]), torch.tensor([item.labels])
    expected = loaded.model(input_ids=ids, labels=labels).loss.item()
    config = recipe(tiny_model, method="full")
    objective = causal_lm.CausalObjective(loaded, [item], [], config, outcome.filled(config), 200)
    assert objective.loss([0]).item() / item.supervised == pytest.approx(expected, rel=1e-5)


def test_one_seed_gives_one_adapter(tmp_path: Path, tiny_model: Path, conversations: list[Example]) -> None:
    weights = []
    for name in ("first", "second"):
        folder = tmp_path / name
        causal_lm.run(recipe(tiny_model), prepare(folder, conversations), JobFolder(folder))
        weights.append(load_file(folder / "adapter" / "adapter_model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(weights[0][name].abs().max() > 0 for name in weights[0] if "lora_B" in name)


WORKER = """
import sys
from pathlib import Path
from finetuneflow.artifacts import JobFolder
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import TrainInputs
from finetuneflow.training import causal_lm, outcome
folder = Path(sys.argv[1])
job = JobFolder(folder, resume=sys.argv[4] == "resume")
causal_lm.run(Recipe.model_validate_json(sys.argv[2]), TrainInputs.model_validate_json(sys.argv[3]), job)
"""


def test_a_run_killed_in_the_middle_and_resumed_gives_the_adapter_of_an_uninterrupted_one(
    tmp_path: Path, tiny_model: Path, conversations: list[Example]
) -> None:
    config = recipe(tiny_model, num_epochs=40, save_steps=3, eval_steps=5)
    whole = tmp_path / "whole"
    causal_lm.run(config, prepare(whole, conversations), JobFolder(whole))

    broken = tmp_path / "broken"
    inputs = prepare(broken, conversations)
    arguments = [
        sys.executable,
        "-c",
        WORKER,
        str(broken),
        config.model_dump_json(),
        inputs.model_dump_json(),
    ]
    worker = subprocess.Popen([*arguments, "fresh"])
    deadline = time.monotonic() + 120
    while len(list_checkpoints(broken)) < 2 and time.monotonic() < deadline:
        assert worker.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert not (broken / "adapter").exists()

    result = causal_lm.run(config, inputs, JobFolder(broken, resume=True))
    assert result.resumed_from
    expected = load_file(whole / "adapter" / "adapter_model.safetensors")
    found = load_file(broken / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    numbers = [numbered.id for numbered in read_events(broken)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_torn_checkpoint_is_passed_over(
    tmp_path: Path, tiny_model: Path, conversations: list[Example]
) -> None:
    causal_lm.run(recipe(tiny_model, save_steps=2), prepare(tmp_path, conversations), JobFolder(tmp_path))
    newest = list_checkpoints(tmp_path)[-1]
    weights = newest / "state.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    assert newest_valid(tmp_path) == list_checkpoints(tmp_path)[-2]


def test_only_the_newest_two_checkpoints_and_the_best_are_kept(
    tmp_path: Path, tiny_model: Path, conversations: list[Example]
) -> None:
    causal_lm.run(recipe(tiny_model, save_steps=1), prepare(tmp_path, conversations), JobFolder(tmp_path))
    names = sorted(path.name for path in (tmp_path / CHECKPOINTS).iterdir())
    assert len(names) == 3
    assert names[0] == "best"


def test_a_cancelled_run_saves_where_it_is(
    tmp_path: Path, tiny_model: Path, conversations: list[Example]
) -> None:
    inputs = prepare(tmp_path, conversations)
    (tmp_path / CANCEL).touch()
    with pytest.raises(JobCancelled) as caught:
        causal_lm.run(recipe(tiny_model), inputs, JobFolder(tmp_path))
    assert "resume" in caught.value.hint
    assert newest_valid(tmp_path) is not None


def test_training_stops_early_when_nothing_improves(
    tmp_path: Path, tiny_model: Path, conversations: list[Example]
) -> None:
    config = recipe(
        tiny_model,
        num_epochs=200,
        learning_rate=0.05,
        eval_steps=4,
        early_stopping_patience=2,
        lora_dropout=0.0,
    )
    folder = tmp_path / "job"
    inputs = prepare(folder, conversations)
    write_examples(
        folder / "validation.jsonl",
        [
            Example(
                messages=[
                    Message(role="user", content="?"),
                    Message(role="assistant", content="zzz ## 99 %%"),
                ]
            )
        ],
    )
    result = causal_lm.run(config, inputs, JobFolder(folder))
    assert result.stopped_early
    assert result.best_step < result.steps


def test_examples_longer_than_the_limit_are_left_out_and_counted(
    tmp_path: Path, tiny_model: Path, conversations: list[Example]
) -> None:
    long = Example(messages=[Message(role="user", content="x" * 400), Message(role="assistant", content="y")])
    result = causal_lm.run(recipe(tiny_model), prepare(tmp_path, [*conversations, long]), JobFolder(tmp_path))
    assert result.dropped_examples == 1
    said = [numbered.event.message for numbered in read_events(tmp_path) if numbered.event.type == "log"]
    assert any("left out 1 examples longer than 200 tokens" in message for message in said)


def test_a_dataset_in_which_every_label_would_be_masked_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    silent = Example(messages=[Message(role="user", content="a ?"), Message(role="user", content="b ?")])
    with pytest.raises(DatasetError) as caught:
        causal_lm.run(recipe(tiny_model), prepare(tmp_path, [silent] * 3), JobFolder(tmp_path))
    assert caught.value.code == "no_supervised_tokens"
    assert not (tmp_path / "adapter").exists()


def test_an_adapter_on_another_base_is_refused(
    tmp_path: Path, tiny_model: Path, conversations: list[Example]
) -> None:
    causal_lm.run(recipe(tiny_model, num_epochs=1), prepare(tmp_path, conversations), JobFolder(tmp_path))
    other = tmp_path / "other"
    loaded = load_causal_lm(str(tiny_model), precision="fp32")
    with torch.no_grad():
        loaded.model.lm_head.weight[0, 0] += 1
    loaded.model.save_pretrained(other)
    loaded.tokenizer.save_pretrained(other)
    with pytest.raises(ModelError, match="another base model"):
        load_causal_lm(str(other), adapter=tmp_path / "adapter")


def test_pickled_weights_and_remote_code_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="no safetensors"):
        load_causal_lm(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "m.M"}}), encoding="utf-8")
    with pytest.raises(ModelError, match="code of its own"):
        load_causal_lm(str(tmp_path))


def test_a_recipe_with_blanks_is_refused_by_the_stage(tiny_model: Path) -> None:
    with pytest.raises(RecipeError, match="learning_rate"):
        outcome.filled(recipe(tiny_model, learning_rate=None))
