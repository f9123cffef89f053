"""Moments of an image set, summed exactly: uint8 pixels are integers, so the result does not depend on the machine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .digests import Rows, tensor_digest

MIDDLE = 128
EXACT_ROWS = 1024
"""128² × 1024 = 2²⁴: a float32 product of so many rows of uint8 − 128 is exact in whatever order it is summed."""
SUMMED = 1 << 22
"""Values that are summed at once: 1,024 images at 32 px, fewer of larger ones. Sums of bytes are exact whatever the
blocks."""


@dataclass(frozen=True)
class ChannelMoments:
    """Mean and (population) standard deviation per channel, `[C]` float64, in units of [0, 1] images."""

    mean: Float[Tensor, " C"]
    std: Float[Tensor, " C"]


@dataclass(frozen=True)
class Covariance:
    """Mean `[D]` and covariance over N − 1 `[D, D]`, float64, with a digest of both."""

    mean: Float[Tensor, " D"]
    covariance: Float[Tensor, "D D"]
    digest: str


def channel_moments(images: Rows) -> ChannelMoments:
    """The moments of every channel over all images and positions, in one pass over blocks."""
    channels = images.shape[1]
    total = torch.zeros(channels, dtype=torch.float64)
    squares = torch.zeros(channels, dtype=torch.float64)
    for block in _float64_blocks(images):
        total += block.sum(dim=(0, 2, 3))
        squares += block.square().sum(dim=(0, 2, 3))
    count = math.prod(images.shape) / channels
    unit = _unit(images)
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0)
    return ChannelMoments(mean / unit, variance.sqrt() / unit)


def covariance(images: Rows) -> Covariance:
    """Mean and covariance of the flattened images; memory: a few D×D matrices and one block, never N×D in float.

    uint8 pixels are moved by 128 towards 0 first, which changes no covariance and lets four times as many rows be
    summed exactly.
    """
    count, size, unit = images.shape[0], math.prod(images.shape[1:]), _unit(images)
    whole = images.dtype == torch.uint8
    middle = MIDDLE if whole else 0
    total = torch.zeros(size, dtype=torch.float64)
    products = torch.zeros(size, size, dtype=torch.float64)
    for start in range(0, count, EXACT_ROWS):
        block = (
            images[start : start + EXACT_ROWS]
            .detach()
            .to("cpu")
            .flatten(1)
            .to(torch.float32 if whole else torch.float64)
            - middle
        )
        total += block.sum(dim=0, dtype=torch.float64)
        products += block.T @ block
    mean = total / count
    for rows in range(0, size, EXACT_ROWS):  # in place: another D×D matrix would be the largest thing in memory
        products[rows : rows + EXACT_ROWS].sub_(torch.outer(total[rows : rows + EXACT_ROWS], mean))
    products.div_((count - 1) * unit**2)
    mean = (mean + middle) / unit
    return Covariance(
        mean, products, hashlib.sha256((tensor_digest(mean) + tensor_digest(products)).encode()).hexdigest()[:12]
    )


def _float64_blocks(images: Rows) -> Iterator[Float[Tensor, "B C H W"]]:
    rows = max(1, min(EXACT_ROWS, SUMMED // math.prod(images.shape[1:])))
    for start in range(0, images.shape[0], rows):
        yield images[start : start + rows].detach().to("cpu", torch.float64)


def _unit(images: Rows) -> float:
    """The value that stands for 1: uint8 pixels count to 255."""
    return 255.0 if images.dtype == torch.uint8 else 1.0
