"""Up and down through the blocks of a ConvNet, with values, tangents, or both side by side."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..shapes import Batch
from .blocks import LANES, Block, BlockWeights, Weights, direct_adjoint, transformed_adjoint
from .library import Adjoint, Flow, Shape, address, adjoint, flow

ROWS = 0, 1
TANGENT, VALUE, PAIR = slice(0, 1), slice(1, 2), slice(0, 2)
"""Rows of a pair: a tangent and a value lie side by side, and so do their adjoints, a and b."""


@dataclass
class Down:
    """What a pass down found: for each block the adjoints of kernel, bias, scale and offset, flat; and that of the images [n, C, H, W]."""

    blocks: list[list[Tensor]]
    images: Batch | None


@dataclass
class Workspace:
    """Buffers by name, made once for the largest shape: fresh memory costs more than the arithmetic that fills it."""

    kept: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A buffer with what was last written under that name and shape; where another shape was, the content is undefined."""
        size, found = math.prod(shape), self.kept.get(name)
        if found is None or len(found) < size:
            found = self.kept[name] = torch.empty(size)
        return found[:size].view(shape)


class Passes:
    """One batch on its way through the blocks; what a pass leaves in the workspace, the later ones read.

    A pass with rows VALUE computes values, with TANGENT tangents where the values are there already, with PAIR both.
    """

    def __init__(self, blocks: list[Block], weights: Weights, images: Batch, kernels: ctypes.CDLL, space: Workspace) -> None:
        self.blocks, self.weights, self.kernels, self.space = blocks, weights, kernels, space
        self.images, self.images_dot = images.contiguous(), None
        self.count, self.channels, self.threads = len(images), len(weights.blocks[0].bias), torch.get_num_threads()

    def up(self, rows: slice, dots: Weights | None = None, images_dot: Batch | None = None) -> Tensor:
        """The pair of features [2, n, F], of which `rows` are new; tangents are those along `dots` in θ, or along `images_dot`."""
        self.images_dot = images_dot
        for block in self.blocks:
            dot = dots.blocks[block.index] if dots else None
            source, source_dot = self.images, self.images if images_dot is None else images_dot
            if not block.inputs:
                source_dot, source = self._products(block, rows, dot)
            here = self._flow(block, self.weights.blocks[block.index], 1, source)
            stats = address(self._stats(block))
            tangent = self._flow(block, dot, 0, source_dot, images_dot is not None) if dot else None
            self.kernels.block_forward(self._shape(block), here, tangent, stats, int(rows != TANGENT))
        return self._out(self.blocks[-1]).view(2, self.count, -1)

    def down(self, rows: slice, features: Tensor, dots: Weights | None = None, known: bool = False, to_images: bool = False) -> Down:
        """The adjoints of the blocks' parameters, and of the images if wanted, from those of the pair of features [2, n, F].

        With `known`, the adjoints of tangents are those that an earlier pass down with rows TANGENT left, which finds no parameters.
        """
        found, images = Down([], torch.empty_like(self.images) if to_images else None), None
        for block in reversed(self.blocks):
            images = found.images if block.inputs else None
            kernel = self._back(block, rows, features, dots.blocks[block.index] if dots else None, images, VALUE if known else rows)
            if rows != TANGENT:
                gamma, beta = (self._norms(name).sum(0) for name in ("gamma", "beta"))
                # The norm takes the mean over pixels away and the bias with it: its derivative is zero.
                found.blocks.insert(0, [kernel.reshape(-1), torch.zeros(self.channels), gamma, beta])
        return found

    def _back(self, block: Block, rows: slice, features: Tensor, dot: BlockWeights | None, images: Batch | None, unknown: slice) -> Tensor:
        """Back through one block; the adjoint of its kernel (of no meaning for rows TANGENT)."""
        above = features if block.last else self._pair(f"adjoint{block.index + 1}", self.blocks[block.index + 1])
        below = None if block.inputs else self._pair("products", block)
        weight = self.space("first", self.count, self.channels // LANES, 9 * block.inputs, LANES)
        both, b = rows == PAIR, 1 if rows == PAIR else rows.start
        self._call(
            self.kernels.first_block_back if block.inputs else self.kernels.block_back,
            block,
            dot,
            adjoint(
                a=above[0] if both else None,
                b=above[b],
                to_a=None if below is None else below[0],
                to_b=None if below is None else below[b],
                gamma=self._norms("gamma"),
                beta=self._norms("beta"),
                weight=None if rows == TANGENT else weight,
                images=images,
            ),
        )
        if block.inputs:
            return direct_adjoint(weight.sum(0), block.inputs)
        self._adjoint_factors(block, unknown, dot)
        return weight if rows == TANGENT else self._adjoint_kernel(block, rows)

    def _call(self, kernel: Callable[..., None], block: Block, dot: BlockWeights | None, to: Adjoint) -> None:
        here = self._flow(block, self.weights.blocks[block.index], 1, self.images)
        moved = self.images_dot is not None
        tangent = self._flow(block, dot, 0, self.images_dot if moved else self.images, moved) if dot else None
        kernel(self._shape(block), here, tangent, address(self._stats(block)), to)

    def _norms(self, name: str) -> Tensor:
        return self.space(name, self.count, self.channels)

    def _products(self, block: Block, rows: slice, dot: BlockWeights | None) -> Tensor:
        """M = V U, and its tangent V̇ U + V U̇."""
        factors, products = self._pair(f"factors{block.index}", block), self._pair("products", block)
        for row in ROWS[rows.start : rows.stop]:
            torch.bmm(factors[row], self._kernel(block), out=products[row])
        if dot is not None and dot.kernel is not None:
            products[0].baddbmm_(factors[1], dot.kernel)
        return products

    def _adjoint_factors(self, block: Block, rows: slice, dot: BlockWeights | None) -> None:
        """The adjoint of V = (that of M) Uᵀ + (that of Ṁ) U̇ᵀ; of V̇, (that of Ṁ) Uᵀ."""
        products, adjoint = self._pair("products", block), self._pair(f"adjoint{block.index}", block)
        for row in ROWS[rows.start : rows.stop]:
            torch.bmm(products[row], self._kernel(block).transpose(1, 2), out=adjoint[row])
        if dot is not None and dot.kernel is not None:
            adjoint[1].baddbmm_(products[0], dot.kernel.transpose(1, 2))

    def _kernel(self, block: Block) -> Tensor:
        kernel = self.weights.blocks[block.index].kernel
        assert kernel is not None
        return kernel

    def _adjoint_kernel(self, block: Block, rows: slice) -> Tensor:
        """The adjoint of a block's kernel: Vᵀ (that of M) + V̇ᵀ (that of Ṁ)."""
        factors, products = self._pair(f"factors{block.index}", block), self._pair("products", block)
        found = torch.bmm(factors[1].transpose(1, 2), products[1])
        if rows == PAIR:
            found.baddbmm_(factors[0].transpose(1, 2), products[0])
        return transformed_adjoint(found)

    # What the kernels read and write.

    def _planes(self, block: Block, name: str) -> Tensor:
        return self.space(f"{name}.planes{block.index}", 2, self.count, self.channels // LANES, block.height * block.width, LANES)

    def _stats(self, block: Block) -> Tensor:
        return self.space(f"stats{block.index}", self.count, self.channels // LANES, 2, LANES)

    def _pair(self, name: str, block: Block) -> Tensor:
        """[2, 36, tiles, channels]"""
        return self.space(f"{name}.{block.tiles}", 2, 36, self.count * block.tiles, self.channels)

    def _out(self, block: Block) -> Tensor:
        """[2, …]: the features of the linear layer, or the factors of the next block's products."""
        if block.last:
            return self.space("features", 2, self.count, self.channels * block.pooled[0] * block.pooled[1])
        return self._pair(f"factors{block.index + 1}", self.blocks[block.index + 1])

    def _shape(self, block: Block) -> Shape:
        position = self.count * self.channels
        return Shape(
            images=self.count,
            blocks=self.channels // LANES,
            height=block.height,
            width=block.width,
            inputs=block.inputs,
            last=int(block.last),
            position_in=position * block.tiles,
            position_out=0 if block.last else position * self.blocks[block.index + 1].tiles,
            threads=self.threads,
        )

    def _flow(self, block: Block, weights: BlockWeights, which: int, source: Tensor | None, of_images: bool = False) -> Flow:
        """`of_images`: a tangent that comes from the images goes through the kernel itself."""
        kernel = self.weights.blocks[0].kernel if of_images else weights.kernel
        return flow(
            source=source,
            weight=kernel if block.inputs else None,
            bias=weights.bias,
            gamma=weights.gamma,
            beta=weights.beta,
            z=self._planes(block, "z")[which],
            out=self._out(block)[which],
        )
