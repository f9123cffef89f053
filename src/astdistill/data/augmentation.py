"""Differentiable Siamese augmentation (DSA, arXiv 2102.08259, as trajectory matching uses it): draw the numbers, then
apply them.

For every batch one operation is drawn; its numbers are drawn per image. `apply` is then a pure function, differentiable
in the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import AfterValidator
from torch import Tensor
from torch.nn import functional as F

from ..runtime.errors import unknown
from ..runtime.seeds import to_device
from ..runtime.shapes import Batch, Targets

STRATEGY = "color_crop_cutout_flip_scale_rotate"
CROP, CUTOUT, SCALE, DEGREES = 0.125, 0.5, 1.2, 15.0


@dataclass(frozen=True, eq=False)
class Draw:
    """One operation and, for each of B images, the numbers it needs."""

    op: str
    """`color`, `crop`, `cutout`, `flip`, `scale`, `rotate` or `none`."""
    numbers: dict[str, Tensor] = field(default_factory=dict)
    """Name → one number per image [B]."""

    def to(self, device: torch.device | str) -> Draw:
        """The same draw with its numbers on `device`."""
        return Draw(self.op, {name: to_device(number, device) for name, number in self.numbers.items()})

    def shared(self, count: int) -> Draw:
        """Repeat this draw, made for one image, for each of `count` images."""
        return Draw(self.op, {name: number.expand(count) for name, number in self.numbers.items()})


def draw(strategy: str, batch: int, shape: tuple[int, int, int], generator: torch.Generator) -> Draw:
    """Draw one operation of `strategy` (names joined by `_`), all equally likely, with numbers for `batch` images of
    shape (C, H, W).

    The strategy "" or "none" gives the operation `none`. Numbers lie on the generator's device. Raises InputError for
    an unknown operation.
    """
    if strategy in ("", "none"):
        return Draw("none")
    names = strategy.split("_")
    for name in names:
        if name not in _DRAWS:
            raise unknown("augmentation", name, ["none", *_DRAWS])
    op = names[int(_integers(0, len(names) - 1, 1, generator))]
    return Draw(op, _DRAWS[op](batch, (shape[1], shape[2]), generator))


def merged(draws: Sequence[Draw]) -> Draw:
    """Merge draws of one operation into one draw, for the images of all of them, one batch after another."""
    numbers = {name: torch.cat([each.numbers[name] for each in draws]) for name in draws[0].numbers}
    return Draw(draws[0].op, numbers)


def checked(strategy: str) -> str:
    """Return the strategy unchanged. Raises InputError if one of its operations does not exist."""
    draw(strategy, 1, (1, 8, 8), torch.Generator())
    return strategy


Strategy = Annotated[str, AfterValidator(checked)]
"""Type of a record field that holds a strategy."""


def apply(images: Batch, draw: Draw) -> Batch:
    """The augmented images, of the same shape and dtype. Differentiable in the images; the draw must be on their
    device."""
    return images if draw.op == "none" else _EFFECTS[draw.op](images, draw.numbers)


@dataclass(frozen=True, eq=False)
class CutMix:
    """A rectangle and, for each of B images, the image that supplies its pixels (Yun et al., CutMix, arXiv
    1905.04899)."""

    partner: Int[Tensor, " B"]
    rows: slice
    columns: slice

    def __call__(self, images: Batch, targets: Targets) -> tuple[Batch, Targets]:
        """The images with the rectangle copied from their partners, and the distributions `[B, K]` mixed by area."""
        mixed, (height, width) = images.clone(), images.shape[2:]
        mixed[:, :, self.rows, self.columns] = images[self.partner, :, self.rows, self.columns]
        share = (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start) / (height * width)
        return mixed, (1 - share) * targets + share * targets[self.partner]

    def to(self, device: torch.device | str) -> CutMix:
        """The same rectangle and partners with the tensor on `device`."""
        return CutMix(to_device(self.partner, device), self.rows, self.columns)


def draw_cutmix(probability: float, batch: int, size: tuple[int, int], generator: torch.Generator) -> CutMix | None:
    """With `probability`, one rectangle for all images of a batch, otherwise None.

    λ is uniform in (0, 1), which is Beta(1, 1); the sides are √(1 − λ) of `size` (height, width) around a uniform
    centre, cut off at the borders.

    With probability 0 no random number is drawn.
    """
    if probability == 0 or float(_uniform(0.0, 1.0, 1, generator)) >= probability:
        return None
    partner = torch.randperm(batch, generator=generator, device=generator.device)
    fraction = math.sqrt(1 - float(_uniform(0.0, 1.0, 1, generator)))
    sides = []
    for side in size:
        centre, half = int(_integers(0, side - 1, 1, generator)), int(side * fraction) // 2
        sides.append(slice(max(0, centre - half), min(side, centre + half)))
    return CutMix(partner, *sides)


def cut_and_mixed(
    images: Batch, targets: Targets, probability: float, generator: torch.Generator
) -> tuple[Batch, Targets]:
    """Apply cutmix to a batch with `probability`; otherwise return the batch unchanged."""
    cutmix = draw_cutmix(probability, len(images), (images.shape[2], images.shape[3]), generator)
    if cutmix is None:
        return images, targets
    return cutmix.to(images.device)(images, targets)


def reach(side: int) -> int:
    """How far `crop` may shift along an axis of `side` pixels."""
    return int(CROP * side + 0.5)


def hole(side: int) -> int:
    """How long the square of `cutout` is along an axis of `side` pixels."""
    return int(CUTOUT * side + 0.5)


def pixels_at(images: Batch, rows: Int[Tensor, "B h"], columns: Int[Tensor, "B w"]) -> Float[Tensor, "B C h w"]:
    """Pixel (rows[b, i], columns[b, j]) of image b at [b, :, i, j]. Differentiable in the images."""
    source = rows[:, :, None] * images.shape[3] + columns[:, None, :]
    gathered = images.flatten(2).gather(2, source.flatten(1)[:, None].expand(-1, images.shape[1], -1))
    return gathered.unflatten(2, source.shape[1:])


def _uniform(low: float, high: float, batch: int, generator: torch.Generator) -> Tensor:
    return torch.rand(batch, generator=generator, device=generator.device, dtype=torch.float32) * (high - low) + low


def _integers(low: int, high: int, batch: int, generator: torch.Generator) -> Tensor:
    """Uniform integers from `low` to `high`, both included."""
    return torch.randint(low, high + 1, (batch,), generator=generator, device=generator.device)


def _draw_color(batch: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
    return {name: _uniform(0.0, 1.0, batch, generator) for name in ("brightness", "saturation", "contrast")}


def _draw_crop(batch: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
    return {
        name: _integers(-reach(side), reach(side), batch, generator)
        for name, side in zip(("rows", "columns"), size, strict=True)
    }


def _draw_cutout(batch: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
    # An even square has no middle pixel: one additional centre makes its two halves equally likely to be clipped.
    ends = [side - hole(side) % 2 for side in size]
    return {name: _integers(0, end, batch, generator) for name, end in zip(("row", "column"), ends, strict=True)}


def _draw_flip(batch: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
    return {"flip": _uniform(0.0, 1.0, batch, generator) < 0.5}


def _draw_scale(batch: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
    return {name: _uniform(1 / SCALE, SCALE, batch, generator) for name in ("x", "y")}


def _draw_rotate(batch: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
    return {"radians": _uniform(-math.radians(DEGREES), math.radians(DEGREES), batch, generator)}


def _color(images: Batch, numbers: dict[str, Tensor]) -> Batch:
    brightness, saturation, contrast = (
        numbers[name].to(images.dtype)[:, None, None, None] for name in ("brightness", "saturation", "contrast")
    )
    bright = images + (brightness - 0.5)
    grey = bright.mean(dim=1, keepdim=True)
    saturated = (bright - grey) * (2 * saturation) + grey
    level = saturated.mean(dim=(1, 2, 3), keepdim=True)
    return (saturated - level) * (contrast + 0.5) + level


def _crop(images: Batch, numbers: dict[str, Tensor]) -> Batch:
    """Pixel (i, j) of the result is pixel (i + rows, j + columns) of the image, or zero outside it."""
    height, width = images.shape[2:]
    above, left = reach(height), reach(width)
    # Padded by the whole reach, no source pixel is read twice: the backward pass scatters without collisions and is
    # deterministic.
    padded = F.pad(images, (left, left, above, above))
    rows = torch.arange(above, above + height, device=images.device) + numbers["rows"][:, None]
    columns = torch.arange(left, left + width, device=images.device) + numbers["columns"][:, None]
    return pixels_at(padded, rows, columns)


def _cutout(images: Batch, numbers: dict[str, Tensor]) -> Batch:
    height, width = images.shape[2:]
    return images.masked_fill(
        (_covered(height, numbers["row"])[:, :, None] & _covered(width, numbers["column"])[:, None, :])[:, None], 0.0
    )


def _covered(side: int, centre: Tensor) -> Tensor:
    """[B, side]: which pixels of an axis the square covers."""
    first = centre[:, None] - hole(side) // 2
    pixels = torch.arange(side, device=centre.device)
    return (pixels >= first) & (pixels < first + hole(side))


def _flip(images: Batch, numbers: dict[str, Tensor]) -> Batch:
    return torch.where(numbers["flip"][:, None, None, None], images.flip(3), images)


def _scale(images: Batch, numbers: dict[str, Tensor]) -> Batch:
    zero = torch.zeros_like(numbers["x"])
    return _affine(images, torch.stack([numbers["x"], zero, zero, zero, numbers["y"], zero], dim=1))


def _rotate(images: Batch, numbers: dict[str, Tensor]) -> Batch:
    cosine, sine, zero = (
        torch.cos(numbers["radians"]),
        torch.sin(numbers["radians"]),
        torch.zeros_like(numbers["radians"]),
    )
    return _affine(images, torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1))


def _affine(images: Batch, matrices: Tensor) -> Batch:
    """Bilinear samples at matrix · (x, y, 1), in coordinates that run from −1 to 1 between the corner pixels' centres;
    zeros outside."""
    grid = F.affine_grid(matrices.view(-1, 2, 3).to(images.dtype), list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


_DRAWS: dict[str, Callable[[int, tuple[int, int], torch.Generator], dict[str, Tensor]]] = {
    "color": _draw_color,
    "crop": _draw_crop,
    "cutout": _draw_cutout,
    "flip": _draw_flip,
    "scale": _draw_scale,
    "rotate": _draw_rotate,
}
_EFFECTS: dict[str, Callable[[Batch, dict[str, Tensor]], Batch]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
