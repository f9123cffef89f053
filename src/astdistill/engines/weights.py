"""The parameters of a ConvNet, or a direction in them, in the form that `kernels/` reads; L is its number of lanes."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models import FlatModel
from ..shapes import Params
from .blocks import Block
from .library import GAP, address, lanes
from .workspace import Workspace


@dataclass(frozen=True)
class BlockWeights:
    """The parameters of one block, or a direction in them; kernels are None in a direction that moves none."""

    kernel: Tensor | None
    """First block: [channels / L, 9 inputs, L]. Others: the transformed kernel [36, channels out / L, channels in, L], with gaps."""
    turned: Tensor | None
    """First block: None. Others: the transposed kernel [36, channels in / L, channels out, L], with gaps."""
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


@dataclass(frozen=True)
class Apart:
    """Takes vectors of parameters apart."""

    model: FlatModel
    blocks: list[Block]
    kernels: ctypes.CDLL
    space: Workspace

    def __call__(self, theta: Params, name: str, down: bool = True) -> Weights:
        """θ taken apart, which holds until another is under the same name; without `down`, for a pass up alone."""
        parts = [part.contiguous() for part in self.model.unflatten(theta).values()]
        found = []
        for k, block in enumerate(self.blocks):
            kernel, *others = parts[4 * k : 4 * k + 4]
            both = (direct(kernel, lanes(self.kernels)), None) if block.inputs else self._transformed(kernel, f"{name}.kernel{k}", down)
            found.append(BlockWeights(*both, *others))
        return Weights(found, parts[-2], parts[-1])

    def _transformed(self, weight: Tensor, name: str, down: bool) -> tuple[Tensor, Tensor | None]:
        """G w Gᵀ, as it is and transposed."""
        channels = len(weight)
        kernel = self.space(name, 36, channels * channels + GAP)
        turned = self.space(f"{name}.turned", *kernel.shape) if down else None
        self.kernels.kernel_forward(
            address(weight), channels // lanes(self.kernels), torch.get_num_threads(), address(kernel), address(turned)
        )
        return kernel, turned


def still(weights: Weights) -> Weights:
    """The direction that moves nothing."""
    zeros = torch.zeros_like(weights.blocks[0].bias)
    blocks = [BlockWeights(None, None, zeros, zeros, zeros) for _ in weights.blocks]
    return Weights(blocks, torch.zeros_like(weights.linear), torch.zeros_like(weights.bias))


def direct(weight: Tensor, lanes: int) -> Tensor:
    """The first kernel [channels, inputs, 3, 3] as [channels / L, 9 inputs, L]."""
    return weight.reshape(len(weight) // lanes, lanes, -1).transpose(1, 2).contiguous()


def direct_adjoint(kernel: Tensor, inputs: int) -> Tensor:
    """The adjoint of `direct`."""
    return kernel.transpose(1, 2).reshape(-1, inputs, 3, 3)
