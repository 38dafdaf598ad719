import pytest

from finetuneflow.evaluation.forgetting_suite import suite
from finetuneflow.evaluation.forgetting_verdict import BLIND, family_results, judge
from finetuneflow.schemas.forgetting import (
    FamilyResult,
    ForgettingConfig,
    ForgettingOutcome,
    TextChange,
    TextLikelihood,
)
from finetuneflow.schemas.interval import Interval

CONFIG = ForgettingConfig()
SAME = Interval(value=0.01, low=0.0, high=0.02)


def results(base: int, lost: int, won: int = 0) -> list[FamilyResult]:
    """One family of which the base meets the first `base` items; the tuned model loses and wins some."""
    items = suite(["copying"])
    before = [place < base for place in range(len(items))]
    after = [lost <= place < base + won for place in range(len(items))]
    return family_results(items, before, after, CONFIG)


def change(rise: float) -> TextChange:
    def read(bits: float) -> TextLikelihood:
        return TextLikelihood(tokens=1, bytes=1, nats=1, perplexity=1, bits_per_byte=bits)

    return TextChange(base=read(2.0), tuned=read(2.0 * (1 + rise)), rise=rise)


@pytest.mark.parametrize(
    ("lost", "won", "dropped"), [(0, 0, False), (4, 0, False), (5, 0, True), (10, 9, False), (12, 2, True)]
)
def test_a_family_drops_by_more_than_five_points_and_not_by_chance(
    lost: int, won: int, dropped: bool
) -> None:
    (family,) = results(30, lost, won)
    assert (family.losses, family.wins, family.dropped) == (lost, won, dropped)
    assert family.tuned - family.base == pytest.approx((won - lost) / 44)
    assert family.p_value <= family.p_exact


def test_a_base_that_meets_nothing_cannot_show_forgetting() -> None:
    (family,) = results(0, 0)
    assert (family.note, family.dropped) == (BLIND, False)
    outcome, reasons = judge([family], {}, SAME, 100, CONFIG)
    assert outcome == "PASS"
    assert any("cannot show forgetting: copying" in reason for reason in reasons)


def test_each_family_is_judged_alone_and_all_p_values_are_adjusted() -> None:
    items = suite(["copying", "json"])
    before = [True] * 88
    after = [False] * 6 + [True] * 38 + [False] * 3 + [True] * 41
    copying, json = family_results(items, before, after, CONFIG)
    assert (copying.family, copying.dropped) == ("copying", True)
    assert (json.family, json.losses, json.dropped) == ("json", 3, False)
    assert copying.p_holm == pytest.approx(2 * copying.p_value)


def test_a_drop_that_one_look_would_call_no_chance_may_be_chance_among_seven() -> None:
    items = suite()
    families = list(dict.fromkeys(item.family for item in items))
    worse = {item.id for item in [item for item in items if item.family == families[0]][:5]}
    results = family_results(items, [True] * len(items), [item.id not in worse for item in items], CONFIG)
    assert results[0].p_value < 0.05 < results[0].p_holm
    assert not results[0].dropped


@pytest.mark.parametrize(
    ("rise", "outcome"), [(-0.3, "PASS"), (0.05, "PASS"), (0.051, "WARN"), (0.15, "WARN"), (0.151, "FAIL")]
)
def test_bits_per_byte_warn_at_five_and_fail_at_fifteen_percent(
    rise: float, outcome: ForgettingOutcome
) -> None:
    assert judge([], {"en": change(rise)}, SAME, 100, CONFIG)[0] == outcome


def test_the_language_that_suffers_most_counts() -> None:
    outcome, reasons = judge([], {"en": change(0.2), "fr": change(-0.1)}, SAME, 100, CONFIG)
    assert outcome == "FAIL"
    assert "20.0% in English (2.000 → 2.400" in reasons[0]


@pytest.mark.parametrize(("value", "outcome"), [(0.0, "PASS"), (0.6, "WARN"), (2.5, "FAIL")])
def test_the_divergence_has_its_own_thresholds(value: float, outcome: ForgettingOutcome) -> None:
    moved = Interval(value=value, low=value, high=value)
    found, reasons = judge([], {}, moved, 100, CONFIG)
    assert found == outcome
    assert "100 neutral prompts" in reasons[0]


def test_the_worst_finding_decides_and_stands_first() -> None:
    outcome, reasons = judge(results(30, 20), {"en": change(0.08)}, SAME, 100, CONFIG)
    assert outcome == "FAIL"
    assert reasons[0].startswith("Copying: 68.2% → 22.7% of 44 requests (20 lost, 0 won")
    assert "8.0%" in reasons[1]
    assert len(reasons) == 3


def test_reasons_are_told_in_french_with_french_numbers() -> None:
    french = CONFIG.model_copy(update={"language": "fr"})
    cases = [(results(30, 20), 0.2, 3.0), (results(30, 0), 0.08, 0.6), (results(0, 0), 0.0, 0.0)]
    for families, rise, moved in cases:
        divergence = Interval(value=moved, low=moved, high=moved)
        texts = {"fr": change(rise)}
        english_outcome, english = judge(families, texts, divergence, 100, CONFIG)
        outcome, reasons = judge(families, texts, divergence, 100, french)
        assert (outcome, len(reasons)) == (english_outcome, len(english))
        assert all("{" not in reason and "." not in reason.rstrip(".") for reason in reasons)
    assert "français" in reasons[-2]
