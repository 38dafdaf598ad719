"""Does the model answer a test set right, better than its baseline, and without having learnt it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from finetuneflow.evaluation.significance import paired_p, wilson
from finetuneflow.metrics import exact_match, normalize
from finetuneflow.schemas.example import Example

ALPHA = 0.05


def scores(answers: Sequence[str], examples: Sequence[Example]) -> list[float]:
    """1 for each right answer, else 0."""
    return [exact_match(answer, right.answer) for answer, right in zip(answers, examples, strict=True)]


def test_the_model_scores_above_the_minimum(
    answers: Callable[[bool], list[str]], examples: list[Example], pytestconfig: pytest.Config
) -> None:
    """Exact match on the test set is above `--min-score`."""
    found = scores(answers(False), examples)
    share, wanted = wilson(sum(found), len(found)), pytestconfig.getoption("--min-score")
    if share.value <= wanted:
        missed = next(place for place, right in enumerate(found) if not right)
        pytest.fail(
            f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%}) of {len(found)} answers are right, "
            f"more than {wanted:.1%} are asked for; the first wrong one:\n"
            f"  question: {examples[missed].question}\n"
            f"  expected: {examples[missed].answer}\n  answered: {answers(False)[missed]}",
            pytrace=False,
        )


def test_the_model_is_better_than_its_baseline(
    answers: Callable[[bool], list[str]], examples: list[Example], pytestconfig: pytest.Config
) -> None:
    """By `--min-improvement` at least, and not by chance."""
    tuned, base = scores(answers(False), examples), scores(answers(True), examples)
    gain, chance = (sum(tuned) - sum(base)) / len(tuned), paired_p(tuned, base)
    wanted = pytestconfig.getoption("--min-improvement")
    if gain < wanted - 1e-9 or chance >= ALPHA:
        pytest.fail(
            f"{sum(tuned):.0f} of {len(tuned)} answers are right, {sum(base):.0f} of the baseline's: "
            f"{100 * gain:+.1f} points (at least {100 * wanted:.1f} are asked for), p = {chance:.2g}",
            pytrace=False,
        )


def test_no_test_question_was_trained_on(examples: list[Example], trained_on: list[Example]) -> None:
    """Scores on questions that were learnt by heart prove nothing."""
    learnt = {normalize(example.question) for example in trained_on}
    leaked = [example.question for example in examples if normalize(example.question) in learnt]
    if leaked:
        pytest.fail(
            f"{len(leaked)} test questions stand in the training set, such as: {leaked[0]}", pytrace=False
        )
