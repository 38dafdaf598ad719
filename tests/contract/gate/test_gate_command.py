"""`finetuneflow gate` as a person and a pipeline use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetuneflow.schemas.evaluation import TestItem


def check(said: Any, name: str) -> str:
    """The state of a check in what `gate --json` said."""
    return str(next(row["state"] for row in said.json()["checks"] if row["name"] == name))


def test_a_better_model_passes_with_code_zero_and_its_evidence(cli: Any, evaluated: Any) -> None:
    evaluation = evaluated.evaluate(base=0.1, rag=0.4, tuned=0.97)
    said = cli("gate", "run-1", "--json")
    assert said.code == 0, said.err
    result = said.json()
    assert (result["outcome"], result["baseline"]) == ("PASS", "rag")
    evidence = result["evidence"]
    assert evidence["evaluation_id"] == evaluation
    assert evidence["model"]["weights_sha256"].keys() == {"adapter_model.safetensors", "adapter_config.json"}
    assert evidence["model"]["base_fingerprint"] == "0" * 16
    for name in ("test_set_hash", "predictions_sha256", "dataset_hash", "metrics_version"):
        assert len(evidence[name]) >= 16, name
    assert {row["p_holm"] is not None for row in result["comparisons"]} == {True}
    assert json.loads((evaluated.folder(evaluation) / "gate.json").read_text(encoding="utf-8")) == result


def test_the_words_are_for_people_in_both_languages(cli: Any, evaluated: Any) -> None:
    evaluated.evaluate(base=0.1, tuned=0.97)
    said = cli("gate", "run-1")
    assert said.out.startswith("Gate: PASS\n  ok")
    assert "None of the" in said.out
    assert "gate.json" in said.err
    french = cli("gate", "run-1", "--language", "fr")
    assert "questions de test ne figure dans le jeu d'entraînement" in french.out


def test_a_worse_model_fails_with_code_one(cli: Any, evaluated: Any) -> None:
    evaluation = evaluated.evaluate(base=0.9, tuned=0.5)
    said = cli("gate", evaluation)
    assert said.code == 1
    assert said.out.startswith("Gate: FAIL")


def test_too_few_questions_give_code_three_and_how_many_more(cli: Any, evaluated: Any) -> None:
    evaluated.evaluate(evaluated.test_items()[:8], base=0.5, tuned=1.0)
    said = cli("gate", "run-1", "--json")
    assert said.code == 3
    assert said.json()["outcome"] == "NOT ENOUGH DATA"
    assert said.json()["more_items_needed"] > 0


@pytest.mark.parametrize("change", [str, str.upper, lambda text: f"  {text} !"])
def test_a_leaked_test_row_fails_whatever_the_policy(
    cli: Any, evaluated: Any, tmp_path: Path, change: Any
) -> None:
    items = evaluated.test_items()
    question = change(evaluated.training_questions()[7])
    items.append(
        TestItem(id="test-09999", messages=[{"role": "user", "content": question}], expected="leaked")
    )
    evaluated.evaluate(items, base=0.0, tuned=1.0)
    kind = tmp_path / "kind.yaml"
    kind.write_text("min_improvement: 0\nmin_score: 0\nalpha: 1\nmax_false_pass: 1\n", encoding="utf-8")
    for arguments in ((), ("--policy", kind)):
        said = cli("gate", "run-1", *arguments, "--json")
        assert (said.code, check(said, "overlap")) == (1, "missed")
        assert said.json()["evidence"]["overlap"]["leaked"] == ["test-09999"]


def test_forgetting_and_parity_count_once_they_were_looked_at(
    cli: Any, evaluated: Any, tmp_path: Path
) -> None:
    evaluated.evaluate(base=0.1, tuned=0.97)
    said = cli("gate", "run-1", "--json")
    assert (check(said, "forgetting"), check(said, "parity")) == ("noted", "noted")
    demanding = tmp_path / "policy.yaml"
    demanding.write_text("require_forgetting: true\n", encoding="utf-8")
    assert cli("gate", "run-1", "--policy", demanding).code == 3
    evaluated.forget(divergence=0.7)
    said = cli("gate", "run-1", "--policy", demanding, "--json")
    assert (said.code, check(said, "forgetting")) == (0, "met")
    demanding.write_text("max_divergence: 0.5\n", encoding="utf-8")
    assert cli("gate", "run-1", "--policy", demanding).code == 1
    evaluated.fail_export("storage_failed")
    assert check(cli("gate", "run-1", "--json"), "parity") == "noted"


def test_an_export_that_does_not_answer_like_the_model_fails(cli: Any, evaluated: Any) -> None:
    evaluated.evaluate(base=0.1, tuned=0.97)
    evaluated.fail_export("parity_failed")
    said = cli("gate", "run-1", "--json")
    assert (said.code, check(said, "parity")) == (1, "missed")


def test_a_record_is_made_again_bit_for_bit_beside_the_answers_and_elsewhere(
    cli: Any, evaluated: Any, tmp_path: Path
) -> None:
    evaluation = evaluated.evaluate(base=0.1, tuned=0.97)
    folder = evaluated.folder(evaluation)
    cli("gate", "run-1", "--out", tmp_path / "record.json")
    for arguments in ((), ("--predictions", folder / "predictions.jsonl")):
        said = cli("gate", "--recompute", tmp_path / "record.json", *arguments, "--json")
        assert (said.code, said.json()["same"], said.json()["differences"]) == (0, True, [])
        assert said.json()["result"] == json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    loose = tmp_path / "loose.yaml"
    loose.write_text("min_score: 0.5\n", encoding="utf-8")
    said = cli("gate", "--recompute", tmp_path / "record.json", "--policy", loose)
    assert said.code == 1
    assert "policy.min_score: 0.85 recorded, 0.5 now" in said.err


def test_any_changed_byte_of_the_answers_is_noticed(cli: Any, evaluated: Any) -> None:
    evaluation = evaluated.evaluate(base=0.1, tuned=0.97)
    cli("gate", "run-1")
    file = evaluated.folder(evaluation) / "predictions.jsonl"
    whole = file.read_bytes()
    for place in range(11, len(whole), len(whole) // 20):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        said = cli("gate", "--recompute", evaluated.folder(evaluation) / "gate.json")
        assert said.code != 0, place
        assert said.err.startswith("error: ")
    file.write_bytes(whole)
    assert cli("gate", "--recompute", evaluated.folder(evaluation) / "gate.json").code == 0


def test_any_changed_value_of_the_record_is_noticed(cli: Any, evaluated: Any, tmp_path: Path) -> None:
    evaluated.evaluate(base=0.1, tuned=0.97)
    record = tmp_path / "record.json"
    cli("gate", "run-1", "--out", record)
    stored = json.loads(record.read_text(encoding="utf-8"))
    for change in (
        {"outcome": "FAIL"},
        {"policy": stored["policy"] | {"min_score": 0.8499}},
        {"evidence": stored["evidence"] | {"test_set_hash": "0"}},
        {"evidence": stored["evidence"] | {"overlap": stored["evidence"]["overlap"] | {"leaked": ["x"]}}},
        {"checks": stored["checks"][1:]},
    ):
        record.write_text(json.dumps(stored | change), encoding="utf-8")
        said = cli("gate", "--recompute", record)
        assert said.code == 1, change
        assert "digest" in said.err


def test_edited_answers_get_no_decision_at_all(cli: Any, evaluated: Any) -> None:
    evaluation = evaluated.evaluate(base=0.1, tuned=0.5)
    file = evaluated.folder(evaluation) / "predictions.jsonl"
    text = file.read_text(encoding="utf-8").replace('"exact_match": 0.0', '"exact_match": 1.0')
    file.write_text(text, encoding="utf-8")
    said = cli("gate", "run-1")
    assert said.code == 1
    assert "recorded scores are not those of its answer" in said.err
    assert said.out == ""


def test_the_printed_policy_is_the_default_and_can_be_used(cli: Any, evaluated: Any, tmp_path: Path) -> None:
    evaluated.evaluate(base=0.1, tuned=0.97)
    printed = cli("gate", "--print-policy")
    assert printed.code == 0
    values = yaml.safe_load(printed.out)
    assert (values["min_improvement"], values["min_score"], values["alpha"]) == (0.05, 0.85, 0.05)
    assert cli("gate", "--print-policy", "--json").json() == values
    file = tmp_path / "gate.yaml"
    file.write_text(printed.out, encoding="utf-8")
    assert cli("gate", "run-1", "--policy", file, "--json").json()["policy"] == values


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("min_scor: 0.9\n", "gate.yaml:1: a policy has no key `min_scor`", "did you mean `min_score`?"),
        ("alpha: 0.05\nmin_score: high\n", 'gate.yaml:2: `min_score` is "high"', "A score above this"),
        ("min_score: 85\n", "`min_score` is 85, expected less than or equal to 1", "min_score"),
        ("near_duplicates: ignore\n", "expected 'report' or 'fail'", "near_duplicates"),
        ("alpha: 0.1\nalpha: 0.2\n", "gate.yaml:2: `alpha` stands on line 1 already", "keep one"),
        ("- alpha\n", "not a list of keys and values", "--print-policy"),
        ("alpha: [\n", "is not YAML", "correct that line"),
        ("require_parity: 1\n", "`require_parity` is 1", "require_parity"),
    ],
)
def test_a_policy_that_is_wrong_names_line_key_and_remedy(
    cli: Any, workspace: Path, tmp_path: Path, evaluated: Any, text: str, message: str, hint: str
) -> None:
    file = tmp_path / "gate.yaml"
    file.write_text(text, encoding="utf-8")
    said = cli("gate", "run-1", "--policy", file)
    assert (said.code, said.out) == (2, "")
    error, _, remedy = said.err.partition("hint:")
    assert message in error
    assert hint in remedy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run-none",), "run-none"),
        (("eval-none",), "eval-none"),
        (("run-1",), "was not evaluated yet"),
        ((), "one of three"),
        (("run-1", "--print-policy"), "one of three"),
        (("run-1", "--predictions", "x"), "goes with"),
        (("--recompute", "none.json"), "no file"),
        (("run-1", "--policy", "none.yaml"), "no policy"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(
    cli: Any, evaluated: Any, arguments: tuple[str, ...], message: str
) -> None:
    said = cli("gate", *arguments)
    assert (said.code, said.out) == (2, "")
    assert message in said.err


def test_an_evaluation_without_a_baseline_decides_nothing(cli: Any, evaluated: Any) -> None:
    evaluated.evaluate(tuned=0.97)
    said = cli("gate", "run-1")
    assert said.code == 2
    assert "baseline" in said.err


def test_compare_of_one_run_shows_metrics_slices_and_what_to_do(cli: Any, evaluated: Any) -> None:
    evaluated.evaluate(base=0.1, rag=0.4, tuned=0.97)
    said = cli("compare", "run-1")
    assert said.code == 0, said.err
    assert "exact match by question type" in said.out
    assert "exact McNemar" in said.out
    assert "Recommendation: Use the fine-tuned model." in said.out
    result = cli("compare", "run-1", "--language", "fr", "--json").json()["runs"]["run-1"]
    assert len(result["comparisons"]) == 4
    assert {row["dimension"] for row in result["slices"]} >= {"question_type"}
    assert sum(row["items"] for row in result["slices"] if row["dimension"] == "question_type") == 80
    assert result["recommendation"]["headline"] == "Utilisez le modèle ajusté."


def test_compare_lists_what_was_won_lost_and_tied(cli: Any, evaluated: Any) -> None:
    evaluated.evaluate(base=0.5, rag=0.25, tuned=0.75)
    won = cli("compare", "run-1", "--list", "won", "--json").json()
    assert (won["items"], won["list"][0]["baseline"]["predicted"]) == (20, "!")
    assert cli("compare", "run-1", "--list", "won", "--baseline", "rag", "--json").json()["items"] == 40
    assert cli("compare", "run-1", "--list", "lost", "--json").json()["items"] == 0
    assert cli("compare", "run-1", "--list", "tied", "--json").json()["items"] == 60
    shown = cli("compare", "run-1", "--list", "won", "--limit", "2")
    assert shown.out.count("expected:") == 2
    assert "20 questions won, 2 shown" in shown.err
    assert cli("compare", "run-1", "run-1", "--list", "won").code == 0
    wrong = cli("compare", "run-1", "--list", "won", "--arm", "tuned_rag")
    assert wrong.code == 2
    assert "did not answer" in wrong.err


def test_the_exported_file_that_answered_in_place_of_the_run_is_what_is_hashed(
    cli: Any, evaluated: Any, tmp_path: Path
) -> None:
    evaluation = evaluated.evaluate(base=0.1, tuned=0.97)
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    spec = {"arms": {"tuned": {"kind": "gguf", "model": str(file)}}}
    (evaluated.folder(evaluation) / "answerers.json").write_text(json.dumps(spec), encoding="utf-8")
    model = cli("gate", "run-1", "--json").json()["evidence"]["model"]
    assert (model["kind"], list(model["weights_sha256"])) == ("gguf", ["model.gguf"])
    file.unlink()
    said = cli("gate", "run-1")
    assert said.code == 2
    assert "weights that were evaluated are gone" in said.err
