"""A picture of the loss: training raw and smoothed, validation as measured, the best step marked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from finetuneflow.artifacts import atomic_write
from finetuneflow.schemas.run import LossPoint

Language = Literal["en", "fr"]
SMOOTHING = 0.9
BLUE, ORANGE, GREY = "#2563eb", "#d97706", "#9ca3af"


def draw(history: Sequence[LossPoint], path: Path, *, best_step: int = 0, language: Language = "en") -> bool:
    """Writes a PNG of 960 by 540 pixels; False, and no file, when there is nothing to draw."""
    train = [(point.step, point.loss) for point in history if point.loss is not None]
    validation = [(point.step, point.eval_loss) for point in history if point.eval_loss is not None]
    if not train and not validation:
        return False
    words = _words()[language]
    # Figure and canvas by hand: pyplot would keep global state and look for a display
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if train:
        steps, losses = zip(*train, strict=True)
        axes.plot(steps, losses, color=GREY, linewidth=0.8, alpha=0.7, label=words["train"])
        axes.plot(steps, smooth(losses), color=BLUE, linewidth=2, label=words["smoothed"])
    if validation:
        steps, losses = zip(*validation, strict=True)
        axes.plot(
            steps, losses, color=ORANGE, linewidth=1.5, marker="o", markersize=4, label=words["validation"]
        )
        best = dict(validation).get(best_step)
        if best is not None:
            label = words["best"].format(step=best_step)
            axes.plot(
                [best_step], [best], "*", color=ORANGE, markersize=14, markeredgecolor="white", label=label
            )
    axes.set_xlabel(words["step"])
    axes.set_ylabel(words["loss"])
    axes.set_ylim(bottom=0)
    axes.grid(color="#e5e7eb")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_write(path, binary=True) as file:
        # no name and version of the drawing library: the same run gives the same bytes
        figure.savefig(file, format="png", metadata={"Software": None})
    return True


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential moving average, corrected for its start: the first value is the first value."""
    smoothed: list[float] = []
    average = 0.0
    for count, value in enumerate(values, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * value
        smoothed.append(average / (1 - SMOOTHING**count))
    return smoothed


@cache
def _words() -> dict[str, dict[str, str]]:
    text = (resources.files("finetuneflow.assets") / "reports" / "loss_curve.yaml").read_text(
        encoding="utf-8"
    )
    words: dict[str, dict[str, str]] = yaml.safe_load(text)
    return words
