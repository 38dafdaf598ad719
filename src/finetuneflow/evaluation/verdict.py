"""The answer to "is it better?": PASS, FAIL or NOT ENOUGH DATA, with reasons.

Three things are asked for: at least `min_improvement` over the best baseline, a score above `min_score`, and
a paired difference that is not chance: p below `alpha`, and an equal model would win as clearly on less than
`max_false_pass` of all test sets. All three: PASS. One of them ruled out by the data (its 95 % interval lies
on the wrong side): FAIL. Otherwise the test set is too small to tell, and the verdict says about how many
more items would settle it.

Why `max_false_pass` beside `alpha`: a two-sided p below 0.05 lets an equal model pass in up to 2.5 % of test
sets. The exact one-sided tail keeps its promise at every size, accuracy and share of discordant pairs
(simulated at 200 items: 0.4 to 1.0 %), and costs next to no power.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binom, norm

from finetuneflow.evaluation.reason_texts import Language, Sentences
from finetuneflow.evaluation.significance import items_for_power, mcnemar, paired_p, wilson
from finetuneflow.schemas.evaluation import Arm, EvaluationConfig, Outcome, Verdict
from finetuneflow.schemas.interval import Interval

Criterion = Literal["met", "missed", "open"]
MOST_ITEMS = 100_000
"""Above this the estimate means nothing but "too close to call"."""
POWER = 0.8
"""Chance that the number of items asked for settles the question."""
EPSILON = 1e-9
"""5 points are 0.05 also when they come out of a subtraction of floats."""


@dataclass(frozen=True)
class Paired:
    """One arm against a baseline, item by item."""

    baseline: Arm
    items: int
    score: Interval
    baseline_score: float
    difference: Interval
    """With an interval that stays honest when every pair is a tie (Agresti and Min 2005)."""
    wins: int
    losses: int
    p_value: float
    """McNemar's mid-p for right and wrong, sign flips for graded scores."""
    p_exact: float
    """Exact McNemar; of a graded score, the sign test."""
    equal_does_as_well: float
    """Share of test sets on which an equal model would win as clearly, or more."""
    spread: float
    """Standard deviation of one paired difference."""
    graded: bool
    """Some items changed by more than others."""


@dataclass(frozen=True)
class Assessment:
    """What the figures say to each thing that is asked for."""

    pairs: Mapping[Arm, Paired]
    best: Paired
    """Against the baseline with the highest score."""
    improvement: Criterion
    score: Criterion
    significance: Criterion
    outcome: Outcome
    more_items: int


def pair(tuned: Sequence[float], baseline: Sequence[float], arm: Arm, *, seed: int = 0) -> Paired:
    """What the verdict looks at, from the scores (0 to 1) of two arms on the same items in the same order."""
    ours, theirs = np.asarray(tuned, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    differences = ours - theirs
    items = len(differences)
    wins, losses = int((differences > EPSILON).sum()), int((differences < -EPSILON).sum())
    graded = len(np.unique(np.abs(differences[differences != 0]))) > 1
    centre = differences.sum() / (items + 2)
    spread = math.sqrt(((differences**2).sum() + 1) / (items + 2) - centre**2)
    half = float(norm.ppf(0.975)) * spread / math.sqrt(items + 2)
    mean = float(differences.mean())
    p_value = paired_p(ours, theirs, seed=seed)
    tail = p_value / 2 if mean > 0 else 1 - p_value / 2
    return Paired(
        baseline=arm,
        items=items,
        score=wilson(float(ours.sum()), items),
        baseline_score=float(theirs.mean()),
        difference=Interval(
            value=mean, low=max(-1.0, min(centre - half, mean)), high=min(1.0, max(centre + half, mean))
        ),
        wins=wins,
        losses=losses,
        p_value=p_value,
        p_exact=mcnemar(wins, losses),
        equal_does_as_well=tail if graded else float(binom.sf(wins - 1, wins + losses, 0.5)),
        spread=spread,
        graded=graded,
    )


def assess(
    tuned: Sequence[float], baselines: Mapping[Arm, Sequence[float]], config: EvaluationConfig
) -> Assessment:
    """What an arm's scores say against each baseline's on the same items; the best baseline counts."""
    pairs = {arm: pair(tuned, scores, arm, seed=config.seed) for arm, scores in baselines.items()}
    best = max(pairs.values(), key=lambda paired: paired.baseline_score)
    improvement, score = _improvement(best, config.min_improvement), _score(best, config)
    significance = _significance(best, config)
    criteria = (improvement, score, significance)
    outcome: Outcome = (
        "FAIL" if "missed" in criteria else "PASS" if set(criteria) == {"met"} else "NOT ENOUGH DATA"
    )
    more = _more_items(best, config, criteria) if outcome == "NOT ENOUGH DATA" else 0
    return Assessment(pairs, best, improvement, score, significance, outcome, more)


def judge(
    tuned: Sequence[float],
    baselines: Mapping[Arm, Sequence[float]],
    config: EvaluationConfig,
    *,
    held_out: Sequence[float] = (),
    majority_baseline: bool = False,
    language: Language = "en",
) -> Verdict:
    """The verdict on one metric.

    Args:
        tuned: Scores of the tuned arm, 0 to 1, one per item.
        baselines: Scores of each baseline on the same items; the best one counts.
        config: Thresholds and the name of the metric.
        held_out: The tuned arm's scores on wordings never seen in training, reported beside the verdict.
        majority_baseline: The `base` arm is the most frequent label, and the reasons must say so.
        language: Of the reasons.
    """
    found = assess(tuned, baselines, config)
    best = found.best
    say = sentences(found, config, language)
    reasons = [say(f"improvement_{found.improvement}"), say(score_key(found, config))]
    reasons.append(say(significance_key(found, config)))
    if found.outcome == "NOT ENOUGH DATA":
        reasons.append(more_items_reason(say, found.more_items))
    reasons += advice(say, found, config)
    if len(held_out):
        score = say.percent(float(np.mean(held_out)))
        reasons.append(say("held_out", held_out_items=len(held_out), held_out_score=score))
    if majority_baseline:
        reasons.append(say("majority"))
    return Verdict(
        outcome=found.outcome,
        reasons=reasons,
        metric=config.metric,
        score=best.score.value,
        baseline=best.baseline,
        baseline_score=best.baseline_score,
        improvement=best.difference.value,
        p_value=best.p_value,
        p_exact=best.p_exact,
        items=best.items,
        more_items_needed=found.more_items,
    )


def _improvement(best: Paired, threshold: float) -> Criterion:
    if best.difference.value >= threshold - EPSILON:
        return "met"
    return "missed" if best.difference.high < threshold else "open"


def _score(best: Paired, config: EvaluationConfig) -> Criterion:
    shown = (
        wilson(best.score.value * best.items, best.items, 0.9).low if config.prove_score else best.score.value
    )
    if shown > config.min_score + EPSILON:
        return "met"
    return "missed" if best.score.high <= config.min_score else "open"


def _significance(best: Paired, config: EvaluationConfig) -> Criterion:
    if best.difference.value < 0 and best.p_value < config.alpha:
        return "missed"
    chance = best.p_value < config.alpha and best.equal_does_as_well < config.max_false_pass
    return "met" if chance else "open"


def _more_items(best: Paired, config: EvaluationConfig, criteria: tuple[Criterion, ...]) -> int:
    """Items beyond the present ones that likely answer each open question, at the shares seen so far."""
    z = float(norm.ppf(0.975))
    needed = [0.0]
    if criteria[0] == "open":
        needed.append(
            (z * best.spread / max(abs(best.difference.value - config.min_improvement), EPSILON)) ** 2
        )
    if criteria[1] == "open":
        share = min(max(best.score.value, 0.01), 0.99)
        needed.append(z * z * share * (1 - share) / max(abs(share - config.min_score), EPSILON) ** 2)
    if criteria[2] == "open":
        alpha = min(config.alpha, 2 * config.max_false_pass)
        if best.graded:
            quantiles = float(norm.ppf(1 - alpha / 2)) + float(norm.ppf(POWER))
            needed.append((quantiles * best.spread / max(abs(best.difference.value), EPSILON)) ** 2)
        else:
            won, lost = best.wins / best.items, best.losses / best.items
            needed.append(items_for_power(won, lost, alpha=alpha, power=POWER))
    return int(min(MOST_ITEMS, max(1, math.ceil(min(max(needed), MOST_ITEMS * 10) - best.items))))


def score_key(found: Assessment, config: EvaluationConfig) -> str:
    """Which sentence tells whether the score is high enough."""
    above = found.best.score.value > config.min_score + EPSILON
    return "score_unproven" if found.score == "open" and above else f"score_{found.score}"


def significance_key(found: Assessment, config: EvaluationConfig) -> str:
    """Which sentence tells whether the difference is chance."""
    if found.significance != "open":
        return "worse" if found.significance == "missed" else "significant"
    return "not_significant" if found.best.p_value >= config.alpha else "not_certain"


def more_items_reason(say: Sentences, more: int) -> str:
    """About how many more items would settle it, in words."""
    return say("more_items" if more < MOST_ITEMS else "more_items_capped", more=more)


def advice(say: Sentences, found: Assessment, config: EvaluationConfig) -> list[str]:
    """When fine-tuning is not the answer, says so."""
    if found.outcome == "PASS":
        return []
    rag = found.pairs.get("rag")
    if rag is not None and rag.baseline_score > config.min_score:
        return [say("retrieval_enough", rag_score=say.percent(rag.baseline_score))]
    if found.best.baseline_score + config.min_improvement > 1 + EPSILON:
        return [say("nothing_to_gain")]
    return []


def sentences(found: Assessment, config: EvaluationConfig, language: Language) -> Sentences:
    """The sentences of `verdict.yaml`, ready to be filled with what was found."""
    say, best = Sentences("verdict", language), found.best
    baseline = say.texts["arms"].get(best.baseline, best.baseline)
    say.values = {
        "metric": say.texts["metrics"][config.metric],
        "items": best.items,
        "baseline": baseline,
        "baseline_sentence": baseline[0].upper() + baseline[1:],
        "score": say.percent(best.score.value),
        "score_low": say.percent(best.score.low),
        "score_high": say.percent(best.score.high),
        "baseline_score": say.percent(best.baseline_score),
        "improvement": say.points(best.difference.value, sign="+"),
        "low": say.points(best.difference.low, sign="+"),
        "high": say.points(best.difference.high, sign="+"),
        "min_improvement": say.points(config.min_improvement),
        "min_score": say.percent(config.min_score),
        "wins": best.wins,
        "losses": best.losses,
        "p": say.p(best.p_value),
        "p_exact": say.p(best.p_exact),
        "alpha": say.number(f"{config.alpha:g}"),
        "equal": say.percent(best.equal_does_as_well),
        "max_false_pass": say.percent(config.max_false_pass),
    }
    return say
