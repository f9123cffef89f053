"""The arithmetic of the papers' ConvNet, counted: the operations and bytes of an epoch, an outer step or an
evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Convolution(NamedTuple):
    """A 3×3 convolution with padding 1 on square images."""

    inputs: int
    outputs: int
    side: int


class Net(NamedTuple):
    """`depth` × [convolution · instance norm · ReLU · average pooling] and one linear layer (docs/method.md §5)."""

    width: int = 128
    depth: int = 3
    size: int = 32
    channels: int = 3
    classes: int = 10

    @property
    def name(self) -> str:
        """Its name in this package."""
        return f"convnet-d{self.depth}-w{self.width}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        return self.channels, self.size, self.size

    @property
    def features(self) -> int:
        """Inputs of the linear layer for one image."""
        return self.width * (self.size >> self.depth) ** 2

    @property
    def parameters(self) -> int:
        """P: kernels, biases, scales and offsets of the blocks, and the linear layer."""
        blocks = sum((9 * block.inputs + 3) * block.outputs for block in self.convolutions)
        return blocks + (self.features + 1) * self.classes

    @property
    def planes(self) -> int:
        """Outputs of all convolutions for one image, which norms, activations and transforms process."""
        return sum(block.outputs * block.side**2 for block in self.convolutions)

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """First to last."""
        return tuple(
            Convolution(self.width if block else self.channels, self.width, self.size >> block)
            for block in range(self.depth)
        )


FLOAT = 4
"""Bytes of a float32."""


class Units(NamedTuple):
    """How often a layer's convolution work is done; the first layer passes no derivatives to its input."""

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


TRAIN, TEST = Units(first=2, inner=3), Units(first=1, inner=1)
"""A training step: forward 1, adjoints of weights and inputs 1 each, the first layer without the latter; and a forward
pass."""
PENALISED = Units(first=5, inner=6)
"""Forward 1, input gradient 1, its adjoints with respect to cotangent and weight 2, the adjoints of the forward pass 2
(first layer 1)."""
RECOMPUTE = Units(first=2 + 5, inner=3 + 8)
"""An inner step of the exact meta-gradient. Sweep 3 (first layer 2); walk 8: forward 1, its tangent 2, input adjoint 1
and its tangent 2, weight adjoint's tangent 2 (first layer 5: forward 1, tangent 1, weight adjoint 1, image adjoint 2).
"""
FIRST_ORDER = Units(first=2 + 4, inner=3 + 6)
"""The same walk without the tangent of the weight adjoint."""


def convnet_work(net: Net, units: Units, images: int) -> Work:
    """The convolutions and the linear layer of `net` on one batch of `images`; the linear layer counts as an inner
    one."""
    total = layer_work(net.features, net.classes, 1, 1, images).times(units.inner)
    for block, (inputs, outputs, side) in enumerate(net.convolutions):
        total = total + layer_work(inputs, outputs, side, 9, images).times(units.inner if block else units.first)
    return total


def layer_work(inputs: int, outputs: int, side: int, kernel: int, images: int) -> Work:
    pixels = images * side * side
    return Work(
        2 * pixels * inputs * outputs * kernel, FLOAT * (pixels * (inputs + outputs) + inputs * outputs * kernel)
    )
