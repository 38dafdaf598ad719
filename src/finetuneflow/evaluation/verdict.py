"""The answer to "is it better?": PASS, FAIL or NOT ENOUGH DATA, with reasons.

Three things are asked for: at least `min_improvement` over the best baseline, a score above `min_score`, and
a paired difference with p below `alpha`. All three: PASS. One of them ruled out by the data (its 95 %
interval lies on the wrong side): FAIL. Otherwise the test set is too small to tell, and the verdict says
about how many more items would settle it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np
import yaml
from scipy.stats import norm

from finetuneflow.evaluation.significance import items_for_power, mcnemar, wilson
from finetuneflow.schemas.evaluation import Arm, EvaluationConfig, Outcome, Verdict
from finetuneflow.schemas.interval import Interval

Language = Literal["en", "fr"]
Criterion = Literal["met", "missed", "open"]
MOST_ITEMS = 100_000
"""Above this the estimate means nothing but "too close to call"."""
EPSILON = 1e-9
"""5 points are 0.05 also when they come out of a subtraction of floats."""


@dataclass(frozen=True)
class Paired:
    """Tuned against one baseline, item by item."""

    baseline: Arm
    items: int
    score: Interval
    baseline_score: float
    difference: Interval
    """With an interval that stays honest when every pair is a tie (Agresti and Min 2005)."""
    wins: int
    losses: int
    p_value: float
    spread: float
    """Standard deviation of one paired difference."""


def pair(tuned: Sequence[float], baseline: Sequence[float], arm: Arm) -> Paired:
    """What the verdict looks at, from the scores (0 to 1) of two arms on the same items in the same order."""
    ours, theirs = np.asarray(tuned, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    differences = ours - theirs
    items = len(differences)
    wins, losses = int((differences > EPSILON).sum()), int((differences < -EPSILON).sum())
    centre = differences.sum() / (items + 2)
    spread = math.sqrt(((differences**2).sum() + 1) / (items + 2) - centre**2)
    half = float(norm.ppf(0.975)) * spread / math.sqrt(items + 2)
    mean = float(differences.mean())
    return Paired(
        baseline=arm,
        items=items,
        score=wilson(float(ours.sum()), items),
        baseline_score=float(theirs.mean()),
        difference=Interval(value=mean, low=min(centre - half, mean), high=max(centre + half, mean)),
        wins=wins,
        losses=losses,
        p_value=mcnemar(wins, losses),
        spread=spread,
    )


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
    pairs = {arm: pair(tuned, scores, arm) for arm, scores in baselines.items()}
    best = max(pairs.values(), key=lambda paired: paired.baseline_score)
    improvement = _improvement(best, config.min_improvement)
    score = _score(best, config.min_score)
    worse = best.p_value < config.alpha and best.losses > best.wins
    significance: Criterion = "missed" if worse else "met" if best.p_value < config.alpha else "open"
    criteria = (improvement, score, significance)
    outcome: Outcome = (
        "FAIL" if "missed" in criteria else "PASS" if set(criteria) == {"met"} else "NOT ENOUGH DATA"
    )
    more = _more_items(best, config, criteria) if outcome == "NOT ENOUGH DATA" else 0

    say = _Speaker(language, best, config, held_out)
    reasons = [say(f"improvement_{improvement}"), say(f"score_{score}")]
    reasons.append(say("worse" if worse else "significant" if significance == "met" else "not_significant"))
    if outcome == "NOT ENOUGH DATA":
        reasons.append(say("more_items" if more < MOST_ITEMS else "more_items_capped", more=more))
    reasons += _advice(say, pairs, best, config, outcome)
    if len(held_out):
        reasons.append(say("held_out"))
    if majority_baseline:
        reasons.append(say("majority"))
    return Verdict(
        outcome=outcome,
        reasons=reasons,
        metric=config.metric,
        score=best.score.value,
        baseline=best.baseline,
        baseline_score=best.baseline_score,
        improvement=best.difference.value,
        p_value=best.p_value,
        items=best.items,
        more_items_needed=more,
    )


def _improvement(best: Paired, threshold: float) -> Criterion:
    if best.difference.value >= threshold - EPSILON:
        return "met"
    return "missed" if best.difference.high < threshold else "open"


def _score(best: Paired, threshold: float) -> Criterion:
    if best.score.value > threshold + EPSILON:
        return "met"
    return "missed" if best.score.high <= threshold else "open"


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
        needed.append(items_for_power(best.wins / best.items, best.losses / best.items, alpha=config.alpha))
    return int(min(MOST_ITEMS, max(1, math.ceil(min(max(needed), MOST_ITEMS * 10) - best.items))))


def _advice(
    say: _Speaker, pairs: Mapping[Arm, Paired], best: Paired, config: EvaluationConfig, outcome: Outcome
) -> list[str]:
    """When fine-tuning is not the answer, says so."""
    if outcome == "PASS":
        return []
    rag = pairs.get("rag")
    if rag is not None and rag.baseline_score > config.min_score:
        return [say("retrieval_enough", rag_score=say.percent(rag.baseline_score))]
    if best.baseline_score + config.min_improvement > 1 + EPSILON:
        return [say("nothing_to_gain")]
    return []


class _Speaker:
    """Fills the sentences of `verdict.yaml` with formatted values."""

    def __init__(
        self, language: Language, best: Paired, config: EvaluationConfig, held_out: Sequence[float]
    ) -> None:
        self.language = language
        self.sentences = _catalogue()[language]
        baseline = self.sentences["arms"][best.baseline]
        self.values: dict[str, Any] = {
            "metric": self.sentences["metrics"][config.metric],
            "items": best.items,
            "baseline": baseline,
            "baseline_sentence": baseline[0].upper() + baseline[1:],
            "score": self.percent(best.score.value),
            "score_low": self.percent(best.score.low),
            "score_high": self.percent(best.score.high),
            "baseline_score": self.percent(best.baseline_score),
            "improvement": self.points(best.difference.value, sign="+"),
            "low": self.points(best.difference.low, sign="+"),
            "high": self.points(best.difference.high, sign="+"),
            "min_improvement": self.points(config.min_improvement),
            "min_score": self.percent(config.min_score),
            "wins": best.wins,
            "losses": best.losses,
            "p": self.number(f"{best.p_value:.2g}"),
            "alpha": self.number(f"{config.alpha:g}"),
            "held_out_items": len(held_out),
            "held_out_score": self.percent(float(np.mean(held_out))) if len(held_out) else "",
        }

    def __call__(self, key: str, **more: object) -> str:
        return str(self.sentences[key]).format(**(self.values | more))

    def number(self, text: str) -> str:
        return text.replace(".", ",") if self.language == "fr" else text

    def percent(self, share: float) -> str:
        # a narrow no-break space before the sign is French typography
        return self.number(f"{share:.1%}").replace("%", "\u202f%" if self.language == "fr" else "%")

    def points(self, difference: float, *, sign: Literal["+", "-"] = "-") -> str:
        value = f"{difference * 100:{sign}.1f}".removesuffix(".0")
        return str(self.sentences["points"]).format(value=self.number(value))


@cache
def _catalogue() -> dict[str, dict[str, Any]]:
    text = (resources.files("finetuneflow.assets") / "reports" / "verdict.yaml").read_text(encoding="utf-8")
    catalogue: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return catalogue
