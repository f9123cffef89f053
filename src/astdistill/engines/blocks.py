"""The ConvNet seen as blocks: what the native engine can do, and the parameters in the form that its kernels read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..models import ConvNet, FlatModel, GroupNorm
from ..shapes import Params

LANES = 16
"""Channels in a block of `kernels/`."""
MOST_INPUTS = 16
"""Image channels up to which the direct first convolution is the right one."""

# Winograd's G of F(4x4, 3x3) (Lavin & Gray, arXiv 1509.09308); one weight becomes G w G^T.
_G = torch.tensor(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
)
_GG = torch.einsum("ax,by->abxy", _G, _G).reshape(36, 9)


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


@dataclass(frozen=True)
class BlockWeights:
    """The parameters of one block, or a direction in them."""

    kernel: Tensor | None
    """First block: [channels / 16, 9 inputs, 16]. Others: the transformed kernel [36, channels in, channels out]. None: no direction."""
    bias: Tensor
    gamma: Tensor
    beta: Tensor


@dataclass(frozen=True)
class Weights:
    """θ, or a direction in it, taken apart."""

    blocks: list[BlockWeights]
    linear: Tensor
    """[K, features]"""
    bias: Tensor


def blocks_of(module: nn.Module, shape: tuple[int, int, int]) -> list[Block] | None:
    """The blocks of a network for images `(C, H, W)`; None for a network, or a size, that the kernels cannot do."""
    if not isinstance(module, ConvNet):
        return None
    layers, (channels, height, width) = list(module.features), shape
    if len(layers) % 4 or channels > MOST_INPUTS or height * width % LANES:
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
        and convolution.out_channels % LANES == 0
        and isinstance(norm, GroupNorm)
        and norm.num_groups == convolution.out_channels
        and norm.eps == 1e-5
        and isinstance(activation, nn.ReLU)
        and isinstance(pooling, nn.AvgPool2d)
    )


def take_apart(model: FlatModel, theta: Params, blocks: list[Block]) -> Weights:
    """θ in the form that the kernels read."""
    parts = list(model.unflatten(theta).values())
    found = [
        BlockWeights(_direct(parts[4 * k]) if block.inputs else _transformed(parts[4 * k]), *parts[4 * k + 1 : 4 * k + 4])
        for k, block in enumerate(blocks)
    ]
    return Weights(found, parts[-2], parts[-1])


def still(weights: Weights) -> Weights:
    """The direction that moves nothing."""
    zeros = torch.zeros_like(weights.blocks[0].bias)
    return Weights([BlockWeights(None, zeros, zeros, zeros) for _ in weights.blocks], torch.zeros_like(weights.linear), weights.bias * 0)


def _direct(weight: Tensor) -> Tensor:
    channels = len(weight)
    return weight.reshape(channels // LANES, LANES, -1).transpose(1, 2).contiguous()


def direct_adjoint(kernel: Tensor, inputs: int) -> Tensor:
    """[channels / 16, 9 inputs, 16] as the gradient of a weight [channels, inputs, 3, 3]."""
    return kernel.transpose(1, 2).reshape(-1, inputs, 3, 3)


def _transformed(weight: Tensor) -> Tensor:
    outputs, inputs = weight.shape[:2]
    return (_GG @ weight.reshape(outputs, inputs, 9).permute(2, 1, 0).reshape(9, -1)).view(36, inputs, outputs)


def transformed_adjoint(kernel: Tensor) -> Tensor:
    """[36, channels in, channels out] as the gradient of a weight [channels out, channels in, 3, 3]."""
    inputs, outputs = kernel.shape[1:]
    return (_GG.t() @ kernel.reshape(36, -1)).view(9, inputs, outputs).permute(2, 1, 0).reshape(outputs, inputs, 3, 3)
