"""Pictures: one file an image and a labelled grid of all, clipped to [0, 1] and once more each in its own range."""

from __future__ import annotations

from pathlib import Path

import torch

from ..evaluation import Scores
from ..report import colours, file_name, save_labelled, save_picture
from ..runs import write_text
from ..shapes import Images
from ..synthetic import SyntheticSet
from .formats import Format

RANGES = "unclipped/ranges.csv"


def _write(synthetic: SyntheticSet, _: Scores | None, folder: Path) -> None:
    unclipped = synthetic.unclipped()
    names = _names(synthetic)
    low, high = unclipped.amin(dim=(1, 2, 3)), unclipped.amax(dim=(1, 2, 3))
    for kind, pixels in (("clipped", unclipped.clamp(0, 1)), ("unclipped", _stretched(unclipped))):
        for name, picture in zip(names, colours(pixels), strict=True):
            save_picture(picture, folder / kind / name)
        save_labelled(pixels, synthetic.classes, folder / f"grid-{kind}.png")
    rows = [f"{name},{low:.6g},{high:.6g}" for name, low, high in zip(names, low.tolist(), high.tolist(), strict=True)]
    write_text(folder / RANGES, "\n".join(["file,black is,white is", *rows]) + "\n")


def _names(synthetic: SyntheticSet) -> list[str]:
    """`0000-apple.png` and so on: the place in the set and the most probable class."""
    labels = synthetic.hard_labels.tolist()
    return [f"{place:04d}-{file_name(synthetic.classes[label])}.png" for place, label in enumerate(labels)]


def _stretched(images: Images) -> Images:
    """Each image from its smallest value, black, to its largest, white; one of a single value is black."""
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(torch.finfo(images.dtype).tiny)


PNG = Format(
    "png",
    "clipped/0000-CLASS.png and so on with whitening undone and cut to [0, 1], unclipped/ with each image in its own range "
    f"(told by {RANGES}), and a labelled grid of each",
    _write,
)
