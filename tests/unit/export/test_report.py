import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetuneflow.export.report import cell, render_card, render_report, report_context
from finetuneflow.schemas.export import ExportInputs, GgufResult, ParityResult, ParityThresholds


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1)}


def scores(value: float) -> dict[str, object]:
    return {
        "items": 10,
        "exact_match": share(value),
        "token_f1": share(value),
        "rouge_l": share(value),
        "latency_mean_seconds": 0.012,
    }


def arm(name: str, value: float) -> dict[str, object]:
    return {
        "arm": name,
        "overall": scores(value),
        "held_out_wordings": scores(value / 2),
        "by_question_type": {"status": scores(value), "definition": scores(value)},
    }


def answer(item_id: str, predicted: str, right: float) -> dict[str, object]:
    return {
        "item_id": item_id,
        "question": f"Quel est le statut de {item_id} ?",
        "expected": "en production",
        "predicted": predicted,
        "exact_match": right,
        "token_f1": right,
        "rouge_l": right,
        "latency_seconds": 0.01,
    }


EVALUATION = {
    "items": 1200,
    "test_set_hash": "f00d" * 16,
    "arms": {name: arm(name, value) for name, value in {"base": 0.02, "rag": 0.4, "tuned": 0.95}.items()},
    "comparisons": [
        {
            "baseline": "rag",
            "metric": "exact_match",
            "difference": {"value": 0.55, "low": 0.5, "high": 0.6},
            "wins": 57,
            "losses": 2,
            "ties": 41,
            "p_value": 1.25e-9,
        }
    ],
    "verdict": {
        "outcome": "PASS",
        "reasons": ["It is <b>better</b>."],
        "metric": "exact_match",
        "score": 0.95,
        "baseline": "rag",
        "baseline_score": 0.4,
        "improvement": 0.55,
        "p_value": 1.25e-9,
        "items": 1200,
    },
    "errors": [answer("Orion", "retirée | <script>", 0)],
    "seconds": 12.0,
    "config": {},
}
HYPERPARAMETERS = {
    "num_epochs": 3,
    "learning_rate": 0.002,
    "per_device_batch_size": 16,
    "max_seq_length": 512,
    "lora_r": 64,
    "lora_alpha": 128,
    "lora_dropout": 0.05,
    "reason": "a small dataset",
}
TRAIN = {
    "adapter": "adapter",
    "base_model": "embedded:tiny",
    "base_fingerprint": "abc123",
    "method": "lora",
    "steps": 1500,
    "epochs": 3.0,
    "best_step": 1400,
    "train_loss": 0.1234,
    "eval_loss": 0.2345,
    "trainable_parameters": 1_000_000,
    "parameters": 7_900_000,
    "tokens": 123456,
    "supervised_tokens": 2345,
    "tokens_per_second": 3400.4,
    "seconds": 120,
    "precision": "bf16",
    "device": "CPU, 2 threads",
    "hyperparameters": HYPERPARAMETERS,
}
DATASET = {
    "id": "ds-0123456789ab",
    "name": "catalogue",
    "content_hash": "cafe" * 16,
    "counts": {"train": 1000, "validation": 120, "test": 1200},
}
SECTIONS = {
    "en": ["Verdict: PASS", "Results", "Training", "Won", "Lost", "Errors of the tuned model", "Lineage"],
    "fr": [
        "Verdict : ACCEPTÉ (PASS)",
        "Résultats",
        "Entraînement",
        "Gagnées",
        "Perdues",
        "Erreurs du modèle ajusté",
    ],
}


def inputs(tmp_path: Path, **changes: object) -> ExportInputs:
    rows = [("rag", "A", 0.0), ("rag", "B", 1.0), ("tuned", "A", 1.0), ("tuned", "B", 0.0)]
    path = tmp_path / "predictions.jsonl"
    lines = [json.dumps({"arm": name, **answer(item, f"{name}-{item}", right)}) for name, item, right in rows]
    path.write_text("\n".join(lines) + "\n{torn", encoding="utf-8")
    values: dict[str, object] = {
        "run_folder": str(tmp_path),
        "run_id": "run-1",
        "name": "applications | ia",
        "recipe": {"base_model": "embedded:tiny", "seed": 7},
        "train_result": TRAIN,
        "evaluation": EVALUATION,
        "dataset": DATASET,
    }
    return ExportInputs.model_validate(values | changes)


@pytest.mark.parametrize("language", ["en", "fr"])
def test_the_report_has_every_section_in_both_languages(tmp_path: Path, language: str) -> None:
    context = report_context(inputs(tmp_path), language) | {"loss_curve": "loss_curve.png"}  # type: ignore[arg-type]
    text = render_report(context, language)  # type: ignore[arg-type]
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    for section in SECTIONS[language]:
        assert section in headings
    for fact in [
        "cafe" * 16,
        "f00d" * 16,
        "abc123",
        "embedded:tiny",
        "](loss_curve.png)",
        "finetuneflow train",
    ]:
        assert fact in text
    assert "{" not in text
    assert "None" not in text


def test_tables_are_whole(tmp_path: Path) -> None:
    text = render_report(report_context(inputs(tmp_path), "en"), "en")
    table: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            table.append(line)
        elif table:
            widths = {row.replace("\\|", "").count("|") for row in table}
            assert len(widths) == 1, table
            assert set(table[1]) <= set("|- "), table
            table = []


def test_text_from_models_and_files_cannot_break_out_of_its_cell(tmp_path: Path) -> None:
    text = render_report(report_context(inputs(tmp_path), "en"), "en")
    assert "<script>" not in text
    assert "<b>" not in text
    assert "retirée \\| &lt;script&gt;" in text
    assert cell("a\n\n# b [x](y)") == "a \\# b \\[x\\](y)"
    assert len(cell("x" * 1000)) == 200


def test_won_and_lost_examples_are_those_of_the_best_baseline(tmp_path: Path) -> None:
    text = render_report(report_context(inputs(tmp_path), "en"), "en")
    won, lost = text.split("## Won")[1].split("## Lost")
    assert "| rag-A | tuned-A |" in won
    assert "| rag-B | tuned-B |" in lost.split("## Errors")[0]


def test_numbers_are_written_in_the_manner_of_the_language(tmp_path: Path) -> None:
    english = render_report(report_context(inputs(tmp_path), "en"), "en")
    french = render_report(report_context(inputs(tmp_path), "fr"), "fr")
    assert "95.0% [85.0 ; 100.0]" in english
    assert "1,500 steps" in english
    assert "95,0\u202f% [85,0 ; 100,0]" in french
    assert "1\u202f500 pas" in french


def test_a_run_without_evaluation_or_dataset_says_so(tmp_path: Path) -> None:
    text = render_report(report_context(inputs(tmp_path, evaluation=None, dataset={}), "en"), "en")
    assert "This run was not evaluated." in text
    assert "dataset hash" not in text
    assert "Verdict: none" in text


def test_a_classifier_has_figures_by_label(tmp_path: Path) -> None:
    figures = {
        "items": 10,
        "accuracy": 0.9,
        "macro_f1": 0.8,
        "macro_precision": 0.8,
        "macro_recall": 0.8,
        "kappa": None,
        "per_label": {"joy|y": {"precision": 1.0, "recall": 0.5, "f1": 0.667, "support": 4.0}},
        "labels": ["joy|y"],
    }
    evaluation = EVALUATION | {"arms": {}, "classification": {"base": figures, "tuned": figures}}
    text = render_report(report_context(inputs(tmp_path, evaluation=evaluation), "en"), "en")
    assert "most frequent label" in text
    assert "| joy\\|y | 4 | 100.0% | 50.0% | 66.7% |" in text
    assert "undefined: one label only" in text


LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
RELATIONS = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}


@pytest.mark.parametrize("kind", list(LIBRARIES))
@pytest.mark.parametrize("language", ["en", "fr"])
def test_the_card_says_what_the_model_is_and_names_a_base_only_when_the_hub_has_it(
    tmp_path: Path, kind: str, language: str
) -> None:
    def head(**changes: Any) -> dict[str, Any]:
        context = report_context(inputs(tmp_path, **changes), language)  # type: ignore[arg-type]
        card = render_card(context | {"kind": kind, "license_id": "mit"}, language)  # type: ignore[arg-type]
        assert ("ollama create" in card) == (kind == "gguf")
        found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
        return found

    local = {
        "library_name": LIBRARIES[kind],
        "pipeline_tag": "text-generation",
        "license": "mit",
        "tags": ["lora", "finetuneflow"],
    }
    assert head() == local
    hub = head(train_result=TRAIN | {"base_model": "owner/name"})
    assert hub == local | {"base_model": "owner/name", "base_model_relation": RELATIONS[kind]}


@pytest.mark.parametrize("language", ["en", "fr"])
def test_the_report_says_whether_the_served_file_answers_like_the_trained_model(
    tmp_path: Path, language: str
) -> None:
    parity = ParityResult(
        passed=True,
        quantization="q8_0",
        prompts=40,
        top1_agreement=0.975,
        median_max_logprob_difference=0.0123,
        max_logprob_difference=0.3,
        vocabulary=8192,
        rendered_equal=40,
        ids_equal=40,
        continuations=40,
        continuations_equal=39,
        answers=30,
        trained_score=0.9,
        served_score=0.9,
        thresholds=ParityThresholds(median_max_logprob_difference=0.5, top1_agreement=0.95),
        runtime="llama.cpp",
        seconds=3.0,
    )
    gguf = GgufResult(
        path="gguf/model.gguf",
        sha256="ab" * 32,
        size_bytes=12_300_000,
        quantization="q8_0",
        architecture="llama",
        modelfile="gguf/Modelfile",
        parity=parity,
    )
    context = report_context(inputs(tmp_path), language) | {"gguf": gguf}  # type: ignore[arg-type]
    text = render_report(context, language)  # type: ignore[arg-type]
    comma = language == "fr"
    for figure in ("12.3 M", "97.5", "0.012", "90.0"):
        assert (figure.replace(".", ",") if comma else figure) in text
    assert "39 of 40" in text or "39 sur 40" in text
    assert "ab" * 32 in text
