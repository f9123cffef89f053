"""The ConvNet of the papers as a few numbers, from which networks are built and their arithmetic is counted."""

from __future__ import annotations

from typing import NamedTuple


class Convolution(NamedTuple):
    """A 3×3 convolution with padding 1 on square images."""

    inputs: int
    outputs: int
    side: int


class Net(NamedTuple):
    """`depth` × [convolution · instance norm · ReLU · average pooling] and one linear layer (METHOD §5)."""

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
        """What the linear layer reads of one image."""
        return self.width * (self.size >> self.depth) ** 2

    @property
    def parameters(self) -> int:
        """P: kernels, biases, scales and offsets of the blocks, and the linear layer."""
        blocks = sum((9 * block.inputs + 3) * block.outputs for block in self.convolutions)
        return blocks + (self.features + 1) * self.classes

    @property
    def planes(self) -> int:
        """Numbers that come out of all convolutions for one image: what norms, activations and transforms pass over."""
        return sum(block.outputs * block.side**2 for block in self.convolutions)

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """First to last."""
        return tuple(Convolution(self.width if block else self.channels, self.width, self.size >> block) for block in range(self.depth))


TINY = Net(width=4, depth=2, size=8)
"""For the tests."""
