"""Accuracy by class, and the classes that networks confuse."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from ...evaluation.scores import RowScores
from ...runtime.text import display_name
from ..figures import COLOURS, FAINT, INK
from .drawing import panel, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUMBERED = 12
"""Up to this number of classes, each cell of the confusion matrix shows its share."""
NAMED = 30
MOST_CONFUSIONS = 6
MOST_LETTERS = 24
"""Maximum letters of a class name, which leaves room for the matrix."""
PALE, DENSEST = 0.55, 0.95
"""Opacity up to which a cell is pale enough for text in the page's colour, and opacity at the end of the scale."""
STEP = 10
"""The scale of colours runs from 0 to the largest share, rounded up to a multiple of this percentage."""


@dataclass(frozen=True)
class Confusion:
    """How often images of one class are taken for another, in percent of the class."""

    true: str
    predicted: str
    share: float


def accuracies(entry: RowScores | None, classes: Sequence[str]) -> list[tuple[str, float]]:
    """Classes with their mean accuracy in percent, in the order of the data; empty if predictions were not counted."""
    if entry is None:
        return []
    by_network = [each for each in entry.by_class if each is not None]
    means = []
    for name, values in zip(classes, zip(*by_network, strict=True), strict=False):
        present = [value for value in values if value is not None]
        if present:
            means.append((display_name(name), statistics.fmean(present)))
    return means


def confusions(entry: RowScores | None, classes: Sequence[str]) -> list[Confusion]:
    """The most frequent mistakes over all networks; empty if predictions were not counted."""
    if entry is None or entry.counts is None:
        return []
    shares = _shares(entry)
    np.fill_diagonal(shares, 0)
    names, mistakes = list(map(display_name, classes)), []
    for index in np.argsort(-shares, axis=None, kind="stable")[:MOST_CONFUSIONS]:
        row, column = divmod(int(index), len(shares))
        if shares[row, column] > 0:
            mistakes.append(Confusion(names[row], names[column], float(shares[row, column])))
    return mistakes


def matrix(entry: RowScores | None, classes: Sequence[str], name: str) -> Markup | None:
    """The confusion matrix in percent of each class, rows true, columns predicted; None if predictions were not
    counted."""
    if entry is None or entry.counts is None:
        return None
    shares = _shares(entry)
    top = max(STEP, STEP * np.ceil(shares.max() / STEP))
    figure, axes = panel(3.9, 3.9)
    axes.imshow(_shaded(shares / top), interpolation="none", aspect="equal")
    if len(shares) <= NUMBERED:
        for row, column in np.argwhere(shares >= 0.5):
            share, ink = shares[row, column], INK
            if share / top * DENSEST > PALE:
                ink = "white"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7.5, color=ink)
    _label_axes(axes, [display_name(each, MOST_LETTERS) for each in classes])
    _draw_scale(axes, top)
    return svg(figure, name, "Confusion matrix: true class by row, predicted class by column, percent of the row")


def _shaded(parts: np.ndarray) -> np.ndarray:
    """Parts of the scale `[h, w]` as colours `[h, w, 4]`: one hue with an opacity from 0, which is visible on light and
    on dark pages."""
    hue = [int(COLOURS[0][offset : offset + 2], 16) / 255 for offset in (1, 3, 5)]
    return np.dstack([np.broadcast_to(hue, (*parts.shape, 3)), DENSEST * parts])


def _draw_scale(axes: Axes, top: float) -> None:
    """Draw the scale of colours, from 0 to `top` percent, above the matrix."""
    bar = axes.inset_axes((0.2, 1.05, 0.6, 0.03))
    bar.imshow(_shaded(np.linspace(0, 1, 64)[None]), aspect="auto", extent=(0, top, 0, 1))
    bar.set_yticks([])
    bar.set_xticks([0, top / 2, top], ["0", f"{top / 2:g}", f"{top:g} %"])
    bar.xaxis.tick_top()
    bar.tick_params(labelsize=7, colors=INK, length=0, pad=2)
    for side in bar.spines.values():
        side.set(color=FAINT, linewidth=0.6)


def _label_axes(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xlabel("predicted class", fontsize=9, color=INK)
    axes.set_ylabel("true class", fontsize=9, color=INK)
    font_size = 6.5
    if len(names) <= NUMBERED:
        font_size = 8
    axes.tick_params(labelsize=font_size, colors=INK, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    if len(names) <= NAMED:
        axes.set_yticks(range(len(names)), names, parse_math=False)
        long = max(map(len, names)) > 3
        axes.set_xticks(range(len(names)), names, rotation=90 * long, parse_math=False)


def _shares(entry: RowScores) -> np.ndarray:
    counts = np.array(entry.counts, dtype=float)
    return 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
