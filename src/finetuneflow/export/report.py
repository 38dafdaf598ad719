"""The report of a run and the card of its model, from Jinja templates. Pure: no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Literal

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import ValidationError

from finetuneflow.modeling.locate import is_hub_id
from finetuneflow.schemas.dataset import DatasetVersion
from finetuneflow.schemas.evaluation import EvaluationResult, Prediction, Scores
from finetuneflow.schemas.export import ExportInputs
from finetuneflow.schemas.interval import Interval
from finetuneflow.schemas.run import TrainResult

Language = Literal["en", "fr"]
LISTED = 10
"""Examples of each kind in the report."""
CELL_CHARACTERS = 200
ARM_NAMES = {
    "en": {
        "base": "base",
        "rag": "base + retrieval",
        "tuned": "tuned",
        "tuned_rag": "tuned + retrieval",
    },
    "fr": {
        "base": "base",
        "rag": "base + recherche",
        "tuned": "ajusté",
        "tuned_rag": "ajusté + recherche",
    },
}
PACKAGES = ("finetuneflow", "torch", "transformers", "peft")


def report_context(inputs: ExportInputs, language: Language) -> dict[str, Any]:
    """All that the templates of report and card may say."""
    train = TrainResult.model_validate(inputs.train_result)
    evaluation = EvaluationResult.model_validate(inputs.evaluation) if inputs.evaluation else None
    # joining with an absolute path gives that path: an evaluation has a folder of its own
    predictions = Path(inputs.run_folder) / (evaluation.predictions_path if evaluation else "")
    baseline = evaluation.verdict.baseline if evaluation and evaluation.verdict else "base"
    won, lost = examples_won_and_lost(read_predictions(predictions), baseline)
    question_types: dict[str, dict[str, Scores]] = {}
    for arm, figures in evaluation.arms.items() if evaluation else ():
        for kind, scores in figures.by_question_type.items():
            question_types.setdefault(kind, {})[arm] = scores
    return {
        "name": inputs.name,
        "run_id": inputs.run_id,
        "recipe": inputs.recipe,
        "train": train,
        "evaluation": evaluation,
        "criteria": criteria(evaluation) if evaluation else [],
        "question_types": dict(sorted(question_types.items())),
        "dataset": DatasetVersion.model_validate(inputs.dataset) if inputs.dataset else None,
        "arms": arm_names(evaluation, language),
        "baseline": baseline,
        "won": won,
        "lost": lost,
        "versions": versions(),
        "base_name": base_name(train.base_model),
        "hub_base": train.base_model if is_hub_id(train.base_model) else None,
        "loss_curve": None,
        "merge_max_difference": None,
        "gguf": None,
        "license_id": None,
    }


def arm_names(evaluation: EvaluationResult | None, language: Language) -> dict[str, str]:
    """What each arm is called, others than our own by the name that the user gave."""
    given = [*evaluation.arms, *evaluation.classification] if evaluation else []
    return {arm: cell(arm) for arm in given} | ARM_NAMES[language]


def base_name(reference: str) -> str:
    """The base model as others may call it: a folder of this machine by its last name."""
    return reference if is_hub_id(reference) or ":" in reference else Path(reference).name


def versions() -> dict[str, str]:
    """Versions of the packages that a run depends on, of those installed."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def render_report(context: Mapping[str, Any], language: Language = "en") -> str:
    """The run's report in Markdown.

    Args:
        context: What `report_context` gives.
        language: Of the headings and sentences.
    """
    return _render(f"run.{language}.md.jinja", context, language)


def render_card(context: Mapping[str, Any], language: Language = "en") -> str:
    """The README of an exported model, Markdown with a YAML head; `context` is the report's and `kind`."""
    return _render(f"model_card.{language}.md.jinja", context, language)


def _render(template: str, context: Mapping[str, Any], language: Language) -> str:
    environment = ImmutableSandboxedEnvironment(
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    comma = language == "fr"
    environment.filters |= {
        "cell": cell,
        "quoted": lambda text: json.dumps(str(text), ensure_ascii=False),
        "percent": partial(percent, comma=comma),
        "points": lambda share: number(share * 100, "+.1f", comma=comma),
        "interval": partial(interval, comma=comma),
        "number": partial(number, comma=comma),
        "thousands": lambda value: f"{value:,}".replace(",", "\u202f" if comma else ","),
    }
    folder = resources.files("finetuneflow.assets") / "reports"
    text = environment.from_string((folder / template).read_text(encoding="utf-8")).render(context)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def cell(value: object) -> str:
    """Any text as one harmless line of Markdown: no table bars, no HTML, no links, and not endless."""
    text = " ".join(str(value).split())
    if len(text) > CELL_CHARACTERS:
        text = text[: CELL_CHARACTERS - 1] + "…"
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|`*_\[\]#])", r"\\\1", text)


def number(value: float | None, form: str = ".4g", *, comma: bool = False) -> str:
    """A number in the manner of the language; a dash for none."""
    if value is None:
        return "-"
    text = format(value, form)
    return text.replace(".", ",") if comma else text


def percent(share: float, *, comma: bool = False) -> str:
    """A share as a percentage with one decimal."""
    return number(share * 100, ".1f", comma=comma) + ("\u202f%" if comma else "%")


def interval(figure: Interval, *, comma: bool = False) -> str:
    """A share with its 95 % interval."""
    low, high = (number(end * 100, ".1f", comma=comma) for end in (figure.low, figure.high))
    return f"{percent(figure.value, comma=comma)} [{low} ; {high}]"


def read_predictions(path: Path) -> dict[str, dict[str, Prediction]]:
    """Arm to item id to answer, from an evaluation's `predictions.jsonl`; empty when there is none."""
    answers: dict[str, dict[str, Prediction]] = {}
    if not path.is_file():
        return answers
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            answer = Prediction.model_validate(
                {key: row[key] for key in Prediction.model_fields if key in row}
            )
            answers.setdefault(row["arm"], {})[answer.item_id] = answer
        except (ValueError, KeyError, TypeError, ValidationError):
            continue  # the report lists examples: one that cannot be read is not worth failing for
    return answers


def examples_won_and_lost(
    answers: Mapping[str, Mapping[str, Prediction]], baseline: str
) -> tuple[list[tuple[Prediction, Prediction]], list[tuple[Prediction, Prediction]]]:
    """Pairs (baseline's answer, tuned answer) that tuning put right, and that it broke; ten of each."""
    won: list[tuple[Prediction, Prediction]] = []
    lost: list[tuple[Prediction, Prediction]] = []
    for item_id, tuned in answers.get("tuned", {}).items():
        before = answers.get(baseline, {}).get(item_id)
        if before is None or before.exact_match == tuned.exact_match:
            continue
        (won if tuned.exact_match > before.exact_match else lost).append((before, tuned))
    return won[:LISTED], lost[:LISTED]


def criteria(evaluation: EvaluationResult) -> list[tuple[str, float, float, bool]]:
    """What the gate asked for: name, threshold, measured value, met."""
    verdict, config = evaluation.verdict, evaluation.config
    if verdict is None:
        return []
    # half of the two-sided exact p is the chance that a model no better does as well
    rare = verdict.p_exact is None or verdict.p_exact / 2 < config.max_false_pass
    return [
        ("score", config.min_score, verdict.score, verdict.score > config.min_score + 1e-9),
        (
            "improvement",
            config.min_improvement,
            verdict.improvement,
            verdict.improvement >= config.min_improvement - 1e-9,
        ),
        ("p_value", config.alpha, verdict.p_value, verdict.p_value < config.alpha and rare),
    ]
