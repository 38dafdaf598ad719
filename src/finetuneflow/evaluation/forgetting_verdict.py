"""PASS, WARN or FAIL: how much of the base is lost, and the reasons in English or French."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import yaml

from finetuneflow.evaluation.significance import bootstrap_difference, holm, mcnemar, mcnemar_mid_p
from finetuneflow.schemas.forgetting import (
    Family,
    FamilyResult,
    ForgettingConfig,
    ForgettingOutcome,
    SuiteItem,
    TextChange,
)
from finetuneflow.schemas.interval import Interval

BLIND = "the base meets no request of this family: it cannot show forgetting"
SEVERITY: tuple[ForgettingOutcome, ...] = ("PASS", "WARN", "FAIL")
WORDS = {"PASS": "kept", "WARN": "warned", "FAIL": "failed"}
EPSILON = 1e-9
"""5 points are 0.05 also when they come out of a subtraction of floats."""


def family_results(
    items: Sequence[SuiteItem], base: Sequence[bool], tuned: Sequence[bool], config: ForgettingConfig
) -> list[FamilyResult]:
    """Both models on each family of the suite, in pairs; `base` and `tuned` say which items are met."""
    families = list(dict.fromkeys(item.family for item in items))
    pairs: dict[Family, list[tuple[bool, bool]]] = {family: [] for family in families}
    for item, before, after in zip(items, base, tuned, strict=True):
        pairs[item.family].append((before, after))
    wins = {family: sum(after > before for before, after in rows) for family, rows in pairs.items()}
    losses = {family: sum(after < before for before, after in rows) for family, rows in pairs.items()}
    chance = {family: mcnemar_mid_p(wins[family], losses[family]) for family in families}
    adjusted = holm(chance)
    results = []
    for family, rows in pairs.items():
        difference = bootstrap_difference(
            [after for _, after in rows], [before for before, _ in rows], seed=config.seed
        )
        met = sum(before for before, _ in rows)
        results.append(
            FamilyResult(
                family=family,
                items=len(rows),
                base=met / len(rows),
                tuned=sum(after for _, after in rows) / len(rows),
                difference=difference,
                wins=wins[family],
                losses=losses[family],
                p_value=chance[family],
                p_exact=mcnemar(wins[family], losses[family]),
                p_holm=adjusted[family],
                dropped=difference.value < -config.max_family_drop - EPSILON
                and adjusted[family] < config.alpha,
                note="" if met else BLIND,
            )
        )
    return results


def judge(
    families: Sequence[FamilyResult],
    texts: Mapping[str, TextChange],
    divergence: Interval,
    prompts: int,
    config: ForgettingConfig,
) -> tuple[ForgettingOutcome, list[str]]:
    """The verdict and its reasons, the worst first.

    A family that drops is a failure; so are bits per byte or a divergence above their threshold of failure,
    and above the lower one they are a warning.
    """
    say = _Speaker(config)
    found: list[tuple[ForgettingOutcome, str]] = [
        ("FAIL", say.family(result)) for result in families if result.dropped
    ]
    if families and not found:
        found.append(("PASS", say("families_kept", families=say.names(families))))
    blind = [result for result in families if result.note]
    if blind:
        found.append(("PASS", say("families_blind", families=say.names(blind))))
    if texts:
        worst = max(texts, key=lambda language: texts[language].rise)
        level = _level(texts[worst].rise, config.warn_bits_per_byte, config.fail_bits_per_byte)
        found.append((level, say.text(WORDS[level], worst, texts[worst])))
    level = _level(divergence.value, config.warn_divergence, config.fail_divergence)
    found.append((level, say.divergence(WORDS[level], divergence, prompts)))
    found.sort(key=lambda pair: -SEVERITY.index(pair[0]))
    return found[0][0], [reason for _, reason in found]


def _level(value: float, warn: float, fail: float) -> ForgettingOutcome:
    return "FAIL" if value > fail else "WARN" if value > warn else "PASS"


class _Speaker:
    """Fills the sentences of `forgetting.yaml` with formatted values."""

    def __init__(self, config: ForgettingConfig) -> None:
        self.french = config.language == "fr"
        self.config = config
        self.sentences = _catalogue()[config.language]

    def __call__(self, key: str, **values: object) -> str:
        limits = {
            "max_drop": self.sentences["points"].format(
                value=self.number(f"{100 * self.config.max_family_drop:g}")
            ),
            "alpha": self.number(f"{self.config.alpha:g}"),
        }
        return str(self.sentences[key]).format(**(limits | values))

    def names(self, families: Sequence[FamilyResult]) -> str:
        return ", ".join(self.sentences["families"][result.family] for result in families)

    def family(self, result: FamilyResult) -> str:
        name = str(self.sentences["families"][result.family])
        return self(
            "family_dropped",
            family=name[0].upper() + name[1:],
            base=self.percent(result.base),
            tuned=self.percent(result.tuned),
            items=result.items,
            wins=result.wins,
            losses=result.losses,
            p=self.number(f"{result.p_value:.2g}"),
        )

    def text(self, level: str, language: str, change: TextChange) -> str:
        return self(
            f"text_{level}",
            language=self.sentences["languages"].get(language, language),
            rise=self.percent(change.rise, sign="+" if level == "kept" else "-"),
            base=self.number(f"{change.base.bits_per_byte:.3f}"),
            tuned=self.number(f"{change.tuned.bits_per_byte:.3f}"),
            warn=self.percent(self.config.warn_bits_per_byte),
            fail=self.percent(self.config.fail_bits_per_byte),
        )

    def divergence(self, level: str, divergence: Interval, prompts: int) -> str:
        return self(
            f"divergence_{level}",
            prompts=prompts,
            value=self.number(f"{divergence.value:.2g}"),
            warn=self.number(f"{self.config.warn_divergence:g}"),
            fail=self.number(f"{self.config.fail_divergence:g}"),
        )

    def number(self, text: str) -> str:
        return text.replace(".", ",") if self.french else text

    def percent(self, share: float, *, sign: str = "-") -> str:
        # a narrow no-break space before the sign is French typography
        return self.number(f"{share:{sign}.1%}").replace("%", "\u202f%" if self.french else "%")


@cache
def _catalogue() -> dict[str, dict[str, Any]]:
    text = (resources.files("finetuneflow.assets") / "reports" / "forgetting.yaml").read_text(
        encoding="utf-8"
    )
    catalogue: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return catalogue
