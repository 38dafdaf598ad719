"""Comparisons of an evaluation: every metric, every part of the test set, what to do, who won which item."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from finetuneflow.artifacts import read_examples, split_file
from finetuneflow.errors import NotFoundError, UsageError
from finetuneflow.evaluation.compare import (
    Outcome,
    baselines_of,
    compare_all,
    compare_slices,
    length_parts,
    metric_values,
    outcomes,
    seen_wordings,
)
from finetuneflow.evaluation.predictions_file import read_predictions
from finetuneflow.evaluation.recommendation import recommend
from finetuneflow.schemas.evaluation import Arm, EvaluationResult, Prediction
from finetuneflow.schemas.example import Example
from finetuneflow.services import datasets
from finetuneflow.services.context import Context

SURE = 0.9
"""A question's language is told from its words only with at least this probability."""
SHORTEST = 12
"""Characters that it takes to tell a language."""
FEWEST, RARE = 5, 0.01
"""A language told in fewer questions than these, or than this share of them, is taken for a mistake."""


class ComparedItem(NamedTuple):
    """One item with the answers of both arms."""

    outcome: Outcome
    tuned: Prediction
    baseline: Prediction


def complete(
    context: Context, result: EvaluationResult, *, language: Literal["en", "fr"] = "en"
) -> EvaluationResult:
    """The result with every comparison, its slices and the recommendation, from its answers.

    As it is when its answers are no longer there. Raises InputError when they cannot be read.
    """
    path = Path(result.predictions_path)
    if not path.is_file():
        return result
    predictions = {arm: seen_wordings(rows) for arm, rows in read_predictions(path).items()}
    config = result.config
    slices = []
    if "tuned" in predictions and (baseline := best_baseline(result, predictions)):
        traits = _traits(context, result, predictions["tuned"])
        slices = compare_slices(baseline, predictions["tuned"], predictions[baseline], traits, config)
    scores = {arm: metric_values(rows, config.metric) for arm, rows in predictions.items()}
    latencies = {
        arm: sum(row.latency_seconds for row in rows) / len(rows) for arm, rows in predictions.items()
    }
    return result.model_copy(
        update={
            "comparisons": [
                row
                for arm, beside in (("tuned", ("tuned_rag",)), ("tuned_rag", ()))
                for row in compare_all(
                    predictions, config, arm=arm, others=_others(predictions, arm, *beside)
                )
            ],
            "slices": slices,
            "recommendation": recommend(scores, config, latencies=latencies, language=language),
        }
    )


def _others(predictions: Mapping[Arm, object], *left_out: Arm) -> list[Arm]:
    return [arm for arm in predictions if arm not in left_out]


def best_baseline(result: EvaluationResult, predictions: Mapping[Arm, Sequence[Prediction]]) -> Arm | None:
    """What the tuned model came from, with or without retrieval: the better one; None without any."""
    arms = baselines_of(predictions)
    return max(arms, key=lambda arm: sum(metric_values(predictions[arm], result.config.metric)), default=None)


def list_items(
    result: EvaluationResult, outcome: Outcome, *, baseline: Arm | None = None, arm: Arm = "tuned"
) -> list[ComparedItem]:
    """Items that an arm won, lost or tied against a baseline (null: the best one), in the order of the test.

    Raises NotFoundError when the answers are gone, UsageError when an arm did not answer, InputError.
    """
    path = Path(result.predictions_path)
    if not path.is_file():
        raise NotFoundError("the answers of this evaluation are gone", "evaluate the run again")
    predictions = {name: seen_wordings(rows) for name, rows in read_predictions(path).items()}
    other = baseline or best_baseline(result, predictions)
    if other not in predictions or arm not in predictions:
        missing = arm if arm not in predictions else other or "baseline"
        answered = ", ".join(f"`{name}`" for name in predictions)
        raise UsageError(f"the arm `{missing}` did not answer", f"these did: {answered}")
    rows = outcomes(predictions[arm], predictions[other], result.config)
    return [ComparedItem(found, ours, theirs) for found, ours, theirs in rows if found == outcome]


def _traits(
    context: Context, result: EvaluationResult, rows: Sequence[Prediction]
) -> dict[str, dict[str, str]]:
    """Item id to what is known of it: question type, label, length, language, source."""
    traits: dict[str, dict[str, str]] = {row.item_id: {"question_type": row.question_type} for row in rows}
    examples = _examples(context, result.dataset_id)
    languages = _languages({row.item_id: row.question for row in rows}, examples)
    lengths = length_parts(rows)
    for row in rows:
        found = traits[row.item_id]
        if result.config.metric == "accuracy":
            found["label"] = row.expected
        found["length"] = lengths[row.item_id]
        if row.item_id in languages:
            found["language"] = languages[row.item_id]
        example = examples.get(row.item_id)
        if example and example.question == row.question and example.provenance.source_name:
            found["source"] = example.provenance.source_name
    return traits


def _examples(context: Context, dataset_id: str) -> dict[str, Example]:
    """Item id to the test example that it was made of; none when the dataset is gone."""
    try:
        path = split_file(Path(datasets.get_dataset(context, dataset_id).path), "test")
    except NotFoundError:
        return {}
    if not path.is_file():
        return {}
    return {f"test-{number:05d}": row for number, row in enumerate(read_examples(path), start=1)}


def _languages(questions: Mapping[str, str], examples: Mapping[str, Example]) -> dict[str, str]:
    """Item id to the language of its question: its wording's own, else told from its words if sure."""
    found: dict[str, str] = {}
    told: dict[str, str] = {}
    identifier: Any = None
    for item, question in questions.items():
        example = examples.get(item)
        head, dot, _ = (example.provenance.wording or "" if example else "").partition(".")
        if dot and len(head) == 2:
            found[item] = head
            continue
        if len(question) < SHORTEST:
            continue
        if identifier is None:
            identifier = _identifier()
        language, probability = identifier.classify(question)
        if probability >= SURE:
            told[item] = str(language)
    often = Counter(told.values())
    rare = {name for name, count in often.items() if count < max(FEWEST, RARE * len(questions))}
    return found | {item: language for item, language in told.items() if language not in rare}


def _identifier() -> Any:
    # By name: the package brings a model that most evaluations never need.
    langid = importlib.import_module("py3langid.langid")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
