from pathlib import Path

import pytest

from finetuneflow.errors import UsageError
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.services import export_plan
from finetuneflow.services.context import open_context
from finetuneflow.settings import Settings


@pytest.fixture
def context(tmp_path: Path) -> export_plan.Context:
    return open_context(Settings(home=tmp_path, database_url=f"sqlite:///{tmp_path / 'db'}"))


def recipe(**keys: object) -> Recipe:
    return Recipe.model_validate({"base_model": "embedded:tiny", "dataset": "x.jsonl"} | keys)


def test_a_small_llama_can_become_everything(context: export_plan.Context) -> None:
    assert export_plan.kinds(context, recipe()) == ["adapter", "merged", "gguf", "zip"]
    assert export_plan.kinds(context, recipe(method="full")) == ["merged", "gguf", "zip"]
    assert all(check.ok for check in export_plan.plan(context, recipe()).checks)


def test_a_classifier_becomes_no_gguf_and_is_refused_when_the_recipe_wants_one(
    context: export_plan.Context,
) -> None:
    task = {"task": "sequence_classification"}
    assert export_plan.kinds(context, recipe(**task)) == ["adapter", "merged", "zip"]
    with pytest.raises(UsageError, match="classifier") as caught:
        export_plan.plan(context, recipe(**task, export=["gguf"]))
    assert caught.value.code == "export_impossible"


def test_an_architecture_that_no_gguf_writer_knows_is_said_before_training(
    context: export_plan.Context, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(
        '{"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"]}', encoding="utf-8"
    )
    (model / "model.safetensors").write_bytes(b"")
    given = recipe(base_model=str(model))
    assert "gguf" not in export_plan.kinds(context, given)
    assert any(
        "GPTNeoX" in check.message or "gpt_neox" in check.message
        for check in export_plan.plan(context, given).checks
    )
    with pytest.raises(UsageError, match=r"gpt_neox|GPTNeoX"):
        export_plan.plan(context, given.model_copy(update={"export": ["adapter", "gguf"]}))


def test_a_recipe_may_ask_for_less(context: export_plan.Context) -> None:
    assert export_plan.kinds(context, recipe(export=["adapter"])) == ["adapter"]
