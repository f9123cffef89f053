"""The page's figures of one or several runs; every function gives None where there is nothing to draw."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from ...evaluation import Continual
from ...evaluation.tables import BASELINE_NAMES
from ...experts import ExpertCurve
from ..canvas import COLOURS, logarithmic, tidy
from ..curves import curve, draw_loss, trend
from ..quality import band
from .drawing import panel, svg
from .folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def colour(number: int) -> str:
    """The colour of run, store or cluster `number`."""
    return COLOURS[number % len(COLOURS)]


def loss(runs: Sequence[RunFolder]) -> Markup | None:
    """Matching loss over the iterations: for one run every step and the trend, for several their trends."""
    found = {run.name: curve(run.metrics, "loss") for run in runs}
    if not any(each.values or each.broken for each in found.values()):
        return None
    figure, axes = panel()
    tidy(axes, "", "iteration", "matching loss")
    if len(runs) == 1:
        draw_loss(axes, found[runs[0].name])
        if axes.get_legend():
            _legend(axes, 8)
    else:
        for number, (name, each) in enumerate(found.items()):
            axes.plot(each.iterations, trend(each.values), color=colour(number), linewidth=1.7, label=name)
        _legend(axes, 8)
    return svg(figure, "loss", "Matching loss over the iterations")


def step_size(runs: Sequence[RunFolder]) -> Markup | None:
    """The learned step size η over the iterations."""
    return _lines(runs, "lr", "step-size", "step size η", "Learned step size over the iterations", "-")


def held_out(runs: Sequence[RunFolder]) -> Markup | None:
    """Accuracy on the validation split over the iterations, where it was measured."""
    return _lines(runs, "validation", "held-out", "held-out accuracy, %", "Accuracy on held-out images over the iterations", "o-")


def _lines(runs: Sequence[RunFolder], field: str, name: str, y: str, told: str, line: str) -> Markup | None:
    found = {run.name: curve(run.metrics, field) for run in runs}
    if not any(each.values for each in found.values()):
        return None
    figure, axes = panel()
    tidy(axes, "", "iteration", y)
    for number, (label, each) in enumerate(found.items()):
        if each.values:
            few = "o-" if len(each.values) <= 2 else line
            axes.plot(each.iterations, each.values, few, color=colour(number), linewidth=1.7, markersize=3.5, label=label)
    if len(runs) > 1:
        _legend(axes, 8)
    return svg(figure, name, told)


def smoothness(runs: Sequence[RunFolder]) -> Markup | None:
    """Squared step length per epoch of the experts of every recipe at hand."""

    def draw(axes: Axes) -> None:
        for number, (name, curves) in enumerate(_schools(runs).items()):
            band(axes, [each.step_squared for each in curves], colour(number), "-", f"{name} (n = {len(curves)})", of_logarithm=True)
        logarithmic(axes)

    told = "Squared distance that experts move in each epoch"
    return _experts(runs, draw, "‖θ$_e$ − θ$_{e-1}$‖²,  log scale", "smoothness", told)


def expert_accuracy(runs: Sequence[RunFolder]) -> Markup | None:
    """Test accuracy per epoch of the same experts; of a single recipe also the accuracy on its training batches, dashed.

    Imported experts may have been tested by nobody; then there is no figure.
    """
    if not any(curve.test_accuracy for curves in _schools(runs).values() for curve in curves):
        return None

    def draw(axes: Axes) -> None:
        schools = _schools(runs)
        for number, (name, curves) in enumerate(schools.items()):
            alone = len(schools) == 1
            if all(each.test_accuracy for each in curves):
                band(axes, [each.test_accuracy for each in curves], colour(number), "-", "test" if alone else name)
            if alone and all(each.train_accuracy for each in curves):
                band(axes, [each.train_accuracy for each in curves], colour(number), "--", "train")

    return _experts(runs, draw, "accuracy, %", "expert-accuracy", "Accuracy of the experts after each epoch")


def arriving(found: Continual, name: str) -> Markup:
    """Accuracy on the classes seen, by their number: the distilled memory and those of real images, bands one deviation to both sides."""
    figure, axes = panel()
    tidy(axes, "", "classes seen", "accuracy on them, %")
    for number, (memory, by_step) in enumerate(found.accuracies.items()):
        means = np.array([statistics.fmean(values) for values in by_step])
        spreads = np.array([statistics.stdev(values) if len(values) > 1 else 0.0 for values in by_step])
        label = BASELINE_NAMES.get(memory, "these images")
        axes.plot(found.seen, means, "o-", color=colour(number), linewidth=1.7, markersize=3.5, label=label)
        axes.fill_between(found.seen, means - spreads, np.minimum(means + spreads, 100), color=colour(number), alpha=0.16, linewidth=0)
    axes.set_xticks(found.seen)
    _legend(axes, 8)
    return svg(figure, name, "Accuracy on the classes seen after each step")


def _schools(runs: Sequence[RunFolder]) -> dict[str, list[ExpertCurve]]:
    """The curves of every store that the runs know of; what several runs know is shown once."""
    found: dict[str, list[ExpertCurve]] = {}
    for run in runs:
        for each in run.experts:
            if each.curves not in found.values():
                found[f"{each.name}, {run.name}" if each.name in found else each.name] = each.curves
    return found


def _legend(axes: Axes, size: float) -> None:
    """The legend above the axes, where it covers nothing."""
    axes.legend(fontsize=size, frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 0.99), borderaxespad=0, borderpad=0.2)


def _experts(runs: Sequence[RunFolder], draw: Callable[[Axes], None], y: str, name: str, told: str) -> Markup | None:
    if not _schools(runs):
        return None
    from matplotlib.ticker import MaxNLocator

    figure, axes = panel()
    tidy(axes, "", "epoch", y)
    draw(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, 7.5)
    return svg(figure, name, told)
