"""Files of a distillation to look at: the images at a few iterations, and how the initial images were chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ..data.synthetic import SyntheticSet
from ..methods.initialisation import Clusters
from ..runtime.files import load_tensors, reading, save_tensors
from ..runtime.run_dir import RunDir
from ..runtime.shapes import Logits, Targets

LEADING = "1235"
"""Iterations 5, 10, 20, 30, 50, 100, … are kept: four per decade, because images change most at the start."""
FIRST = 5
LOOKED_AT = "delete it: only the report uses it"
MOST_IMAGES = 1000
"""Largest number of images in a frame: of larger sets it has the first images of each class, at least one. Frames are
only looked at, not trained on."""


def due(iteration: int) -> bool:
    """Whether the images after `iteration` outer steps are kept; independent of the length of the run."""
    digits = str(iteration)
    return iteration == 0 or (iteration >= FIRST and digits[0] in LEADING and not digits[1:].strip("0"))


@dataclass(frozen=True)
class Frame:
    """Images at one iteration, whitening undone: pixels `[N, C, H, W]`, distributions `[N, K]`, grouped by class, and
    η."""

    iteration: int
    pixels: UInt8[Tensor, "N C H W"]
    probabilities: Targets
    lr: float

    @staticmethod
    def of(synthetic: SyntheticSet, iteration: int) -> Frame:
        """The frame of a set, with as many images of each class as a frame may have."""
        per_class = min(synthetic.ipc, max(1, MOST_IMAGES // len(synthetic.classes)))
        rows = torch.arange(len(synthetic.images)).view(-1, synthetic.ipc)[:, :per_class].flatten()
        pixels = synthetic.pixels()[rows].mul(255).round().byte()
        return Frame(iteration, pixels, synthetic.probabilities.detach().cpu()[rows], float(synthetic.lr))

    def save(self, out: Path) -> None:
        """Write `out`/course/<iteration>.safetensors."""
        tensors = {"pixels": self.pixels, "probabilities": self.probabilities}
        save_tensors(RunDir(out).frame(self.iteration), tensors, {"iteration": self.iteration, "lr": self.lr})


def read_course(out: Path) -> list[Frame]:
    """The frames of a run in order; empty if it kept none."""
    return [_read_frame(path) for path in RunDir(out).frames()]


def _read_frame(path: Path) -> Frame:
    tensors, header = load_tensors(path)
    with reading(path, "images of a run", LOOKED_AT):
        pixels, probabilities, iteration = tensors["pixels"], tensors["probabilities"], header["iteration"]
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or not pixels.numel():
            raise ValueError(f"pixels of shape {list(pixels.shape)} as {pixels.dtype}")
        if probabilities.ndim != 2 or len(probabilities) != len(pixels) or not bool(probabilities.isfinite().all()):
            raise ValueError("labels that are none")
        if type(iteration) is not int or iteration < 0:
            raise ValueError("its iteration is no count")
        return Frame(iteration, pixels, probabilities, float(header["lr"]))


def forget(out: Path, iteration: int) -> None:
    """Delete the frames beyond `iteration`: a resumed run repeats those steps."""
    for path in RunDir(out).frames():
        if int(path.stem) > iteration:
            path.unlink()


@dataclass(frozen=True)
class StartMap:
    """How the initial images were chosen, in two dimensions: one row for each training image, grouped by class.

    `together [N, 2]` are the first two principal components of an expert's logits over all images, `apart [N, 2]` those
    of each class separately; `chosen` are rows, grouped by class, in the order of the initial images.
    """

    together: Float[Tensor, "N 2"]
    apart: Float[Tensor, "N 2"]
    classes: Int[Tensor, " N"]
    clusters: Int[Tensor, " N"]
    chosen: Int[Tensor, " I"]

    @staticmethod
    def of(clusters: Sequence[Clusters]) -> StartMap:
        """The map of the clusters of every class."""
        sizes = [len(each.features) for each in clusters]
        starts = [sum(sizes[:label]) for label in range(len(sizes))]
        return StartMap(
            together=plane(torch.cat([each.features for each in clusters])),
            apart=torch.cat([plane(each.features) for each in clusters]),
            classes=torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
            clusters=torch.cat([each.clusters for each in clusters]),
            chosen=torch.cat([each.chosen + start for each, start in zip(clusters, starts, strict=True)]),
        )

    def save(self, out: Path) -> None:
        """Write `out`/initialisation.safetensors."""
        save_tensors(RunDir(out).initialisation, vars(self))

    @staticmethod
    def read(out: Path) -> StartMap | None:
        """The map of a run; None if its images were not chosen by clustering."""
        path = RunDir(out).initialisation
        if not path.exists():
            return None
        tensors = load_tensors(path)[0]
        with reading(path, "how the first images were chosen", LOOKED_AT):
            start_map = StartMap(**tensors)
            _check_map(start_map)
        return start_map


def _check_map(start_map: StartMap) -> None:
    """Raise ValueError for tensors that do not fit each other."""
    count = len(start_map.classes)
    shapes = [list(each.shape) for each in (start_map.together, start_map.apart, start_map.classes, start_map.clusters)]
    if shapes != [[count, 2], [count, 2], [count], [count]] or start_map.chosen.ndim != 1:
        raise ValueError("tensors of other shapes")
    if any(
        each.is_floating_point() or each.is_complex()
        for each in (start_map.classes, start_map.clusters, start_map.chosen)
    ):
        raise ValueError("numbers that are no counts")
    if not bool((start_map.together.isfinite() & start_map.apart.isfinite()).all()):
        raise ValueError("points that are not finite")
    if not 0 <= int(start_map.chosen.min()) <= int(start_map.chosen.max()) < count or int(start_map.classes.min()) < 0:
        raise ValueError("rows that are not there")


def plane(features: Logits) -> Float[Tensor, "N 2"]:
    """The first two principal components of `[N, D]`; zeros where there are fewer than two."""
    points = features.double() - features.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(points.T @ points)
    axes = vectors[:, values.argsort(descending=True)[:2]]
    axes = axes * torch.where(axes.sum(dim=0) < 0, -1.0, 1.0)  # the sign of an eigenvector is arbitrary
    coordinates = torch.zeros(len(points), 2, dtype=torch.float32)
    coordinates[:, : axes.shape[1]] = (points @ axes).float()
    return coordinates
