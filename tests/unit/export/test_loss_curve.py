from pathlib import Path

import pytest

from finetuneflow.export.loss_curve import draw, smooth
from finetuneflow.schemas.run import LossPoint

HISTORY = [LossPoint(step=step, loss=3 / step) for step in range(1, 60)]
HISTORY += [LossPoint(step=step, eval_loss=3 / step + 0.1) for step in (20, 40, 59)]


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


@pytest.mark.parametrize("language", ["en", "fr"])
def test_a_picture_is_drawn_light_and_the_same_every_time(tmp_path: Path, language: str) -> None:
    for name in ("a.png", "b.png"):
        assert draw(HISTORY, tmp_path / name, best_step=40, language=language)  # type: ignore[arg-type]
    assert size(tmp_path / "a.png") == (960, 540)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").stat().st_size < 100_000


def test_the_best_step_is_marked(tmp_path: Path) -> None:
    draw(HISTORY, tmp_path / "best.png", best_step=40)
    draw(HISTORY, tmp_path / "none.png")
    assert (tmp_path / "best.png").read_bytes() != (tmp_path / "none.png").read_bytes()


@pytest.mark.parametrize("history", [HISTORY[:1], HISTORY[-3:], HISTORY[:20]])
def test_short_or_one_sided_histories_are_drawn_too(tmp_path: Path, history: list[LossPoint]) -> None:
    assert draw(history, tmp_path / "a.png", best_step=59)


def test_nothing_to_draw_leaves_no_file(tmp_path: Path) -> None:
    assert not draw([], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_smoothing_starts_at_the_first_value_and_follows_slowly() -> None:
    values = smooth([2.0, 2.0, 2.0, 0.0])
    assert values[:3] == pytest.approx([2.0, 2.0, 2.0])
    assert 1.0 < values[3] < 2.0
