"""The page's figures of one or several runs; every function returns None if there is nothing to draw."""

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
from ...runtime.text import display_name
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
from .gallery import is_faint, to_rgb

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MOST_CLASSES = 6
"""Maximum number of classes with a separate picture, at several images per class."""
MOST_NAMES = 20
"""Maximum number of classes for which the picture of all classes shows the chosen images and their names; with more,
each has a ring."""
MOST_DRAWN = 12
"""Maximum number of chosen images that the picture of one class shows; with more, each has a ring."""
LETTER, ROUNDS = 5.0, 300
"""Approximate width of a letter in points, at the size of the names; maximum number of rounds in which overlapping
images are moved apart."""
MOST_POINTS = 1500
"""Maximum number of points in all pictures together: more would enlarge the page and show nothing more."""


def clusters(run: RunReader, number: int) -> list[tuple[str, Markup]]:
    """Pictures with their titles: one of all classes at one image per class, otherwise one for each of the first
    classes."""
    if run.start is None or run.synthetic is None:
        return []
    start, classes = run.start, run.synthetic.classes
    from_start = run.synthetic.canvas == 1 and bool(run.frames) and run.frames[0].iteration == 0
    images = None  # a canvas is made of several chosen images
    if from_start:
        images = to_rgb(run.frames[0].pixels, is_faint(run.frames))
    if len(start.chosen) == len(classes):
        return [("All classes", _draw_all_classes(start, classes, images, f"start-{number}"))]
    labels = range(min(MOST_CLASSES, len(classes)))
    pictures = []
    for label in labels:
        class_images = _images_of_class(label, len(classes), images)
        picture = _draw_class(start, label, class_images, f"start-{number}-{label}", MOST_POINTS // len(labels))
        pictures.append((display_name(classes[label]), picture))
    return pictures


def _images_of_class(
    label: int, classes: int, images: UInt8[np.ndarray, "N H W 3"] | None
) -> UInt8[np.ndarray, "n H W 3"] | None:
    """The images of one class among those of all classes, which have equally many."""
    if images is None:
        return None
    per_class = len(images) // classes
    return images[label * per_class : (label + 1) * per_class]


def left_out(run: RunReader) -> int:
    """Number of classes without a picture."""
    if run.start is None or run.synthetic is None or len(run.start.chosen) == len(run.synthetic.classes):
        return 0
    return max(0, len(run.synthetic.classes) - MOST_CLASSES)


def _draw_all_classes(
    start: StartMap, classes: Sequence[str], images: UInt8[np.ndarray, "N H W 3"] | None, name: str
) -> Markup:
    figure, axes = panel(4.6, 3.7)
    points, labels = start.together.numpy(), start.classes.numpy()
    stride = max(1, len(points) // MOST_POINTS)
    for label in range(len(classes)):
        class_points = points[labels == label][::stride]
        axes.plot(
            class_points[:, 0],
            class_points[:, 1],
            "o",
            markersize=2.8,
            color=colour(label),
            alpha=0.45,
            markeredgewidth=0,
        )
    _remove_frame(figure, axes)
    names = [""] * len(classes)
    if len(classes) <= MOST_NAMES:
        names = list(map(display_name, classes))
    else:
        images = None
    edges = [colour(label) for label in range(len(classes))]
    _mark_chosen(axes, points[start.chosen.numpy()], images, edges, 24, names)
    return svg(figure, name, "An expert's logits of the training images in two dimensions, with the chosen images")


def _draw_class(
    start: StartMap, label: int, images: UInt8[np.ndarray, "N H W 3"] | None, name: str, max_points: int
) -> Markup:
    figure, axes = panel(3.0, 2.6)
    in_class = start.classes.numpy() == label
    points, members = start.apart.numpy()[in_class], start.clusters.numpy()[in_class]
    stride = max(1, len(points) // max_points)
    for cluster in np.unique(members):
        cluster_points = points[members == cluster][::stride]
        axes.plot(
            cluster_points[:, 0],
            cluster_points[:, 1],
            "o",
            markersize=2.6,
            color=colour(int(cluster)),
            alpha=0.5,
            markeredgewidth=0,
        )
    first = int(in_class.argmax())
    rows = start.chosen[start.classes[start.chosen] == label].numpy() - first
    edges = [colour(int(members[row])) for row in rows]
    _remove_frame(figure, axes)
    if len(rows) > MOST_DRAWN:
        images = None
    _mark_chosen(axes, points[rows], images, edges, 24, [""] * len(rows))
    return svg(figure, name, f"Clusters of one class, number {label}, with the chosen images")


def _mark_chosen(
    axes: Axes,
    points: np.ndarray,
    images: UInt8[np.ndarray, "N H W 3"] | None,
    edges: Sequence[str],
    size: float,
    names: Sequence[str],
) -> None:
    """Draw each chosen image in a frame of its colour, `size` points wide, with its name to the right; a ring if the
    image is not available.

    Images that would cover each other are moved apart, and a line leads from each to its point.
    """
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    name_widths = np.array([LETTER * len(name) + 4 if name else 0.0 for name in names])
    offsets = _offsets(axes, points, size + 4, name_widths)
    text_style = {
        "textcoords": "offset points",
        "va": "center",
        "fontsize": 8,
        "color": INK,
        "parse_math": False,
        "zorder": 5,
    }
    for index, (point, offset) in enumerate(zip(points, offsets, strict=True)):
        position = (float(point[0]), float(point[1]))
        if images is None or index >= len(images):
            axes.plot(
                *position, "o", markersize=7, markerfacecolor="none", markeredgecolor=edges[index], markeredgewidth=1.8
            )
            offset = np.zeros(2)
        else:
            picture = OffsetImage(images[index], zoom=size / images.shape[2], interpolation="nearest", dpi_cor=True)
            arrow = None
            if abs(offset).max() > 0.5:
                arrow = {"arrowstyle": "-", "color": edges[index], "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
            frame = {"edgecolor": edges[index], "linewidth": 1.6}
            axes.add_artist(
                AnnotationBbox(
                    picture,
                    position,
                    tuple(offset),
                    boxcoords="offset points",
                    pad=0.08,
                    bboxprops=frame,
                    arrowprops=arrow,
                )
            )
        if names[index]:
            ground = {"boxstyle": "round,pad=0.1", "facecolor": GROUND, "edgecolor": "none", "alpha": 0.75}
            axes.annotate(
                names[index], position, xytext=(offset[0] + size / 2 + 4, offset[1]), bbox=ground, **text_style
            )


def _offsets(axes: Axes, points: np.ndarray, size: float, name_widths: np.ndarray) -> np.ndarray:
    """Offset of each image from its point, in points `[N, 2]`, so that no two overlap, including names of width
    `name_widths` to the right of them.

    Pairs that overlap are pushed apart along the axis that needs less, until none does or after `ROUNDS` rounds.
    """
    anchors = axes.transData.transform(points) * 72 / axes.figure.dpi
    centres = anchors + np.stack([name_widths / 2, np.zeros(len(name_widths))], axis=1)
    widths, order = (
        size + (name_widths[:, None] + name_widths) / 2,
        np.sign(np.arange(len(points))[:, None] - np.arange(len(points))),
    )
    for _ in range(ROUNDS):
        difference = centres[:, None] - centres
        overlap_x, overlap_y = widths - abs(difference[..., 0]), size - abs(difference[..., 1])
        overlap = (overlap_x > 0.01) & (overlap_y > 0.01) & (order != 0)
        if not overlap.any():
            break
        direction = np.where(difference == 0, order[..., None], np.sign(difference))
        push = (
            np.stack(
                [np.where(overlap_x < overlap_y, overlap_x, 0), np.where(overlap_x < overlap_y, 0, overlap_y)], axis=-1
            )
            * direction
        )
        centres = centres + 0.4 * np.where(overlap[..., None], push, 0).sum(axis=1)
    return centres - anchors - np.stack([name_widths / 2, np.zeros(len(name_widths))], axis=1)


def _remove_frame(figure: Figure, axes: Axes) -> None:
    """Remove ticks and frame, because only distances between points have a meaning, and lay the figure out so that
    positions are final."""
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
        _legend_above(axes, 8)
    return svg(figure, "loss", f"{loss_name(runs).capitalize()} over the iterations")


def loss_name(runs: Sequence[RunReader]) -> str:
    """The name of the loss of these runs; several names are joined by "or"."""
    return " or ".join(dict.fromkeys(run.step.loss_name for run in runs))


def step_size(runs: Sequence[RunReader]) -> Markup | None:
    """The learning rate η over the iterations, of the runs that learned it."""
    return _draw_lines(
        [run for run in runs if run.learns_lr],
        "lr",
        "step-size",
        "learning rate η",
        "Learned learning rate over the iterations",
        "-",
    )


def held_out(runs: Sequence[RunReader]) -> Markup | None:
    """Accuracy on the validation split over the iterations, where it was measured."""
    return _draw_lines(
        runs, "validation", "held-out", "held-out accuracy, %", "Accuracy on held-out images over the iterations", "o-"
    )


def _draw_lines(
    runs: Sequence[RunReader], field: str, name: str, y: str, description: str, default_style: str
) -> Markup | None:
    logged = {run.name: curve(run.metrics, field) for run in runs}
    if not any(each.values for each in logged.values()):
        return None
    figure, axes = panel()
    tidy(axes, "", "iteration", y)
    for number, (label, each) in enumerate(logged.items()):
        if not each.values:
            continue
        style = default_style
        if len(each.values) <= 2:
            style = "o-"
        axes.plot(each.iterations, each.values, style, color=colour(number), linewidth=1.7, markersize=3.5, label=label)
    if len(runs) > 1:
        _legend_above(axes, 8)
    return svg(figure, name, description)


def smoothness(runs: Sequence[RunReader]) -> Markup | None:
    """Squared step length per epoch of the experts of each run."""

    def draw(axes: Axes) -> None:
        for number, (name, curves) in enumerate(_curves_by_name(runs).items()):
            band(
                axes,
                [each.step_squared for each in curves],
                colour(number),
                "-",
                f"{name} (n = {len(curves)})",
                of_logarithm=True,
            )
        logarithmic(axes)

    description = "Squared distance that experts move in each epoch"
    return _draw_experts(runs, draw, "‖θ$_e$ − θ$_{e-1}$‖²,  log scale", "smoothness", description)


def expert_accuracy(runs: Sequence[RunReader]) -> Markup | None:
    """Test accuracy per epoch of the same experts; of a single run also the accuracy on its training batches, dashed.

    None for imported experts without test accuracies.
    """
    if not any(curve.test_accuracy for curves in _curves_by_name(runs).values() for curve in curves):
        return None

    def draw(axes: Axes) -> None:
        stores = _curves_by_name(runs)
        single = len(stores) == 1
        for number, (name, curves) in enumerate(stores.items()):
            if single:
                name = "test images"
            if all(each.test_accuracy for each in curves):
                band(axes, [each.test_accuracy for each in curves], colour(number), "-", name)
            if single and all(each.train_accuracy for each in curves):
                band(axes, [each.train_accuracy for each in curves], colour(number), "--", "training batches")

    return _draw_experts(runs, draw, "accuracy, %", "expert-accuracy", "Accuracy of the experts after each epoch")


def arriving(measured: Continual, name: str) -> Markup:
    """Accuracy on the classes seen so far, by their number: that of the distilled memory and of real images, with bands
    of one deviation to both sides."""
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
    _legend_above(axes, 8)
    return svg(figure, name, "Accuracy on the classes seen after each step")


def _curves_by_name(runs: Sequence[RunReader]) -> dict[str, list[ExpertCurve]]:
    """The curves of every run's experts; those that several runs used are shown once."""
    stores: dict[str, list[ExpertCurve]] = {}
    for run in runs:
        if run.experts is None or run.experts.curves in stores.values():
            continue
        name = run.experts.name
        if len(runs) > 1:
            name = f"{run.name}: {name}"
        stores[name] = run.experts.curves
    return stores


def _legend_above(axes: Axes, size: float) -> None:
    """Draw the legend above the axes, where it covers nothing."""
    legend(
        axes,
        fontsize=size,
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.99),
        borderaxespad=0,
        borderpad=0.2,
        handlelength=3.2,  # long enough to show that a dashed line with dots is dashed
    )


def _draw_experts(
    runs: Sequence[RunReader], draw: Callable[[Axes], None], y: str, name: str, description: str
) -> Markup | None:
    if not _curves_by_name(runs):
        return None
    from matplotlib.ticker import MaxNLocator

    figure, axes = panel()
    tidy(axes, "", "epoch", y)
    draw(axes)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    _legend_above(axes, 7.5)
    return svg(figure, name, description)
