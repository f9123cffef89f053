"""What is seen of a stored image: all of it, random circular crops of a texture, or the sub-images of a slot.

Textures: X lies on a torus larger than what a network sees, and every step sees random circular crops of it.

As in the code released with MTT (arXiv 2203.11932) and in Cazenavette et al., Wearable ImageNet: Synthesizing Tileable
Textures via Dataset Distillation, CVPR Workshops 2022. A torus has no borders, so that what is learned on it can be
tiled without a seam.

Slots: a stored image holds r × r sub-images of a smaller size, each of which is enlarged to a whole image before it is
used, as in Kim et al., Dataset Condensation via Efficient Synthetic-Data Parameterization (IDC, arXiv 2205.14959).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from pydantic import Field, model_serializer
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

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
    """How much larger than an image a canvas is, and how often a step looks at it; or how many sub-images a slot has.
    With `canvas` and `factor` 1 images are ordinary ones; one of both is 1."""

    canvas: int = Field(default=1, ge=1)
    """k: a canvas is k H × k W pixels."""
    samples: int = Field(default=1, ge=1)
    """Crops of each canvas in one step."""
    factor: int = Field(default=1, ge=1)
    """r: a stored image is a slot of r × r sub-images."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[TextureSpec], dict[str, Any]]) -> dict[str, Any]:
        """The factor is written where there is one, so that digests of earlier versions stay."""
        return {name: value for name, value in handler(self).items() if name != "factor" or value != 1}

    @property
    def cells(self) -> int:
        """Images that a canvas, or a slot, has room for: k² or r²."""
        return (self.canvas * self.factor) ** 2

    @property
    def looks(self) -> int:
        """Images that a network sees of each stored one in a pass over all of them."""
        return self.samples * self.factor**2

    @property
    def per_slot(self) -> int:
        """Sub-images of a stored image: r²."""
        return self.factor**2

    def decoded(self, slots: Images) -> Images:
        """The r² images of each slot in turn, `[N r², C, H, W]` from `[N, C, H, W]`, enlarged bilinearly.

        Differentiable in the slots. Canvases and ordinary images are themselves.
        """
        if self.factor == 1:
            return slots
        return interpolate(self.cut(slots), size=slots.shape[2:], mode="bilinear", align_corners=False)

    def encoded_gradient(self, slots: Images, slopes: Images) -> Images:
        """The derivative with respect to the slots, `[N, C, H, W]`, from that with respect to what `decoded` makes of
        them."""
        if self.factor == 1:
            return slopes
        slots = slots.detach().requires_grad_()
        return torch.autograd.grad(self.decoded(slots), slots, slopes)[0]

    def for_each(self, rows: Tensor) -> Tensor:
        """What belongs to a stored image, such as its target, once for each of its sub-images."""
        if self.factor == 1:
            return rows
        return rows.repeat_interleave(self.per_slot, dim=0)

    def fitted(self, images: Images, size: tuple[int, int]) -> Images:
        """Images in the size of a cell, where `size` (height, width) is that of a whole image: made smaller by means of
        pixels, or larger bilinearly."""
        wanted = size[0] // self.factor, size[1] // self.factor
        shape = images.shape[2], images.shape[3]
        if shape == wanted:
            return images
        if shape > wanted:
            return adaptive_avg_pool2d(images, wanted)
        return interpolate(images, size=wanted, mode="bilinear", align_corners=False)

    @property
    def _side(self) -> int:
        """Cells along a side."""
        return self.canvas * self.factor

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
        """Canvases `[N, C, k H, k W]` of each k² images in turn, row by row, from images `[N k², C, H, W]`; or slots of
        r² sub-images each."""
        cells = images.unflatten(0, (-1, self._side, self._side))
        return cells.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def cut(self, canvases: Images) -> Images:
        """The cells `[N k², C, H, W]` of canvases `[N, C, k H, k W]`, or the sub-images of slots: what `tiled` made
        them from."""
        cells = canvases.unflatten(3, (self._side, -1)).unflatten(2, (self._side, -1))
        return cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)

    def averaged(self, network: Callable[[Params, Batch], Logits]) -> Callable[[Params, Images], Logits]:
        """The network as a function of stored images: the mean of the logits of a canvas's k² cells, or of a slot's r²
        images."""

        def mean(theta: Params, stored: Images) -> Logits:
            seen = self.decoded(stored)
            if self.factor == 1:
                seen = self.cut(stored)
            return network(theta, seen).unflatten(0, (-1, self.cells)).mean(dim=1)

        return mean

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
                sums, there = torch.zeros_like(canvases), torch.zeros_like(weights)
                sums[:, :, :height, :width], there[:height, :width] = weight * invert(window), weight
                total += sums.roll((top, left), (2, 3))
                weights += there.roll((top, left), (0, 1))
        return total / weights


ORDINARY = TextureSpec()
"""Neither torus nor slot: every image is seen whole."""


def _bump(side: int, like: Tensor) -> Tensor:
    """[side]: sin² of the way across, positive everywhere."""
    return torch.sin(math.pi * (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side).square()
