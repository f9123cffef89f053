"""Textures: X lies on a torus larger than what a network sees, and every step sees random circular crops of it.

As in the code released with MTT (arXiv 2203.11932) and in Cazenavette et al., Wearable ImageNet: Synthesizing Tileable
Textures via Dataset Distillation, CVPR Workshops 2022. A torus has no borders, so that what is learned on it can be
tiled without a seam.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from ..runtime.config import Record
from ..runtime.seeds import to_device
from ..runtime.shapes import Batch, Images, Logits, Params
from .augmentation import pixels_at


@dataclass(frozen=True, eq=False)
class Crops:
    """What is seen of each of B images: all of it."""

    def __call__(self, images: Batch) -> Batch:
        """What is seen of `images`."""
        return images

    def to(self, device: torch.device | str) -> Crops:
        """The same crops with their numbers on `device`."""
        return self


@dataclass(frozen=True, eq=False)
class CircularCrops(Crops):
    """What is seen of each of B canvases: `size` (height, width) pixels down and right of a corner `[B]`, going round
    the torus."""

    size: tuple[int, int]
    rows: Int[Tensor, " B"]
    columns: Int[Tensor, " B"]

    def __call__(self, images: Batch) -> Batch:
        """The crops `[B, C, height, width]`, in one gather; differentiable in the canvases, of which no pixel is read
        twice."""
        height, width = images.shape[2:]
        rows = (torch.arange(self.size[0], device=images.device) + self.rows[:, None]) % height
        columns = (torch.arange(self.size[1], device=images.device) + self.columns[:, None]) % width
        return pixels_at(images, rows, columns)

    def to(self, device: torch.device | str) -> CircularCrops:
        return CircularCrops(self.size, to_device(self.rows, device), to_device(self.columns, device))


class TextureSpec(Record):
    """How much larger than an image a canvas is, and how often a step looks at it. With `canvas` 1 images are ordinary
    ones."""

    canvas: int = Field(default=1, ge=1)
    """k: a canvas is k H × k W pixels."""
    samples: int = Field(default=1, ge=1)
    """Crops of each canvas in one step."""

    @property
    def cells(self) -> int:
        """Images that a canvas has room for, k²."""
        return self.canvas**2

    def extent(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Channels, height and width of the canvas of images of `shape`."""
        return shape[0], self.canvas * shape[1], self.canvas * shape[2]

    def repeated(self, chosen: Tensor) -> Tensor:
        """The indices of the canvases that a step looks at, in the last dimension of `chosen`, once for each sample."""
        return torch.cat([chosen] * self.samples, dim=-1)

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Crops:
        """Crops of `size` (height, width) of `count` canvases, every corner as likely; ordinary images are seen whole:
        nothing is drawn."""
        if self.canvas == 1:
            return Crops()
        rows, columns = (torch.randint(self.canvas * side, (count,), generator=generator) for side in size)
        return CircularCrops(size, rows, columns)

    def tiled(self, images: Images) -> Images:
        """Canvases `[N, C, k H, k W]` of each k² images in turn, row by row, from images `[N k², C, H, W]`."""
        cells = images.unflatten(0, (-1, self.canvas, self.canvas))
        return cells.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def cut(self, canvases: Images) -> Images:
        """The cells `[N k², C, H, W]` of canvases `[N, C, k H, k W]`: what `tiled` made them from."""
        cells = canvases.unflatten(3, (self.canvas, -1)).unflatten(2, (self.canvas, -1))
        return cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)

    def averaged(self, network: Callable[[Params, Batch], Logits]) -> Callable[[Params, Images], Logits]:
        """The network as a function of canvases: the mean of the logits of a canvas's k² cells."""
        return lambda theta, canvases: network(theta, self.cut(canvases)).unflatten(0, (-1, self.cells)).mean(dim=1)

    def undone(self, canvases: Images, invert: Callable[[Images], Images]) -> Images:
        """The canvases with a preprocessing of H × W images undone by `invert`, without a seam.

        Windows go round the torus a quarter of an image apart; each is inverted by itself and counts with a weight that
        falls to almost nothing at its border, sin² of the way across, because whitening ties a pixel to its whole
        window. A preprocessing of single pixels is undone exactly, up to rounding. (On CIFAR-100 a canvas that is
        shifted by some other distance then gives the same picture to 6 %, with windows half an image apart to 23 %,
        cell by cell to 68 %.)
        """
        if self.canvas == 1:
            return invert(canvases)
        height, width = (side // self.canvas for side in canvases.shape[2:])
        weight = _bump(height, canvases)[:, None] * _bump(width, canvases)
        total, weights = torch.zeros_like(canvases), torch.zeros_like(canvases[0, 0])
        for top in range(0, self.canvas * height, max(1, height // 4)):
            for left in range(0, self.canvas * width, max(1, width // 4)):
                window = canvases.roll((-top, -left), (2, 3))[:, :, :height, :width]
                found, there = torch.zeros_like(canvases), torch.zeros_like(weights)
                found[:, :, :height, :width], there[:height, :width] = weight * invert(window), weight
                total += found.roll((top, left), (2, 3))
                weights += there.roll((top, left), (0, 1))
        return total / weights


ORDINARY = TextureSpec()
"""No torus: every image is seen whole."""


def _bump(side: int, like: Tensor) -> Tensor:
    """[side]: sin² of the way across, positive everywhere."""
    return torch.sin(math.pi * (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side).square()
