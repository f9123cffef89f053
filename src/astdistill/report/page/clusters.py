"""The representative start as a picture: an expert's logits in two dimensions, and the images that were chosen where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from ...distillation.course import StartMap
from ..canvas import INK
from .drawing import panel, svg
from .figures import colour
from .folder import RunFolder
from .sprites import colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 6
"""Classes that get a picture of their own, at several images per class."""
MOST_NAMES = 20
"""Classes whose images are large and named in the picture of all classes."""
MOST_POINTS = 1500
"""Points in all pictures together: more would make the page heavy and show nothing more."""


def clusters(run: RunFolder, number: int) -> list[tuple[str, Markup]]:
    """Pictures with their titles: all classes in one at one image per class, else one for each of the first classes."""
    if run.start is None or run.synthetic is None:
        return []
    start, classes = run.start, run.synthetic.classes
    whole = run.synthetic.canvas == 1 and bool(run.frames) and run.frames[0].iteration == 0
    images = colours(run.frames[0].pixels) if whole else None  # a canvas is made of several chosen images
    if len(start.chosen) == len(classes):
        return [("All classes", _together(start, classes, images, f"start-{number}"))]
    shown = range(min(MOST_CLASSES, len(classes)))
    kept = 0 if images is None else len(images) // len(classes)
    found = []
    for label in shown:
        own = None if images is None else images[label * kept : (label + 1) * kept]
        found.append((_plain(classes[label]), _apart(start, label, own, f"start-{number}-{label}", MOST_POINTS // len(shown))))
    return found


def _together(start: StartMap, classes: Sequence[str], images: UInt8[np.ndarray, "N H W 3"] | None, name: str) -> Markup:
    figure, axes = panel(5.6, 4.4)
    points, labels = start.together.numpy(), start.classes.numpy()
    every = max(1, len(points) // MOST_POINTS)
    for label in range(len(classes)):
        own = points[labels == label][::every]
        axes.plot(own[:, 0], own[:, 1], "o", markersize=2.8, color=colour(label), alpha=0.45, markeredgewidth=0)
    few = len(classes) <= MOST_NAMES
    for label, row in enumerate(start.chosen.numpy()):
        _mark(axes, points[row], None if images is None else images[label], colour(label), 24 if few else 12)
        if few:
            place = {"xytext": (15, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(_plain(classes[label]), (points[row, 0], points[row, 1]), fontsize=8, color=INK, parse_math=False, **place)
    _bare(axes)
    return svg(figure, name, "An expert's logits of the training images in two dimensions, with the chosen images")


def _apart(start: StartMap, label: int, images: UInt8[np.ndarray, "N H W 3"] | None, name: str, most: int) -> Markup:
    figure, axes = panel(3.0, 2.6)
    own = start.classes.numpy() == label
    points, members = start.apart.numpy()[own], start.clusters.numpy()[own]
    every = max(1, len(points) // most)
    for cluster in np.unique(members):
        among = points[members == cluster][::every]
        axes.plot(among[:, 0], among[:, 1], "o", markersize=2.6, color=colour(int(cluster)), alpha=0.5, markeredgewidth=0)
    first = int(own.argmax())
    rows = start.chosen[start.classes[start.chosen] == label].numpy() - first
    for index, row in enumerate(rows):
        image = images[index] if images is not None and index < len(images) else None
        _mark(axes, points[row], image, colour(int(members[row])), 17 if len(rows) <= 12 else 11)
    _bare(axes)
    return svg(figure, name, f"Clusters of one class, number {label}, with the chosen images")


def _mark(axes: Axes, at: np.ndarray, image: UInt8[np.ndarray, "H W 3"] | None, edge: str, size: float) -> None:
    """The chosen image in a frame of its colour, `size` points wide; a ring where the image is not at hand."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    if image is None:
        axes.plot(*at, "o", markersize=7, markerfacecolor="none", markeredgecolor=edge, markeredgewidth=1.8)
        return
    picture = OffsetImage(image, zoom=size / image.shape[1], interpolation="nearest", dpi_cor=True)
    axes.add_artist(AnnotationBbox(picture, (at[0], at[1]), pad=0.08, bboxprops={"edgecolor": edge, "linewidth": 1.6}))


def _bare(axes: Axes) -> None:
    """No ticks and no frame: distances between points are all that the picture says."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.08)
    for side in axes.spines.values():
        side.set_visible(False)


def _plain(name: str) -> str:
    return name.replace("_", " ")
