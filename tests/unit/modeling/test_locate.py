import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.errors import ModelError
from finetuneflow.modeling.fingerprint import fingerprint
from finetuneflow.modeling.locate import embedded_folder, locate, weight_files


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(embedded_folder("embedded:tiny"), folder)
    return folder


def configure(folder: Path, **keys: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | keys), encoding="utf-8")


def test_code_beside_a_built_in_architecture_is_no_reason_to_refuse_it_for_it_is_never_run(
    model: Path,
) -> None:
    configure(model, model_type="phi3", auto_map={"AutoConfig": "configuration_phi3.Phi3Config"})
    assert locate(str(model)) == model


@pytest.mark.parametrize("model_type", ["my-own", "../phi3", "", "models"])
def test_a_model_that_cannot_do_without_its_own_code_is_refused(model: Path, model_type: str) -> None:
    configure(model, model_type=model_type, auto_map={"AutoConfig": "configuration.Config"})
    with pytest.raises(ModelError, match="Python code of its own"):
        locate(str(model))


def test_a_second_copy_of_the_weights_is_not_part_of_the_model(model: Path) -> None:
    before = fingerprint(model)
    (model / "consolidated.safetensors").write_bytes(b"the same weights in another layout")
    assert weight_files(model) == [model / "model.safetensors"]
    assert fingerprint(model) == before


def test_shards_are_those_of_the_index_and_all_of_them_must_be_there(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors` is missing"):
        weight_files(model)
    (model / "model-00002-of-00002.safetensors").write_bytes(b"")
    assert [path.name for path in weight_files(model)] == sorted(index["weight_map"].values())
    (model / "model.safetensors.index.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        weight_files(model)
