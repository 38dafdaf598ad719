"""Recipes: what is read, what is refused and in which words, what fills the blanks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetuneflow.errors import NotFoundError, RecipeError
from finetuneflow.schemas.recipe import Method, Recipe, Task
from finetuneflow.services.recipes import (
    fill,
    fill_hyperparameters,
    load_recipe,
    parse_recipe,
    recipe_yaml,
)

BASE = "base_model: embedded:tiny\ndataset: données.jsonl\n"
TRAINING_CONFIG = """{
  "model_to_fine_tune": "qwen3-sfd-analyzer",
  "dataset_path": "data/training/sfd_analysis_dataset.jsonl",
  "output_model_name": "qwen3-sfd-analyzer-v2",
  "epochs": 3,
  "learning_rate": 5e-5,
  "batch_size": 4,
  "lora_rank": 8
}
"""


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_training_config_of_the_config_driven_trainer_is_read_as_it_stands(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, TRAINING_CONFIG, "training_config.json"))
    assert recipe.base_model == "qwen3-sfd-analyzer"
    assert recipe.dataset == "data/training/sfd_analysis_dataset.jsonl"
    assert recipe.output_model_name == "qwen3-sfd-analyzer-v2"
    assert (recipe.num_epochs, recipe.learning_rate) == (3, 5e-5)
    assert (recipe.per_device_batch_size, recipe.lora_r, recipe.method) == (4, 8, "lora")


def test_a_number_that_yaml_takes_for_text_is_a_number(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, BASE + "learning_rate: 5e-5\n")).learning_rate == 5e-5


def test_an_override_wins_over_the_file_whatever_the_two_are_called(tmp_path: Path) -> None:
    path = write(tmp_path, BASE + "epochs: 3\nseed: 1\n")
    recipe = load_recipe(path, {"num_train_epochs": "7", "seed": None, "batch_size": 2})
    assert (recipe.num_epochs, recipe.seed, recipe.per_device_batch_size) == (7, 1, 2)


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("learning_rat: 1", ":3: unknown key `learning_rat`", "`learning_rate`"),
        ("epoch: 1", ":3: unknown key `epoch`", "`epochs`"),
        ("zzz: 1", ":3: unknown key `zzz`", "base_model"),
        ("learning_rate: fast", ':3: `learning_rate` is "fast", expected a number', ""),
        ("epochs: true", ":3: `epochs` is true, expected a number", ""),
        ("lora_rank: 1.5", ":3: `lora_rank` is 1.5, expected a whole number", ""),
        ("method: loro", ":3: `method` is \"loro\", expected 'lora', 'full' or 'head'", "low-rank"),
        ("max_seq_length: 0", ":3: `max_seq_length` is 0, expected greater than 8", "tokens"),
        ("target_modules: q", ":3: `target_modules` is \"q\", expected a list or 'all-linear'", ""),
        ("epochs: 3\nnum_epochs: 4", ":4: `num_epochs` and `epochs` are the same setting", ""),
        ("seed: 3\nseed: 4", ":4: is not YAML: key `seed` stands twice", ""),
        ("epochs: [1\nx: 2", ":4: is not YAML", "line"),
        ("a\tb: [", "is not YAML", ""),
    ],
)
def test_a_wrong_line_is_named_with_its_key_value_and_remedy(
    tmp_path: Path, line: str, message: str, hint: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, BASE + line + "\n"))
    assert message in caught.value.message
    assert "recipe.yaml" in caught.value.message
    assert caught.value.hint
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("- a\n", "not keys and values"), ("dataset: x\n", "`base_model` is missing")],
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, text))


def test_an_error_in_json_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"r\.json:2: is not JSON"):
        load_recipe(write(tmp_path, '{"seed": 1,\n "epochs" 2}', "r.json"))
    with pytest.raises(RecipeError, match=r"r\.json:2: unknown key `epoks`"):
        load_recipe(write(tmp_path, '{"seed": 1,\n "epoks": 2}', "r.json"))


def test_json_with_tabs_is_json(tmp_path: Path) -> None:
    text = json.dumps({"base_model": "m", "dataset": "d"}, indent="\t")
    assert load_recipe(write(tmp_path, text, "r.json")).base_model == "m"


def test_a_wrong_option_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, BASE + "learning_rate: 0.1\n"), {"learning_rate": "fast"})
    assert "recipe.yaml" not in caught.value.message


def test_a_recipe_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("dataset: donn\xe9es".encode("latin-1"))
    with pytest.raises(RecipeError, match="UTF-8"):
        load_recipe(tmp_path / "latin.yaml")
    with pytest.raises(RecipeError, match="folder"):
        load_recipe(tmp_path)


def test_a_yaml_tag_runs_nothing(tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, BASE + f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/x']\n"))
    assert not (tmp_path / "x").exists()


@given(
    st.fixed_dictionaries(
        {"base_model": st.text(max_size=20), "dataset": st.text(max_size=20)},
        optional={
            "num_epochs": st.floats(0.1, 100),
            "learning_rate": st.floats(1e-7, 1),
            "lora_r": st.integers(1, 512),
            "packing": st.booleans(),
            "target_modules": st.lists(st.sampled_from(["q_proj", "v_proj"]), min_size=1),
            "output_model_name": st.text(max_size=20),
        },
    )
)
def test_a_recipe_written_as_yaml_is_read_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    recipe = parse_recipe(values)
    path = write(tmp_path_factory.mktemp("r"), recipe_yaml(recipe, comment="why\nso"))
    assert load_recipe(path) == recipe


def test_the_guide_s_table_holds_for_lora_on_an_ordinary_model() -> None:
    recipe = Recipe(base_model="some/llm", dataset="d")
    small, medium, large = (fill_hyperparameters(recipe, count) for count in (499, 2000, 2001))
    assert [h.lora_r for h in (small, medium, large)] == [8, 16, 32]
    assert [h.lora_alpha for h in (small, medium, large)] == [16, 32, 64]
    assert [h.lora_dropout for h in (small, medium, large)] == [0.1, 0.05, 0.01]
    assert [h.learning_rate for h in (small, medium, large)] == [3e-4, 2e-4, 1e-4]
    assert 5 <= small.num_epochs <= 10
    assert 3 <= medium.num_epochs <= 5
    assert 1 <= large.num_epochs <= 3
    assert 2 <= small.per_device_batch_size <= 4
    assert 4 <= medium.per_device_batch_size <= 8
    assert 8 <= large.per_device_batch_size <= 16


@given(
    task=st.sampled_from(get_args(Task)),
    method=st.sampled_from(get_args(Method)),
    base_model=st.sampled_from(["embedded:tiny", "embedded:minilm", "x/y"]),
    examples=st.integers(0, 10**7),
)
def test_every_blank_is_filled_for_every_kind_of_run(
    task: Task, method: Method, base_model: str, examples: int
) -> None:
    recipe = Recipe(base_model=base_model, dataset="d", task=task, method=method)
    filled = fill(recipe, fill_hyperparameters(recipe, examples))
    again = Recipe.model_validate(filled.model_dump())
    assert None not in (again.num_epochs, again.learning_rate, again.per_device_batch_size)
    assert None not in (again.max_seq_length, again.lora_r, again.lora_alpha, again.lora_dropout)


def test_what_the_recipe_fixes_stays_and_is_said() -> None:
    recipe = Recipe(base_model="x/y", dataset="d", learning_rate=0.5, lora_r=4)
    hyper = fill_hyperparameters(recipe, 100)
    assert (hyper.learning_rate, hyper.lora_r) == (0.5, 4)
    assert hyper.lora_alpha == 8, "the scale alpha / r stays"
    assert "small dataset (100 training examples)" in hyper.reason
    assert "set by the recipe: learning_rate 0.5, lora_r 4" in hyper.reason


def test_the_embedded_model_has_values_of_its_own() -> None:
    ordinary = fill_hyperparameters(Recipe(base_model="x/y", dataset="d"), 100)
    tiny = fill_hyperparameters(Recipe(base_model="embedded:tiny", dataset="d"), 100)
    assert tiny.learning_rate > ordinary.learning_rate
    assert tiny.lora_r > ordinary.lora_r
