import pytest

from finetuneflow.dataset.size_advice import size_advice


@pytest.mark.parametrize(
    ("sizes", "level", "following"),
    [
        ((9, 1, 1), "too_small", 100),
        ((45, 7, 1), "minimum", 500),
        ((45, 7, 3), "good", 2000),
        ((225, 4, 12), "enterprise", None),
        ((225, 4, 3), "optimal", 10000),
    ],
)
def test_the_size_of_a_dataset_is_judged(
    sizes: tuple[int, int, int], level: str, following: int | None
) -> None:
    advice = size_advice(*sizes)
    assert (advice.examples, advice.level, advice.next_level) == (
        sizes[0] * sizes[1] * sizes[2],
        level,
        following,
    )
    assert str(advice.examples) in advice.message
    assert "Avec 2 formulations" in size_advice(45, 7, 1).message
