"""The page's figures of one or several runs; every function gives None where there is nothing to draw."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from ...distillation.snapshots import StartMap
from ...evaluation.continual import Continual
from ...evaluation.scores import BASELINE_NAMES, deviation
from ...experts.recipe import ExpertCurve
from ...runtime.text import shown_name
from ..figures import (
    INK,
    band,
    colour,
    curve,
    draw_loss,
    draw_unmoved,
    legend,
    logarithmic,
    smoothed_over,
    tidy,
    trend,
    unwarned,
)
from ..run import RunReader
from .drawing import GROUND, panel, svg
from .gallery import is_faint, shown_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MOST_CLASSES = 6
"""Classes that get a picture of their own, at several images per class."""
MOST_NAMES = 20
"""Classes whose chosen images are drawn in the picture of all classes, with their names; of more a ring each."""
MOST_DRAWN = 12
"""Chosen images of one class that its picture draws; of more it has a ring each."""
LETTER, ROUNDS = 5.0, 300
"""About the width of a letter in points, at the size of the names; how often images that overlap are moved apart."""
MOST_POINTS = 1500
"""Points in all pictures together: more would make the page heavy and show nothing more."""


def clusters(run: RunReader, number: int) -> list[tuple[str, Markup]]:
    """Pictures with their titles: all classes in one at one image per class, else one for each of the first classes."""
    if run.start is None or run.synthetic is None:
        return []
    start, classes = run.start, run.synthetic.classes
    whole = run.synthetic.canvas == 1 and bool(run.frames) and run.frames[0].iteration == 0
    images = None  # a canvas is made of several chosen images
    if whole:
        images = shown_colours(run.frames[0].pixels, is_faint(run.frames))
    if len(start.chosen) == len(classes):
        return [("All classes", _together(start, classes, images, f"start-{number}"))]
    shown = range(min(MOST_CLASSES, len(classes)))
    pictures = []
    for label in shown:
        own = _of_class(label, len(classes), images)
        picture = _apart(start, label, own, f"start-{number}-{label}", MOST_POINTS // len(shown))
        pictures.append((shown_name(classes[label]), picture))
    return pictures


def _of_class(
    label: int, classes: int, images: UInt8[np.ndarray, "N H W 3"] | None
) -> UInt8[np.ndarray, "n H W 3"] | None:
    """The images of one class among those of all, of which each has as many."""
    if images is None:
        return None
    kept = len(images) // classes
    return images[label * kept : (label + 1) * kept]


def left_out(run: RunReader) -> int:
    """How many classes have no picture."""
    if run.start is None or run.synthetic is None or len(run.start.chosen) == len(run.synthetic.classes):
        return 0
    return max(0, len(run.synthetic.classes) - MOST_CLASSES)


def _together(
    start: StartMap, classes: Sequence[str], images: UInt8[np.ndarray, "N H W 3"] | None, name: str
) -> Markup:
    figure, axes = panel(4.6, 3.7)
    points, labels = start.together.numpy(), start.classes.numpy()
    every = max(1, len(points) // MOST_POINTS)
    for label in range(len(classes)):
        own = points[labels == label][::every]
        axes.plot(own[:, 0], own[:, 1], "o", markersize=2.8, color=colour(label), alpha=0.45, markeredgewidth=0)
    _bare(figure, axes)
    names = [""] * len(classes)
    if len(classes) <= MOST_NAMES:
        names = list(map(shown_name, classes))
    else:
        images = None
    edges = [colour(label) for label in range(len(classes))]
    _mark(axes, points[start.chosen.numpy()], images, edges, 24, names)
    return svg(figure, name, "An expert's logits of the training images in two dimensions, with the chosen images")


def _apart(start: StartMap, label: int, images: UInt8[np.ndarray, "N H W 3"] | None, name: str, most: int) -> Markup:
    figure, axes = panel(3.0, 2.6)
    own = start.classes.numpy() == label
    points, members = start.apart.numpy()[own], start.clusters.numpy()[own]
    every = max(1, len(points) // most)
    for cluster in np.unique(members):
        among = points[members == cluster][::every]
        axes.plot(
            among[:, 0], among[:, 1], "o", markersize=2.6, color=colour(int(cluster)), alpha=0.5, markeredgewidth=0
        )
    first = int(own.argmax())
    rows = start.chosen[start.classes[start.chosen] == label].numpy() - first
    edges = [colour(int(members[row])) for row in rows]
    _bare(figure, axes)
    if len(rows) > MOST_DRAWN:
        images = None
    _mark(axes, points[rows], images, edges, 24, [""] * len(rows))
    return svg(figure, name, f"Clusters of one class, number {label}, with the chosen images")


def _mark(
    axes: Axes,
    at: np.ndarray,
    images: UInt8[np.ndarray, "N H W 3"] | None,
    edges: Sequence[str],
    size: float,
    names: Sequence[str],
) -> None:
    """Each chosen image in a frame of its colour, `size` points wide, with its name beside it; a ring where the image
    is not at hand.

    Images that would cover each other are moved apart, and a line leads from each to its point.
    """
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    words = np.array([LETTER * len(name) + 4 if name else 0.0 for name in names])
    moved = _offsets(axes, at, size + 4, words)
    beside = {
        "textcoords": "offset points",
        "va": "center",
        "fontsize": 8,
        "color": INK,
        "parse_math": False,
        "zorder": 5,
    }
    for index, (point, offset) in enumerate(zip(at, moved, strict=True)):
        place = (float(point[0]), float(point[1]))
        if images is None or index >= len(images):
            axes.plot(
                *place, "o", markersize=7, markerfacecolor="none", markeredgecolor=edges[index], markeredgewidth=1.8
            )
            offset = np.zeros(2)
        else:
            picture = OffsetImage(images[index], zoom=size / images.shape[2], interpolation="nearest", dpi_cor=True)
            line = None
            if abs(offset).max() > 0.5:
                line = {"arrowstyle": "-", "color": edges[index], "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
            frame = {"edgecolor": edges[index], "linewidth": 1.6}
            axes.add_artist(
                AnnotationBbox(
                    picture, place, tuple(offset), boxcoords="offset points", pad=0.08, bboxprops=frame, arrowprops=line
                )
            )
        if names[index]:
            ground = {"boxstyle": "round,pad=0.1", "facecolor": GROUND, "edgecolor": "none", "alpha": 0.75}
            axes.annotate(names[index], place, xytext=(offset[0] + size / 2 + 4, offset[1]), bbox=ground, **beside)


def _offsets(axes: Axes, at: np.ndarray, size: float, words: np.ndarray) -> np.ndarray:
    """How far each image moves from its point, in points `[N, 2]`, so that no two overlap, names of width `words` at
    their right included.

    Pairs that overlap push each other away along the axis that needs less, until none does or they have had `ROUNDS`.
    """
    home = axes.transData.transform(at) * 72 / axes.figure.dpi
    middle = home + np.stack([words / 2, np.zeros(len(words))], axis=1)
    wide, order = size + (words[:, None] + words) / 2, np.sign(np.arange(len(at))[:, None] - np.arange(len(at)))
    for _ in range(ROUNDS):
        apart = middle[:, None] - middle
        across, up = wide - abs(apart[..., 0]), size - abs(apart[..., 1])
        overlap = (across > 0.01) & (up > 0.01) & (order != 0)
        if not overlap.any():
            break
        side = np.where(apart == 0, order[..., None], np.sign(apart))
        push = np.stack([np.where(across < up, across, 0), np.where(across < up, 0, up)], axis=-1) * side
        middle = middle + 0.4 * np.where(overlap[..., None], push, 0).sum(axis=1)
    return middle - home - np.stack([words / 2, np.zeros(len(words))], axis=1)


def _bare(figure: Figure, axes: Axes) -> None:
    """No ticks and no frame: distances between points are all that the picture says. Everything then lies where it will
    be drawn."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.08)
    for side in axes.spines.values():
        side.set_visible(False)
    with unwarned():
        figure.draw_without_rendering()


def loss(runs: Sequence[RunReader]) -> Markup | None:
    """The loss over the iterations: for one run every step and the trend, for several their trends."""
    losses = {run.name: curve(run.metrics, "loss") for run in runs}
    if not any(each.values or each.broken for each in losses.values()):
        return None
    figure, axes = panel()
    tidy(axes, "", "iteration", loss_name(runs))
    if len(runs) == 1:
        draw_loss(axes, losses[runs[0].name], runs[0].unmoved)
    else:
        for number, (name, each) in enumerate(losses.items()):
            label = f"{name}, median of {smoothed_over(len(each.values))} steps"
            axes.plot(each.iterations, trend(each.values), color=colour(number), linewidth=1.7, label=label)
        if len({run.unmoved for run in runs}) == 1:
            draw_unmoved(axes, runs[0].unmoved)
    if axes.get_legend_handles_labels()[1]:
        _legend(axes, 8)
    return svg(figure, "loss", f"{loss_name(runs).capitalize()} over the iterations")


def loss_name(runs: Sequence[RunReader]) -> str:
    """What the loss of these runs is called, by every name that it has."""
    return " or ".join(dict.fromkeys(run.step.loss_name for run in runs))


def step_size(runs: Sequence[RunReader]) -> Markup | None:
    """The learning rate η over the iterations, of the runs that learned it."""
    return _lines(
        [run for run in runs if run.learns_lr],
        "lr",
        "step-size",
        "learning rate η",
        "Learned learning rate over the iterations",
        "-",
    )


def held_out(runs: Sequence[RunReader]) -> Markup | None:
    """Accuracy on the validation split over the iterations, where it was measured."""
    return _lines(
        runs, "validation", "held-out", "held-out accuracy, %", "Accuracy on held-out images over the iterations", "o-"
    )


def _lines(runs: Sequence[RunReader], field: str, name: str, y: str, told: str, line: str) -> Markup | None:
    logged = {run.name: curve(run.metrics, field) for run in runs}
    if not any(each.values for each in logged.values()):
        return None
    figure, axes = panel()
    tidy(axes, "", "iteration", y)
    for number, (label, each) in enumerate(logged.items()):
        if not each.values:
            continue
        style = line
        if len(each.values) <= 2:
            style = "o-"
        axes.plot(each.iterations, each.values, style, color=colour(number), linewidth=1.7, markersize=3.5, label=label)
    if len(runs) > 1:
        _legend(axes, 8)
    return svg(figure, name, told)


def smoothness(runs: Sequence[RunReader]) -> Markup | None:
    """Squared step length per epoch of the experts of each run."""

    def draw(axes: Axes) -> None:
        for number, (name, curves) in enumerate(_schools(runs).items()):
            band(
                axes,
                [each.step_squared for each in curves],
                colour(number),
                "-",
                f"{name} (n = {len(curves)})",
                of_logarithm=True,
            )
        logarithmic(axes)

    told = "Squared distance that experts move in each epoch"
    return _experts(runs, draw, "‖θ$_e$ − θ$_{e-1}$‖²,  log scale", "smoothness", told)


def expert_accuracy(runs: Sequence[RunReader]) -> Markup | None:
    """Test accuracy per epoch of the same experts; of a single run also the accuracy on its training batches, dashed.

    Imported experts may have been tested by nobody; then there is no figure.
    """
    if not any(curve.test_accuracy for curves in _schools(runs).values() for curve in curves):
        return None

    def draw(axes: Axes) -> None:
        schools = _schools(runs)
        alone = len(schools) == 1
        for number, (name, curves) in enumerate(schools.items()):
            if alone:
                name = "test images"
            if all(each.test_accuracy for each in curves):
                band(axes, [each.test_accuracy for each in curves], colour(number), "-", name)
            if alone and all(each.train_accuracy for each in curves):
                band(axes, [each.train_accuracy for each in curves], colour(number), "--", "training batches")

    return _experts(runs, draw, "accuracy, %", "expert-accuracy", "Accuracy of the experts after each epoch")


def arriving(measured: Continual, name: str) -> Markup:
    """Accuracy on the classes seen, by their number: the distilled memory and those of real images, bands one deviation
    to both sides."""
    figure, axes = panel()
    tidy(axes, "", "classes seen", "accuracy on them, %")
    for number, (memory, by_step) in enumerate(measured.accuracies.items()):
        means = np.array([statistics.fmean(values) for values in by_step])
        spreads = np.array([deviation(values) or 0.0 for values in by_step])
        label = BASELINE_NAMES.get(memory, "these images")
        axes.plot(measured.seen, means, "o-", color=colour(number), linewidth=1.7, markersize=3.5, label=label)
        low, high = means - spreads, np.minimum(means + spreads, 100)
        axes.fill_between(measured.seen, low, high, color=colour(number), alpha=0.16, linewidth=0)
    axes.set_xticks(measured.seen)
    _legend(axes, 8)
    return svg(figure, name, "Accuracy on the classes seen after each step")


def _schools(runs: Sequence[RunReader]) -> dict[str, list[ExpertCurve]]:
    """The curves of every run's experts; those that several runs followed are shown once."""
    schools: dict[str, list[ExpertCurve]] = {}
    for run in runs:
        if run.experts is None or run.experts.curves in schools.values():
            continue
        name = run.experts.name
        if len(runs) > 1:
            name = f"{run.name}: {name}"
        schools[name] = run.experts.curves
    return schools


def _legend(axes: Axes, size: float) -> None:
    """The legend above the axes, where it covers nothing."""
    legend(
        axes,
        fontsize=size,
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.99),
        borderaxespad=0,
        borderpad=0.2,
        handlelength=3.2,  # a dashed line with dots is seen to be dashed
    )


def _experts(runs: Sequence[RunReader], draw: Callable[[Axes], None], y: str, name: str, told: str) -> Markup | None:
    if not _schools(runs):
        return None
    from matplotlib.ticker import MaxNLocator

    figure, axes = panel()
    tidy(axes, "", "epoch", y)
    draw(axes)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    _legend(axes, 7.5)
    return svg(figure, name, told)
