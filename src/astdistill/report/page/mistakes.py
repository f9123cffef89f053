"""Which classes the networks read right, and what they take the others for."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from ...evaluation.scores import RowScores
from ...runtime.text import shown_name
from ..figures import COLOURS, INK
from .drawing import panel, svg

NUMBERED = 12
"""Up to so many classes every cell of the confusion matrix has its share written in it."""
NAMED = 30
MOST_CONFUSIONS = 6
MOST_LETTERS = 24
"""Of a name beside the matrix, which it must leave room for."""
PALE = 60
"""Percent up to which a cell lets enough of the page through for the page's own ink."""


@dataclass(frozen=True)
class Confusion:
    """How often images of one class are taken for another, in percent of the class."""

    true: str
    taken: str
    share: float


def accuracies(entry: RowScores | None, classes: Sequence[str]) -> list[tuple[str, float]]:
    """Classes with their mean accuracy in percent, best first; empty where nobody counted."""
    if entry is None:
        return []
    kept = [each for each in entry.by_class if each is not None]
    means = []
    for name, values in zip(classes, zip(*kept, strict=True), strict=False):
        present = [value for value in values if value is not None]
        if present:
            means.append((shown_name(name), statistics.fmean(present)))
    return sorted(means, key=lambda each: -each[1])


def confusions(entry: RowScores | None, classes: Sequence[str]) -> list[Confusion]:
    """The most frequent mistakes over all networks; empty where nobody counted."""
    if entry is None or entry.counts is None:
        return []
    shares = _shares(entry)
    np.fill_diagonal(shares, 0)
    names, mistakes = [shown_name(name) for name in classes], []
    for place in np.argsort(-shares, axis=None, kind="stable")[:MOST_CONFUSIONS]:
        row, column = divmod(int(place), len(shares))
        if shares[row, column] > 0:
            mistakes.append(Confusion(names[row], names[column], float(shares[row, column])))
    return mistakes


def matrix(entry: RowScores | None, classes: Sequence[str], name: str) -> Markup | None:
    """The confusion matrix in percent of each class, rows true, columns read; None where nobody counted."""
    if entry is None or entry.counts is None:
        return None
    shares = _shares(entry)
    count = len(shares)
    figure, axes = panel(3.9, 3.6)
    # One hue whose opacity is the share reads on light and on dark pages alike.
    hue = tuple(int(COLOURS[0][place : place + 2], 16) / 255 for place in (1, 3, 5))
    cells = np.dstack([np.broadcast_to(np.array(hue), (count, count, 3)), np.sqrt(shares / 100) * 0.95])
    axes.imshow(cells, interpolation="none", aspect="equal")
    if count <= NUMBERED:
        for row, column in np.argwhere(shares >= 0.5):
            share, ink = shares[row, column], INK
            if share > PALE:
                ink = "white"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7.5, color=ink)
    _named(axes, [shown_name(each, MOST_LETTERS) for each in classes])
    return svg(figure, name, "Confusion matrix: true class by row, predicted class by column, percent of the row")


def _named(axes, names: Sequence[str]) -> None:
    axes.set_xlabel("predicted class", fontsize=9, color=INK)
    axes.set_ylabel("true class", fontsize=9, color=INK)
    letters = 6.5
    if len(names) <= NUMBERED:
        letters = 8
    axes.tick_params(labelsize=letters, colors=INK, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    if len(names) <= NAMED:
        axes.set_yticks(range(len(names)), names, parse_math=False)
        long = max(map(len, names)) > 3
        axes.set_xticks(range(len(names)), names, rotation=90 * long, parse_math=False)


def _shares(entry: RowScores) -> np.ndarray:
    counts = np.array(entry.counts, dtype=float)
    return 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
