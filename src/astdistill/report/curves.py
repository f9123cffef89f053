"""How a distillation went: matching loss, learned step size and validation accuracy over its iterations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from .canvas import COLOURS, FAINT, blank, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMOOTHED_OVER = 20
"""The trend is a moving median over one part in so many of the run, because single losses depend on the segment drawn."""
FEW = 30


@dataclass(frozen=True)
class Curve:
    """One logged quantity: iterations and values where it was logged and finite, and the iterations where it was not finite."""

    iterations: list[int]
    values: list[float]
    broken: list[int]


def curve(lines: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """The values of `name` in the lines of metrics.jsonl; lines without it are passed over."""
    logged = [(int(line["iteration"]), line[name]) for line in lines if line.get(name) is not None]
    finite = [(iteration, float(value)) for iteration, value in logged if math.isfinite(float(value))]
    broken = [iteration for iteration, value in logged if not math.isfinite(float(value))]
    return Curve([iteration for iteration, _ in finite], [value for _, value in finite], broken)


def save_curves(lines: Sequence[Mapping[str, Any]], path: str | Path, validation: str = "validation") -> None:
    """Write a PNG of the run's `loss` and `lr`, and of `validation` (accuracy in percent) where a line has it.

    `lines` are those of metrics.jsonl. Iterations with a loss that is not finite are ticked in red.
    Raises InputError for a run without a line.
    """
    loss, rate, tested = (curve(lines, name) for name in ("loss", "lr", validation))
    if not loss.values and not loss.broken:
        raise InputError("The run has logged no iteration, so there is no curve to draw; distill first.")
    panels = 3 if tested.values else 2
    figure = blank(4.4 * panels, 3.4)
    axes = figure.subplots(1, panels)
    tidy(axes[0], "Matching loss", "iteration", "loss")
    draw_loss(axes[0], loss)
    tidy(axes[1], "Learned step size", "iteration", "η")
    axes[1].plot(rate.iterations, rate.values, color=COLOURS[2], linewidth=1.7)
    if tested.values:
        tidy(axes[2], "Held-out accuracy", "iteration", "accuracy, %")
        axes[2].plot(tested.iterations, tested.values, "o-", color=COLOURS[1], linewidth=1.5, markersize=4)
    span = [line["iteration"] for line in lines]
    room = max(1.0, 0.03 * (max(span) - min(span)))
    for each in axes:
        each.set_xlim(min(span) - room, max(span) + room)
        each.xaxis.get_major_locator().set_params(integer=True)
    save(figure, Path(path))


def draw_loss(axes: Axes, loss: Curve) -> None:
    """Every loss as a faint dot, the trend as a line, broken iterations as red ticks at the bottom."""
    few = len(loss.values) <= FEW
    axes.plot(
        loss.iterations,
        loss.values,
        "o",
        color=COLOURS[0] if few else FAINT,
        markersize=4 if few else 2,
        alpha=1 if few else 0.5,
        linewidth=0,
    )
    middle = loss.values if few else trend(loss.values)
    axes.plot(loss.iterations, middle, color=COLOURS[0], linewidth=1.7, label=None if few else "moving median")
    if loss.broken:
        heights = np.zeros(len(loss.broken))
        label = f"not finite ({len(loss.broken)})"
        axes.plot(
            loss.broken, heights, "|", color=COLOURS[1], markersize=12, transform=axes.get_xaxis_transform(), label=label, clip_on=False
        )
    if not few or loss.broken:
        axes.legend(fontsize=8, frameon=False)


def trend(values: Sequence[float]) -> list[float]:
    """The moving median of the values, as many of them."""
    half = max(1, len(values) // SMOOTHED_OVER // 2 + 1)
    return [float(np.median(values[max(0, index - half) : index + half + 1])) for index in range(len(values))]
