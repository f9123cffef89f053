"""Views of a stored image: the whole image, random circular crops of a texture, or the sub-images of a slot.

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
    """The views of B images: each image as a whole."""

    def __call__(self, images: Batch) -> Batch:
        """The views of `images`."""
        return images

    def to(self, device: torch.device | str) -> Crops:
        """The same crops with their tensors on `device`."""
        return self


@dataclass(frozen=True, eq=False)
class CircularCrops(Crops):
    """Crops of B canvases: `size` (height, width) pixels down and right of the corners (`rows`, `columns`) `[B]`,
    wrapping around the torus."""

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
    """The size of a canvas in images and its crops in a step, or the number of sub-images of a slot. With `canvas` and
    `factor` 1 images are ordinary ones; at least one of the two is 1."""

    canvas: int = Field(default=1, ge=1)
    """k: a canvas is k H × k W pixels."""
    samples: int = Field(default=1, ge=1)
    """Crops of each canvas in one step."""
    factor: int = Field(default=1, ge=1)
    """r: a stored image is a slot of r × r sub-images."""

    @model_serializer(mode="wrap")
    def _omit_default_factor(self, handler: Callable[[TextureSpec], dict[str, Any]]) -> dict[str, Any]:
        """Omit a factor of 1, so that digests equal those of earlier versions."""
        return {name: value for name, value in handler(self).items() if name != "factor" or value != 1}

    @property
    def cells(self) -> int:
        """Images that fit on a canvas or in a slot: k² or r²."""
        return (self.canvas * self.factor) ** 2

    @property
    def looks(self) -> int:
        """Images that a network sees of each stored image in one pass over the set."""
        return self.samples * self.factor**2

    @property
    def per_slot(self) -> int:
        """Sub-images of a stored image: r²."""
        return self.factor**2

    def decoded(self, slots: Images) -> Images:
        """The r² images of each slot in turn, `[N r², C, H, W]` from `[N, C, H, W]`, enlarged bilinearly.

        Differentiable in the slots. Canvases and ordinary images are returned unchanged.
        """
        if self.factor == 1:
            return slots
        return interpolate(self.cut(slots), size=slots.shape[2:], mode="bilinear", align_corners=False)

    def encoded_gradient(self, slots: Images, slopes: Images) -> Images:
        """The derivative with respect to the slots, `[N, C, H, W]`, from that with respect to the `decoded` images."""
        if self.factor == 1:
            return slopes
        slots = slots.detach().requires_grad_()
        return torch.autograd.grad(self.decoded(slots), slots, slopes)[0]

    def for_each(self, rows: Tensor) -> Tensor:
        """Rows of stored images, such as their targets, repeated for each sub-image."""
        if self.factor == 1:
            return rows
        return rows.repeat_interleave(self.per_slot, dim=0)

    def fitted(self, images: Images, size: tuple[int, int]) -> Images:
        """Images resized to a cell, where `size` (height, width) is that of a whole image: reduced by average pooling,
        or enlarged bilinearly."""
        target = size[0] // self.factor, size[1] // self.factor
        shape = images.shape[2], images.shape[3]
        if shape == target:
            return images
        if shape > target:
            return adaptive_avg_pool2d(images, target)
        return interpolate(images, size=target, mode="bilinear", align_corners=False)

    @property
    def _side(self) -> int:
        """Cells along a side."""
        return self.canvas * self.factor

    def extent(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Channels, height and width of the canvas of images of `shape`."""
        return shape[0], self.canvas * shape[1], self.canvas * shape[2]

    def repeated(self, chosen: Tensor) -> Tensor:
        """The indices of the canvases of a step, repeated along the last dimension of `chosen` for each sample."""
        return torch.cat([chosen] * self.samples, dim=-1)

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Crops:
        """Crops of `size` (height, width) of `count` canvases, with uniform random corners; whole images, without
        drawing numbers, if images are ordinary."""
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
        """The cells `[N k², C, H, W]` of canvases `[N, C, k H, k W]`, or the sub-images of slots: the inverse of
        `tiled`."""
        cells = canvases.unflatten(3, (self._side, -1)).unflatten(2, (self._side, -1))
        return cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)

    def averaged(self, network: Callable[[Params, Batch], Logits]) -> Callable[[Params, Images], Logits]:
        """The network as a function of stored images: the mean of the logits of a canvas's k² cells, or of a slot's r²
        images."""

        def mean(theta: Params, stored: Images) -> Logits:
            views = self.decoded(stored)
            if self.factor == 1:
                views = self.cut(stored)
            return network(theta, views).unflatten(0, (-1, self.cells)).mean(dim=1)

        return mean

    def undone(self, canvases: Images, invert: Callable[[Images], Images]) -> Images:
        """The canvases with a preprocessing of H × W images inverted by `invert`, without a seam.

        Windows cover the torus a quarter of an image apart; each is inverted separately and weighted by sin² of the
        relative position, which falls to almost 0 at its border, because whitening ties a pixel to its whole window. A
        preprocessing of single pixels is inverted exactly, up to rounding. (On CIFAR-100 a canvas that is shifted by
        some other distance then gives the same picture to 6 %, with windows half an image apart to 23 %, cell by cell
        to 68 %.)
        """
        if self.canvas == 1:
            return invert(canvases)
        height, width = (side // self.canvas for side in canvases.shape[2:])
        weight = _sine_window(height, canvases)[:, None] * _sine_window(width, canvases)
        total, weights = torch.zeros_like(canvases), torch.zeros_like(canvases[0, 0])
        for top in range(0, self.canvas * height, max(1, height // 4)):
            for left in range(0, self.canvas * width, max(1, width // 4)):
                window = canvases.roll((-top, -left), (2, 3))[:, :, :height, :width]
                sums, window_weight = torch.zeros_like(canvases), torch.zeros_like(weights)
                sums[:, :, :height, :width], window_weight[:height, :width] = weight * invert(window), weight
                total += sums.roll((top, left), (2, 3))
                weights += window_weight.roll((top, left), (0, 1))
        return total / weights


ORDINARY = TextureSpec()
"""Neither torus nor slot: networks see whole images."""


def _sine_window(side: int, like: Tensor) -> Tensor:
    """`[side]`: sin² of the relative position, positive everywhere."""
    return torch.sin(math.pi * (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side).square()
