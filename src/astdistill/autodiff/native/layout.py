"""The ConvNet in the form that the kernels take: its blocks, its parameters in their memory layout, and buffers that
are reused between calls."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeGuard

import torch
from torch import Tensor, nn

from ...models.convnets import is_plain
from ...models.flat import FlatModel
from ...models.layers import GroupNorm
from ...runtime.shapes import Params
from .build import GAP, address, lanes


@dataclass
class Workspace:
    """Buffers by name, allocated once for the largest shape: new memory costs more than the arithmetic that fills
    it."""

    buffers: dict[str, Tensor] = field(default_factory=dict)
    views: dict[tuple[str, tuple[int, ...]], Tensor] = field(default_factory=dict)
    """Views of the buffers by name and shape: an inner step takes a hundred, the same in every step."""

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A buffer with the values last written under that name and shape; undefined after a request of another
        shape."""
        view = self.views.get((name, shape))
        if view is None:
            view = self.views[name, shape] = self._buffer(name, math.prod(shape)).view(shape)
        return view

    def _buffer(self, name: str, size: int) -> Tensor:
        buffer = self.buffers.get(name)
        if buffer is None or len(buffer) < size:
            buffer = self.buffers[name] = torch.empty(size, dtype=torch.float32)
            self.views = {key: view for key, view in self.views.items() if key[0] != name}
        return buffer[:size]


WHOLE = 16
"""Channels and pixels must be a multiple of this number: the most values that a register holds."""
ROWS = 16
"""The most tiles that a kernel is multiplied by at once, unless one image has more: their products stay in the
second-level cache of a core, and the kernel is prefetched."""
MOST_INPUTS = 16
"""The most image channels for which the direct first convolution is suitable."""


@dataclass(frozen=True)
class Block:
    """One convolution with its norm, ReLU and pooling: its index, and the size of the output of the convolution."""

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


def group_count(tiles: int, images: int, threads: int) -> int:
    """The number of groups of images whose tiles, `tiles` of each image, are multiplied together; group sizes differ by
    one image at most.

    Few groups, so that a product amortises reading its kernel, and the same number for every thread.
    """
    fewest = -(-images // max(1, ROWS // tiles))
    return min(images, -(-fewest // threads) * threads)


def blocks_of(module: nn.Module, shape: tuple[int, int, int]) -> list[Block] | None:
    """The blocks of a network for images `(C, H, W)`; None for a network or a size that the kernels do not support."""
    if not is_plain(module):
        return None
    layers, (channels, height, width) = list(module.features), shape
    if not layers or len(layers) % 4 or channels > MOST_INPUTS or height * width % WHOLE:
        return None
    groups = [layers[first : first + 4] for first in range(0, len(layers), 4)]
    sizes = [(height >> k, width >> k) for k in range(len(groups) + 1)]
    if not all(_is_supported(*group) for group in groups) or any(
        (h, w) != (2 * a, 2 * b) for (h, w), (a, b) in pairwise(sizes)
    ):
        return None
    blocks = [Block(k, 0 if k else channels, *sizes[k], last=k == len(groups) - 1) for k in range(len(groups))]
    channels_out, classes = len(next(layers[0].parameters())), module.classifier.out_features
    found = [(name, tuple(part.shape)) for name, part in module.named_parameters()]
    return blocks if found == _expected_parameters(blocks, channels_out, classes) else None


def _expected_parameters(blocks: list[Block], channels: int, classes: int) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the parameters in the order in which `Unflattener` reads them: none is missing, shared by two
    layers, or additional."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for k, block in enumerate(blocks):
        found += [
            (f"features.{4 * k}.weight", (channels, block.inputs or channels, 3, 3)),
            (f"features.{4 * k}.bias", (channels,)),
            (f"features.{4 * k + 1}.weight", (channels,)),
            (f"features.{4 * k + 1}.bias", (channels,)),
        ]
    height, width = blocks[-1].pooled
    return [
        *found,
        ("classifier.weight", (classes, channels * height * width)),
        ("classifier.bias", (classes,)),
    ]


def _is_supported(convolution: nn.Module, norm: nn.Module, activation: nn.Module, pooling: nn.Module) -> bool:
    """Whether a block is the published one: 3×3 convolution, instance norm, ReLU, 2×2 average pooling. The shapes of
    their parameters are those of `_expected_parameters`."""
    return (
        type(activation) is nn.ReLU
        and _is_supported_convolution(convolution)
        and isinstance(norm, GroupNorm)
        and norm.num_groups == norm.num_channels == convolution.out_channels
        and norm.eps == 1e-5
        and isinstance(pooling, nn.AvgPool2d)
        and (pooling.kernel_size, pooling.stride, pooling.padding) in ((2, 2, 0), ((2, 2), (2, 2), (0, 0)))
        and pooling.divisor_override is None
    )


def _is_supported_convolution(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        isinstance(layer, nn.Conv2d)
        and layer.out_channels % WHOLE == 0
        and (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and layer.groups == 1
        and layer.padding_mode == "zeros"
    )


@dataclass(frozen=True)
class BlockWeights:
    """The parameters of one block, or a direction in them; kernels are None in a direction that does not change
    them."""

    kernel: Tensor | None
    """First block: [channels / L, 9 inputs, L]. Others: the transformed kernel [36, channels out / L, channels in, L],
    with gaps."""
    turned: Tensor | None
    """First block: None. Others: the transposed kernel [36, channels in / L, channels out, L], with gaps."""
    bias: Tensor
    gamma: Tensor
    beta: Tensor


@dataclass(frozen=True)
class Weights:
    """θ, or a direction in it, split into tensors."""

    blocks: list[BlockWeights]
    linear: Tensor
    """[K, features]"""
    bias: Tensor


@dataclass(frozen=True)
class Unflattener:
    """Splits vectors of parameters into tensors."""

    model: FlatModel
    blocks: list[Block]
    kernels: ctypes.CDLL
    space: Workspace

    def __call__(self, theta: Params, name: str, down: bool = True) -> Weights:
        """θ split into tensors, valid until the next call with the same name; without `down`, for a forward pass
        only."""
        parts = [part.contiguous() for part in self.model.unflatten(theta).values()]
        blocks = []
        for k, block in enumerate(self.blocks):
            weight, *others = parts[4 * k : 4 * k + 4]
            if block.inputs:
                kernel, turned = direct(weight, lanes(self.kernels)), None
            else:
                kernel, turned = self._transform(weight, f"{name}.kernel{k}", down)
            blocks.append(BlockWeights(kernel, turned, *others))
        return Weights(blocks, parts[-2], parts[-1])

    def _transform(self, weight: Tensor, name: str, down: bool) -> tuple[Tensor, Tensor | None]:
        """G w Gᵀ, and its transpose if `down`."""
        channels = len(weight)
        kernel = self.space(name, 36, channels * channels + GAP)
        turned = None
        if down:
            turned = self.space(f"{name}.turned", *kernel.shape)
        self.kernels.kernel_forward(
            address(weight), channels // lanes(self.kernels), torch.get_num_threads(), address(kernel), address(turned)
        )
        return kernel, turned


def zero_direction(weights: Weights) -> Weights:
    """The direction that is zero."""
    zeros = torch.zeros_like(weights.blocks[0].bias)
    blocks = [BlockWeights(None, None, zeros, zeros, zeros) for _ in weights.blocks]
    return Weights(blocks, torch.zeros_like(weights.linear), torch.zeros_like(weights.bias))


def direct(weight: Tensor, lanes: int) -> Tensor:
    """The first kernel [channels, inputs, 3, 3] as [channels / L, 9 inputs, L]."""
    return weight.reshape(len(weight) // lanes, lanes, -1).transpose(1, 2).contiguous()


def direct_adjoint(kernel: Tensor, inputs: int) -> Tensor:
    """The adjoint of `direct`."""
    return kernel.transpose(1, 2).reshape(-1, inputs, 3, 3)
