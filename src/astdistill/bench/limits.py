"""The least time that the arithmetic allows: operations counted from shapes over this machine's own rate, or bytes over its bandwidth.

Counted are the multiplications and additions of direct convolutions and of the linear layer, in units of one forward pass of a layer:
a unit is a forward pass, the adjoint with respect to the input, or that with respect to the weight, each of the same size. Each variant
is counted with its own units. Norms, activations, pooling, augmentation and the optimiser count as nothing, as if fused into the
convolutions. Bytes are those of a unit's three tensors (input, weight, output), each moved once, in float32.

Our CPU convolutions may need fewer multiplications than direct ones (Winograd's forms do), so a share of the limit above 100 % is possible
and means that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

from .network import Net

FLOAT = 4
"""Bytes of a float32."""


class Units(NamedTuple):
    """How often a layer's convolution work is done; the first layer has no input to push derivatives on to."""

    first: int
    inner: int


@dataclass(frozen=True)
class Work:
    """Floating-point operations and bytes moved."""

    operations: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def times(self, count: float) -> Work:
        """The same work `count` times."""
        return Work(self.operations * count, self.bytes * count)


@dataclass(frozen=True)
class Rates:
    """What this machine does in a second: its best at two kinds of arithmetic, and at copying."""

    convolution_gflops: float
    """A 3×3 convolution 128 → 128 at 16×16, batch 100, float32, channels-last."""
    matmul_gflops: float
    """A product of two 2048×2048 matrices."""
    copy_gbytes: float
    """A copy of 256 MiB, read and written bytes together."""

    @property
    def gflops(self) -> float:
        """The better of the two."""
        return max(self.convolution_gflops, self.matmul_gflops)

    def seconds(self, work: Work) -> float:
        """The limit: the longer of computing and moving."""
        return max(work.operations / self.gflops, work.bytes / self.copy_gbytes) / 1e9

    def to_json(self) -> dict[str, float]:
        return asdict(self) | {"gflops": self.gflops}


def convnet_work(net: Net, units: Units, images: int) -> Work:
    """The convolutions and the linear layer of `net` on one batch of `images`; the linear layer counts as an inner one."""
    total = _layer(net.features, net.classes, 1, 1, images).times(units.inner)
    for block, (inputs, outputs, side) in enumerate(net.convolutions):
        total = total + _layer(inputs, outputs, side, 9, images).times(units.inner if block else units.first)
    return total


def _layer(inputs: int, outputs: int, side: int, kernel: int, images: int) -> Work:
    pixels = images * side * side
    return Work(2 * pixels * inputs * outputs * kernel, FLOAT * (pixels * (inputs + outputs) + inputs * outputs * kernel))


def measured_rates(repeats: int = 5) -> Rates:
    """The rates of this machine with the threads that torch now has: the best of `repeats`, since a limit is what it can do undisturbed."""
    images = torch.randn(100, 128, 16, 16).contiguous(memory_format=torch.channels_last)
    kernels = torch.randn(128, 128, 3, 3).contiguous(memory_format=torch.channels_last)
    matrix = torch.randn(2048, 2048)
    source = torch.zeros(2**26)
    target = torch.zeros_like(source)
    with torch.no_grad():
        convolution = _best(lambda: F.conv2d(images, kernels, padding=1), repeats)
        product = _best(lambda: matrix @ matrix, repeats)
        copy = _best(lambda: target.copy_(source), repeats)
    return Rates(
        _layer(128, 128, 16, 9, 100).operations / convolution / 1e9, 2 * 2048**3 / product / 1e9, 2 * FLOAT * source.numel() / copy / 1e9
    )


def best_of(several: list[Rates]) -> Rates:
    """The best of each rate."""
    return Rates(*(max(values) for values in zip(*(asdict(rates).values() for rates in several), strict=True)))


def _best(step: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls, after one that warms up."""
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])
