"""How smooth and how good experts are: squared step length per epoch beside accuracy, the quantity that AST is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from ..errors import InputError
from ..evaluation.tables import spread
from ..experts import ExpertCurve
from .canvas import COLOURS, blank, logarithmic, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW = 12
"""Up to so many epochs every one is marked by a dot."""


def save_quality(stores: Mapping[str, Sequence[ExpertCurve]], path: str | Path) -> None:
    """Write a PNG: squared step length (log scale) and accuracy per epoch, mean and one standard deviation over the experts of each store.

    Solid accuracy is test, dashed is train; a store of imported experts has none. Raises InputError when a store holds no expert or experts
    of different length.
    """
    for name, curves in stores.items():
        _check(name, curves)
    figure = blank(9.2, 3.7)
    steps, accuracy = figure.subplots(1, 2)
    tidy(steps, "How far an expert moves in one epoch", "epoch", "‖θ$_e$ − θ$_{e-1}$‖²,  log scale")
    tidy(accuracy, "How good it is", "epoch", "accuracy, %")
    for (name, curves), colour in zip(stores.items(), _cycle(len(stores)), strict=True):
        label = f"{name} (n = {len(curves)})"
        band(steps, [curve.step_squared for curve in curves], colour, "-", label, of_logarithm=True)
        if all(curve.test_accuracy for curve in curves):
            band(accuracy, [curve.test_accuracy for curve in curves], colour, "-", f"{name}, test" if len(stores) > 1 else "test")
        if all(curve.train_accuracy for curve in curves):
            band(accuracy, [curve.train_accuracy for curve in curves], colour, "--", f"{name}, train" if len(stores) > 1 else "train")
    logarithmic(steps)
    for axes in (steps, accuracy):
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            axes.legend(fontsize=8, frameon=False)
        else:
            axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
    save(figure, Path(path))


def quality_table(stores: Mapping[str, Sequence[ExpertCurve]]) -> Table:
    """One row a store: experts, epochs, last accuracies, and the smallest and largest mean squared step over the epochs."""
    shown = Table(
        caption="Last epoch, mean ± sample deviation over experts; squared step: range over epochs of the mean.", caption_justify="left"
    )
    for column in ("experts", "n", "epochs", "test, %", "train, %", "squared step"):
        shown.add_column(column, justify="left" if column == "experts" else "right")
    for name, curves in stores.items():
        _check(name, curves)
        steps = np.array([curve.step_squared for curve in curves]).mean(axis=0)
        tested, trained = ([values[-1] for values in lists if values] for lists in _accuracies(curves))
        shown.add_row(
            name,
            str(len(curves)),
            str(len(steps)),
            spread(tested) if tested else "–",
            spread(trained) if trained else "–",
            f"{steps.min():.2g} – {steps.max():.2g}",
        )
    return shown


def epoch_table(name: str, curves: Sequence[ExpertCurve]) -> Table:
    """One row an epoch 1 … E: train and test accuracy in percent and squared step length, mean ± sample deviation over the experts.

    An accuracy is left out (–) unless every expert has it. Raises InputError for no expert or experts of different length.
    """
    _check(name, curves)
    n = len(curves)
    over = f"mean ± sample deviation over n = {n} experts" if n > 1 else "n = 1 expert, so no deviation"
    shown = Table(caption=f"{name}: {over}; squared step: ‖θ_e − θ_(e−1)‖².", caption_justify="left")
    for column in ("epoch", "train, %", "test, %", "squared step"):
        shown.add_column(column, justify="right")
    tested, trained = map(all, _accuracies(curves))
    for epoch in range(len(curves[0].step_squared)):
        shown.add_row(
            str(epoch + 1),
            spread([curve.train_accuracy[epoch] for curve in curves]) if trained else "–",
            spread([curve.test_accuracy[epoch] for curve in curves]) if tested else "–",
            _step_spread([curve.step_squared[epoch] for curve in curves]),
        )
    return shown


def _accuracies(curves: Sequence[ExpertCurve]) -> tuple[list[list[float]], list[list[float]]]:
    """Test and train accuracies of each expert; empty where they were not measured, as of imported experts."""
    return [curve.test_accuracy for curve in curves], [curve.train_accuracy for curve in curves]


def _check(name: str, curves: Sequence[ExpertCurve]) -> None:
    lengths = {
        len(values or curve.step_squared) for curve in curves for values in (curve.step_squared, curve.test_accuracy, curve.train_accuracy)
    }
    if len(lengths) != 1 or 0 in lengths:
        found = "no expert" if not curves else f"curves of {', '.join(map(str, sorted(lengths)))} epochs"
        raise InputError(f"The store '{name}' holds {found}; give finished experts that were trained for the same number of epochs.")


def band(axes: Axes, curves: Sequence[Sequence[float]], colour: str, line: str, label: str, of_logarithm: bool = False) -> None:
    """The mean over experts and one deviation to both sides; on a log scale both are taken of the logarithm."""
    values = np.array(curves, dtype=float)
    values = np.log(np.where(values > 0, values, np.nan)) if of_logarithm else values
    mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    middle, low, high = (np.exp(each) if of_logarithm else each for each in (mean, mean - deviation, mean + deviation))
    epochs = np.arange(1, values.shape[1] + 1)
    axes.plot(epochs, middle, line, color=colour, linewidth=1.7, label=label, marker="o" if len(epochs) <= FEW else None, markersize=3.5)
    axes.fill_between(epochs, low, high, color=colour, alpha=0.16, linewidth=0)


def _cycle(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _step_spread(steps: Sequence[float]) -> str:
    """Significant digits instead of decimals, because steps range from hundredths to tens."""
    mean = f"{np.mean(steps):.3g}"
    return f"{mean} ± {np.std(steps, ddof=1):.2g}" if len(steps) > 1 else mean
