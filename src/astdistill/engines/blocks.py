"""The ConvNet seen as blocks: what the native engine can do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from torch import nn

from ..models import ConvNet, GroupNorm

WHOLE = 16
"""What channels, and pixels, must be a multiple of: the most that a register holds."""
ROWS = 64
"""The most tiles that a kernel is multiplied by at once, where one image does not have more."""
MOST_INPUTS = 16
"""Image channels up to which the direct first convolution is the right one."""


@dataclass(frozen=True)
class Block:
    """One convolution with its norm, ReLU and pooling: where it stands, and the size of the convolution's output."""

    index: int
    inputs: int
    """Channels of the images for the first block, 0 for every other."""
    height: int
    width: int
    last: bool

    @property
    def tiles(self) -> int:
        """4×4 tiles of the convolution's output."""
        return -(-self.height // 4) * -(-self.width // 4)

    @property
    def pooled(self) -> tuple[int, int]:
        """Height and width of the block's output."""
        return self.height // 2, self.width // 2


@cache
def group_size(tiles: int, images: int, threads: int) -> int:
    """How many of so many images have their tiles multiplied together, `tiles` each.

    Enough rows for a product to repay reading its kernel, few enough for all threads to have equal work.
    """
    most = max(1, ROWS // tiles)
    return min(range(1, most + 1), key=lambda size: (-(-images // size // threads) * size, -size))


def blocks_of(module: nn.Module, shape: tuple[int, int, int]) -> list[Block] | None:
    """The blocks of a network for images `(C, H, W)`; None for a network, or a size, that the kernels cannot do."""
    if not isinstance(module, ConvNet):
        return None
    layers, (channels, height, width) = list(module.features), shape
    if len(layers) % 4 or channels > MOST_INPUTS or height * width % WHOLE:
        return None
    groups = [layers[first : first + 4] for first in range(0, len(layers), 4)]
    sizes = [(height >> k, width >> k) for k in range(len(groups) + 1)]
    if not all(_usual(*group) for group in groups) or any((h, w) != (2 * a, 2 * b) for (h, w), (a, b) in pairwise(sizes)):
        return None
    return [Block(k, 0 if k else channels, *sizes[k], last=k == len(groups) - 1) for k in range(len(groups))]


def _usual(convolution: nn.Module, norm: nn.Module, activation: nn.Module, pooling: nn.Module) -> bool:
    """Whether one block is the published one: 3×3 convolution, instance norm, ReLU, 2×2 average pooling."""
    return (
        isinstance(convolution, nn.Conv2d)
        and convolution.out_channels % WHOLE == 0
        and isinstance(norm, GroupNorm)
        and norm.num_groups == convolution.out_channels
        and norm.eps == 1e-5
        and isinstance(activation, nn.ReLU)
        and isinstance(pooling, nn.AvgPool2d)
    )
