"""Over-trained adapters of the embedded model are caught, adapters that change nothing are not."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetuneflow.artifacts import CANCEL, PREDICTIONS, JobFolder, read_events, write_examples
from finetuneflow.errors import JobCancelled, ModelError, UsageError
from finetuneflow.evaluation.forgetting import run
from finetuneflow.evaluation.forgetting_suite import suite, suite_hash
from finetuneflow.modeling.device import prepare
from finetuneflow.modeling.load import load_causal_lm, resolve
from finetuneflow.modeling.lora import add_adapter, save_adapter
from finetuneflow.schemas.event import ProgressEvent
from finetuneflow.schemas.example import Example, Message
from finetuneflow.schemas.forgetting import ForgettingConfig, ForgettingInputs, ForgettingResult
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import TrainInputs
from finetuneflow.training import causal_lm

pytestmark = [pytest.mark.integration, pytest.mark.slow]
BASE = "embedded:tiny"
TEXT_ALONE = ForgettingConfig(families=[])
COPYING = ForgettingConfig(families=["copying"], max_new_tokens=24)
SEEDS = range(10)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """So small a model is fastest on one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTF_THREADS", "1")
        yield


def recipe(seed: int, **changes: object) -> Recipe:
    values: dict[str, object] = {
        "base_model": BASE,
        "dataset": "codes",
        "num_epochs": 100,
        "max_steps": 30,
        "learning_rate": 0.01,
        "per_device_batch_size": 8,
        "max_seq_length": 128,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "seed": seed,
    }
    return Recipe.model_validate(values | changes)


def trained(folder: Path, seed: int, **changes: object) -> Path:
    """An adapter that learnt twenty made-up codes, at a learning rate far too high unless told otherwise."""
    rng = random.Random(seed)  # noqa: S311
    folder.mkdir()
    examples = [
        Example(
            messages=[
                Message(role="user", content=f"Quel est le code de l'outil {number} ?"),
                Message(role="assistant", content=f"Le code est {rng.randint(100, 999)}."),
            ]
        )
        for number in range(20)
    ]
    write_examples(folder / "train.jsonl", examples)
    made = causal_lm.run(
        recipe(seed, **changes), TrainInputs(train=str(folder / "train.jsonl")), JobFolder(folder)
    )
    return folder / (made.adapter or "")


def untrained(folder: Path, seed: int, rank: int) -> Path:
    """An adapter as it is before the first step: it adds nothing."""
    prepare(seed)
    loaded = load_causal_lm(BASE)
    model = add_adapter(loaded, recipe(seed, lora_r=rank), "CAUSAL_LM")
    folder.mkdir()
    save_adapter(model, folder, base_model=BASE, fingerprint=loaded.fingerprint)
    return folder


def look(folder: Path, config: ForgettingConfig, *, adapter: Path) -> ForgettingResult:
    folder.mkdir(exist_ok=True)
    return run(config, ForgettingInputs(base_model=BASE, adapter=str(adapter)), JobFolder(folder))


def without_time(line: bytes) -> dict[str, object]:
    return {key: value for key, value in json.loads(line).items() if key != "latency_seconds"}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One over-trained adapter."""
    return trained(tmp_path_factory.mktemp("broken") / "run", 0)


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One adapter that changes nothing."""
    return untrained(tmp_path_factory.mktemp("harmless") / "adapter", 0, 8)


def test_ten_of_ten_over_trained_adapters_are_caught(tmp_path: Path) -> None:
    caught = []
    for seed in SEEDS:
        adapter = trained(tmp_path / f"run-{seed}", seed, learning_rate=0.005 * (1 + seed % 4))
        found = look(tmp_path / f"look-{seed}", TEXT_ALONE, adapter=adapter)
        caught.append(found.outcome == "FAIL")
        assert max(change.rise for change in found.texts.values()) > 0.15
        assert found.divergence.value > TEXT_ALONE.warn_divergence
    assert sum(caught) == 10


def test_none_of_ten_adapters_that_change_nothing_is_caught(tmp_path: Path) -> None:
    for seed in SEEDS:
        adapter = untrained(tmp_path / f"adapter-{seed}", seed, 4 << seed % 4)
        found = look(tmp_path / f"look-{seed}", TEXT_ALONE, adapter=adapter)
        assert found.outcome == "PASS"
        assert {change.rise for change in found.texts.values()} == {0.0}
        assert found.divergence.value == 0.0


def test_one_gentle_step_is_no_forgetting(tmp_path: Path) -> None:
    adapter = trained(tmp_path / "run", 3, max_steps=1, learning_rate=1e-5)
    found = look(tmp_path / "look", TEXT_ALONE, adapter=adapter)
    assert found.outcome == "PASS"
    assert found.divergence.value < 0.05


def test_a_family_that_the_base_masters_shows_what_is_lost(
    tmp_path: Path, broken: Path, harmless: Path
) -> None:
    found = look(tmp_path / "broken", COPYING, adapter=broken)
    (family,) = found.families
    assert family.base > 0.2
    assert (family.tuned, family.dropped, found.outcome) == (0.0, True, "FAIL")
    assert family.p_value <= family.p_exact < 0.05
    assert found.reasons[0].startswith("Copying: ")
    assert found.suite_hash == suite_hash(suite(["copying"]))
    assert len(found.lost) == family.losses
    assert {row.family for row in found.lost} == {"copying"}

    kept = look(tmp_path / "harmless", COPYING, adapter=harmless)
    assert kept.families[0].base == kept.families[0].tuned == family.base
    assert (kept.families[0].wins, kept.families[0].losses, kept.outcome, kept.lost) == (0, 0, "PASS", [])

    lines = (tmp_path / "harmless" / PREDICTIONS).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["arm"], row["item_id"]) for row in rows] == [
        (arm, item.id) for arm in ("base", "tuned") for item in suite(["copying"])
    ]
    assert sum(row["exact_match"] for row in rows) == 2 * 44 * family.base


def test_started_again_it_answers_nothing_twice_and_finds_the_same(tmp_path: Path, broken: Path) -> None:
    folder = tmp_path / "look"
    first = look(folder, COPYING, adapter=broken)
    lines = (folder / PREDICTIONS).read_bytes().splitlines(keepends=True)
    # killed in the middle of the second model's answers, in the middle of a line
    (folder / PREDICTIONS).write_bytes(b"".join(lines[:60]) + lines[60][:20])
    told = len(read_events(folder))
    second = look(folder, COPYING, adapter=broken)
    assert second.model_copy(update={"seconds": first.seconds}) == first
    again = (folder / PREDICTIONS).read_bytes().splitlines(keepends=True)
    # the times say which answers were given anew
    assert again[:60] == lines[:60]
    assert [without_time(line) for line in again[60:]] == [without_time(line) for line in lines[60:]]
    assert again[60:] != lines[60:]
    steps = [one.event for one in read_events(folder, told) if isinstance(one.event, ProgressEvent)]
    assert (steps[0].step, steps[-1].step) == (60, steps[-1].total_steps)


def test_a_cancelled_look_keeps_its_answers(tmp_path: Path, harmless: Path) -> None:
    (tmp_path / CANCEL).touch()
    with pytest.raises(JobCancelled):
        look(tmp_path, COPYING, adapter=harmless)


def test_a_whole_model_is_compared_with_the_one_it_was_made_from(tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(resolve(BASE), copy)
    inputs = ForgettingInputs(base_model=BASE, model=str(copy))
    (tmp_path / "look").mkdir()
    found = run(TEXT_ALONE, inputs, JobFolder(tmp_path / "look"))
    assert (found.outcome, found.divergence.value, found.items, found.families) == ("PASS", 0.0, 0, [])


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tuned model"):
        run(TEXT_ALONE, ForgettingInputs(base_model=BASE), JobFolder(tmp_path))
    other = tmp_path / "model"
    shutil.copytree(resolve(BASE), other)
    loaded = load_causal_lm(BASE, precision="fp32")
    loaded.model.resize_token_embeddings(8200)
    loaded.model.save_pretrained(other)
    with pytest.raises(ModelError, match="different vocabularies"):
        run(TEXT_ALONE, ForgettingInputs(base_model=BASE, model=str(other)), JobFolder(tmp_path))
