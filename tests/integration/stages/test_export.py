from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from finetuneflow.artifacts import JobFolder, sha256_file
from finetuneflow.errors import ModelError, NotFoundError, ParityError, UsageError
from finetuneflow.export import merge as merging
from finetuneflow.export import served
from finetuneflow.export.gguf.file import write_gguf
from finetuneflow.export.run import run
from finetuneflow.modeling.generate import generate
from finetuneflow.modeling.load import load_causal_lm
from finetuneflow.modeling.lora import add_adapter, save_adapter
from finetuneflow.schemas.export import ExportConfig, ExportInputs, ExportKind

pytestmark = pytest.mark.integration


def inputs(trained: Any, **changes: Any) -> ExportInputs:
    values = {
        "run_folder": str(trained.folder),
        "run_id": "run-1",
        "name": "facts/é ..",
        "recipe": trained.recipe.model_dump(),
        "train_result": trained.result.model_dump(),
    }
    return ExportInputs(**(values | changes))


def test_everything_is_exported_whole_and_the_merged_model_answers_like_the_adapter(
    trained: Any, tmp_path: Path
) -> None:
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "left_by_a_killed_export").touch()
    result = run(ExportConfig(), inputs(trained), JobFolder(tmp_path))
    assert (result.adapter, result.merged, result.zip) == ("adapter", "merged", "facts-é.zip")
    for part in ("adapter", "merged"):
        names = {path.name for path in (tmp_path / part).iterdir()}
        assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md"} <= names
    assert (tmp_path / "merged" / "config.json").exists()
    assert not (tmp_path / "merged" / "left_by_a_killed_export").exists()
    assert result.merge_max_difference is not None
    assert 0 < result.merge_max_difference < 1

    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as weights:
        assert "lm_head.weight" not in weights.keys()
        assert weights.get_tensor("model.embed_tokens.weight").dtype == torch.bfloat16
    conversations = [[{"role": "user", "content": f"{name} ?"}] for name in ("Orion", "Altaïr", "Rigel")]
    answers = []
    for loaded in (
        load_causal_lm(str(trained.base), precision="fp32", adapter=trained.adapter),
        load_causal_lm(str(tmp_path / "merged"), precision="fp32"),
    ):
        given = generate(loaded, conversations, max_new_tokens=8, batch_size=3)
        answers.append([answer.text for answer in given])
    assert answers[0] == answers[1] == ["oui", "été", "3"]

    with zipfile.ZipFile(tmp_path / result.zip) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert {row["path"] for row in manifest["files"]} == set(archive.namelist()) - {"manifest.json"}
    for file in result.files:
        assert sha256_file(tmp_path / file.path) == file.sha256
    assert "not evaluated" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_an_export_can_be_done_again_in_the_same_folder(trained: Any, tmp_path: Path) -> None:
    config = ExportConfig(kinds=["adapter", "zip"], language="fr")
    first = run(config, inputs(trained), JobFolder(tmp_path))
    second = run(config, inputs(trained), JobFolder(tmp_path))
    assert first.files == second.files
    assert first.merged is None
    assert "Entraînement" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_run_without_weights_or_without_an_adapter_is_refused(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="are not in"):
        run(ExportConfig(), inputs(trained, run_folder=str(tmp_path)), JobFolder(tmp_path))
    full = trained.result.model_copy(update={"adapter": None, "model": "adapter", "method": "full"})
    only_adapter: list[ExportKind] = ["adapter"]
    with pytest.raises(UsageError, match="no adapter"):
        run(
            ExportConfig(kinds=only_adapter),
            inputs(trained, train_result=full.model_dump()),
            JobFolder(tmp_path),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_fully_tuned_model_is_exported_as_it_is(trained: Any, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "model").symlink_to(trained.base)
    full = trained.result.model_copy(update={"adapter": None, "model": "model", "method": "full"})
    job = JobFolder(tmp_path / "job")
    job.path.mkdir()
    result = run(
        ExportConfig(), inputs(trained, run_folder=str(run_folder), train_result=full.model_dump()), job
    )
    assert (result.adapter, result.merge_max_difference) == (None, None)
    assert sha256_file(job.path / "merged" / "model.safetensors") == sha256_file(
        trained.base / "model.safetensors"
    )


def test_a_merge_that_goes_wrong_is_refused_and_leaves_nothing(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(type(load_causal_lm(str(trained.base), adapter=trained.adapter).model)):  # type: ignore[misc]
        def merge_and_unload(self, **kwargs: Any) -> Any:
            """The classic mistake: the adapter is dropped instead of merged."""
            return self.unload()

    def load(*args: Any, **kwargs: Any) -> Any:
        loaded = load_causal_lm(*args, **kwargs)
        loaded.model.__class__ = Forgetful
        return loaded

    monkeypatch.setattr(merging, "load_causal_lm", load)
    with pytest.raises(ModelError, match="does not answer like the adapter"):
        run(ExportConfig(kinds=["merged"]), inputs(trained), JobFolder(tmp_path))
    assert not [path for path in tmp_path.iterdir() if path.name != "events.jsonl"]


@pytest.mark.parametrize("keys", [{"target_modules": ["lm_head"]}, {"modules_to_save": ["embed_tokens"]}])
def test_an_adapter_on_tied_embeddings_is_refused_before_training(trained: Any, keys: dict[str, Any]) -> None:
    loaded = load_causal_lm(str(trained.base), precision="fp32")
    recipe = trained.recipe.model_copy(update=keys)
    with (
        pytest.warns(UserWarning, match="tie"),
        pytest.raises(ModelError, match="shares with its output layer"),
    ):
        add_adapter(loaded, recipe, "CAUSAL_LM")


@pytest.mark.parametrize("keys", [{"use_dora": True}, {"use_rslora": True, "lora_alpha": 8}])
def test_every_kind_of_adapter_melts_into_its_base(
    trained: Any, tmp_path: Path, keys: dict[str, Any]
) -> None:
    loaded = load_causal_lm(str(trained.base), precision="fp32")
    recipe = trained.recipe.model_copy(update=keys)
    model = add_adapter(loaded, recipe, "CAUSAL_LM")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=generator) / 20
    adapter, folder = tmp_path / "adapter", tmp_path / "merged"
    adapter.mkdir()
    folder.mkdir()
    save_adapter(model, adapter, base_model=str(trained.base), fingerprint=loaded.fingerprint)
    merged = merging.merge(str(trained.base), adapter, folder)
    assert merged.top1_agreement > 0.9
    assert json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))[next(iter(keys))] is True


def test_a_flipped_weight_shows_in_the_difference(trained: Any, tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    folder.mkdir()
    merged = merging.merge(str(trained.base), trained.adapter, folder)
    loaded = load_causal_lm(str(trained.base), precision="fp32", adapter=trained.adapter)
    prompts = merging.check_prompts(loaded, rendered=True)
    expected = merging.logits(loaded.model, prompts)
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"][3] *= -30
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    wrong, _ = merging.compare(
        expected, merging.logits(load_causal_lm(str(folder), precision="fp32").model, prompts)
    )
    assert wrong > 5 * merged.max_difference


def gguf_inputs(trained: Any, folder: Path) -> ExportInputs:
    """With a test split: what the file is asked."""
    return inputs(trained, test=str(trained.folder / "train.jsonl"), run_folder=str(folder))


def test_a_gguf_file_leaves_only_after_it_has_answered_like_the_run(trained: Any, tmp_path: Path) -> None:
    config = ExportConfig(kinds=["gguf", "gguf-adapter", "zip"], parity_answers=7, max_new_tokens=12)
    result = run(config, gguf_inputs(trained, trained.folder), JobFolder(tmp_path))
    assert result.gguf is not None
    assert result.gguf.sha256 == sha256_file(tmp_path / result.gguf.path)
    parity = result.gguf.parity
    assert (parity.passed, parity.answers, parity.trained_score, parity.served_score) == (True, 7, 1.0, 1.0)
    assert parity.prompts >= 20
    packed = {file.path for file in result.files}
    assert {
        "gguf/model.gguf", "gguf/adapter.gguf", "gguf/Modelfile", "gguf/parity.json", "gguf/parity.md",
        "gguf/README.md", "report.md",
    } <= packed  # fmt: skip
    assert result.gguf.sha256 in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_gguf_file_that_answers_otherwise_is_kept_apart_and_fails_the_export(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(*args: Any, adapter: Path | None, **kwargs: Any) -> Any:
        """The base alone, as when a converter loses the adapter."""
        return write_gguf(*args, adapter=None, **kwargs)

    monkeypatch.setattr(served, "write_gguf", forgetful)
    config = ExportConfig(kinds=["gguf", "zip"], parity_answers=7, max_new_tokens=12)
    with pytest.raises(ParityError, match="does not answer like the trained model"):
        run(config, gguf_inputs(trained, trained.folder), JobFolder(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"rejected", "events.jsonl"}
    assert {path.name for path in (tmp_path / "rejected").iterdir()} == {
        "model.gguf", "parity.json", "parity.md",
    }  # fmt: skip
