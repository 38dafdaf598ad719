"""Does the model still do what its base does? One test for each family of the forgetting suite."""

from __future__ import annotations

import pytest

from finetuneflow.evaluation.forgetting_suite import FAMILIES, suite
from finetuneflow.evaluation.forgetting_verdict import family_results
from finetuneflow.schemas.forgetting import Family, ForgettingConfig
from finetuneflow.services.model_tests import Met

CONFIG = ForgettingConfig()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_still_does_what_its_base_does(family: Family, met: Met) -> None:
    """No drop of more than five points with a paired p below 0.05."""
    before, after = met(family)
    result = family_results(suite([family]), before, after, CONFIG)[0]
    if not any(before):
        pytest.skip(f"the baseline meets none of {result.items} requests: nothing can be forgotten")
    if result.dropped:
        pytest.fail(
            f"{result.base:.1%} → {result.tuned:.1%} of {result.items} requests "
            f"({result.losses} lost, {result.wins} won, p = {result.p_value:.2g})",
            pytrace=False,
        )
