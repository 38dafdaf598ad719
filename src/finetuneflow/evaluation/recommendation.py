"""What to do: keep the base, use retrieval, fine-tune, or both. From what was measured, with reasons.

The ladder has four rungs, each dearer to keep up than the one before: the base model, retrieval, fine-tuning,
both. A rung is worth its price when it stands at least `min_improvement` above the best rung below that was
worth it, and not by chance (Holm over the steps that were looked at).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetuneflow.evaluation.reason_texts import Language, Sentences
from finetuneflow.evaluation.significance import holm
from finetuneflow.evaluation.verdict import EPSILON, Paired, pair
from finetuneflow.schemas.evaluation import Arm, EvaluationConfig, Recommendation

LADDER: tuple[Arm, ...] = ("base", "rag", "tuned", "tuned_rag")
CHOICES = {"base": "keep_base", "rag": "retrieval", "tuned": "fine_tune", "tuned_rag": "both"}
FASTER = 1.5
"""A rung that answers this many times as fast is worth a word."""


@dataclass(frozen=True)
class Step:
    """One rung against the one that stood before it."""

    arm: Arm
    paired: Paired
    taken: bool
    open: bool
    """Not taken, but the test set is too small to rule out what is asked for."""


def recommend(
    scores: Mapping[Arm, Sequence[float]],
    config: EvaluationConfig,
    *,
    latencies: Mapping[Arm, float] | None = None,
    language: Language = "en",
) -> Recommendation | None:
    """The recommendation with its reasons; None with fewer than two arms.

    Args:
        scores: Scores of every arm that answered, 0 to 1, on the same items in the same order.
        config: `min_improvement`, `min_score`, `alpha`, `metric`, `seed`.
        latencies: Mean seconds of an answer, by arm.
        language: Of headline and reasons.
    """
    arms = [arm for arm in LADDER if arm in scores]
    if len(arms) < 2:
        return None
    chosen, steps = _climb(arms, scores, config)
    share = {arm: sum(scores[arm]) / len(scores[arm]) for arm in arms}
    say = Sentences("recommendation", language, {"items": len(scores[arms[0]])})
    say.values |= {
        "min_improvement": say.points(config.min_improvement),
        "min_score": say.percent(config.min_score),
        "metric": say.texts["metrics"][config.metric],
    }
    if config.metric == "accuracy":
        say.texts = say.texts | {"arms": say.texts["arms"] | say.texts["classifier_arms"]}
    reasons = [_told(say, step, share, config) for step in steps]
    choice = CHOICES[chosen]
    if any(step.open for step in steps):
        choice = "undecided" if not _settled(chosen, steps) else choice
    good = share[chosen] > config.min_score + EPSILON
    if not good and choice != "undecided":
        choice = "none"
        best = max(arms, key=lambda arm: share[arm])
        reasons.append(say("none_good", arm=say.texts["arms"][best], score=say.percent(share[best])))
    if config.metric != "accuracy":
        reasons += _remarks(say, chosen, arms, steps, latencies or {}, choice)
    return Recommendation.model_validate(
        {"choice": choice, "headline": say(f"headline_{choice}"), "reasons": reasons}
    )


def _climb(
    arms: Sequence[Arm], scores: Mapping[Arm, Sequence[float]], config: EvaluationConfig
) -> tuple[Arm, list[Step]]:
    """The rung that was reached, and every step that was tried."""
    honest = holm(
        {
            (lower, upper): pair(scores[upper], scores[lower], lower, seed=config.seed).p_value
            for place, upper in enumerate(arms)
            for lower in arms[:place]
        }
    )
    chosen, steps = arms[0], []
    for arm in arms[1:]:
        paired = pair(scores[arm], scores[chosen], chosen, seed=config.seed)
        enough = paired.difference.value >= config.min_improvement - EPSILON
        taken = enough and honest[chosen, arm] < config.alpha
        room = paired.baseline_score + config.min_improvement <= 1 + EPSILON
        possible = room and paired.difference.high >= config.min_improvement
        steps.append(Step(arm, paired, taken, open=not taken and possible))
        chosen = arm if taken else chosen
    return chosen, steps


def _settled(chosen: Arm, steps: Sequence[Step]) -> bool:
    """True when every rung that is still open lies below the one that was reached."""
    reached = LADDER.index(chosen)
    return all(LADDER.index(step.arm) < reached for step in steps if step.open)


def _told(say: Sentences, step: Step, share: Mapping[Arm, float], config: EvaluationConfig) -> str:
    key = "step_taken" if step.taken else "step_open" if step.open else "step_refused"
    arms, paired = say.texts["arms"], step.paired
    arm = arms[step.arm]
    return say(
        key,
        arm=arm[0].upper() + arm[1:],
        baseline=arms[paired.baseline],
        score=say.percent(share[step.arm]),
        baseline_score=say.percent(paired.baseline_score),
        difference=say.points(paired.difference.value, sign="+"),
        low=say.points(paired.difference.low, sign="+"),
        high=say.points(paired.difference.high, sign="+"),
        p=say.p(paired.p_value),
    )


def _remarks(
    say: Sentences,
    chosen: Arm,
    arms: Sequence[Arm],
    steps: Sequence[Step],
    latencies: Mapping[Arm, float],
    choice: str,
) -> list[str]:
    """What the figures do not decide: speed, sources, and arms that did not answer."""
    found = []
    if choice == "retrieval" and "tuned" in latencies and "rag" in latencies:
        worse = any(step.arm == "tuned" and step.paired.difference.high < 0 for step in steps)
        ratio = latencies["rag"] / max(latencies["tuned"], EPSILON)
        if not worse and ratio >= FASTER:
            found.append(say("tuned_faster", ratio=say.number(f"{ratio:.1f}")))
    if choice in ("retrieval", "both"):
        found.append(say("keeps_sources"))
    if choice == "fine_tune":
        found.append(say("stable_data"))
    if "rag" not in arms and choice != "keep_base":
        found.append(say("no_retrieval_arm"))
    if "rag" in arms and "tuned_rag" not in arms and chosen in ("rag", "tuned"):
        found.append(say("no_both_arm"))
    return found
