"""Forward passes (up) and backward passes (down) through the blocks of a ConvNet, with values, tangents, or both."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from ...runtime.shapes import Batch
from .build import GAP, Flow, Shape, address, adjoint, flow, lanes
from .layout import Block, BlockWeights, Weights, Workspace, direct_adjoint, group_count

TANGENT, VALUE, PAIR = slice(0, 1), slice(1, 2), slice(0, 2)
"""Rows of a pair: a tangent and a value are stored together, and so are their adjoints, a and b."""


@dataclass
class BackwardResult:
    """The result of a pass down: for each block the adjoints of kernel, bias, scale and offset, flat; and that of the
    images [n, C, H, W]."""

    blocks: list[list[Tensor]]
    images: Batch | None


class Passes:
    """Passes of one batch through the blocks; later passes read the results of earlier ones in the workspace.

    A pass with rows VALUE computes values, with TANGENT tangents, given the values of an earlier pass, with PAIR both.
    """

    def __init__(
        self, blocks: list[Block], weights: Weights, images: Batch, kernels: ctypes.CDLL, space: Workspace
    ) -> None:
        self.blocks, self.weights, self.kernels, self.space = blocks, weights, kernels, space
        self.images, self.images_dot = images.contiguous(), None
        self.count, self.channels, self.threads = len(images), len(weights.blocks[0].bias), torch.get_num_threads()
        self.lanes = lanes(kernels)

    def up(self, rows: slice, dots: Weights | None = None, images_dot: Batch | None = None) -> Tensor:
        """The pair of features [2, n, F], of which `rows` are computed; tangents are those along `dots` in θ, or along
        `images_dot`."""
        self.images_dot = images_dot
        for block in self.blocks:
            values, tangent = self._flows(block, dots)
            self.kernels.block_forward(
                self._shape(block), values, tangent, address(self._stats(block)), int(rows != TANGENT)
            )
        return self._output_buffer(self.blocks[-1]).view(2, self.count, -1)

    def down(
        self,
        rows: slice,
        features: Tensor,
        dots: Weights | None = None,
        tangents_known: bool = False,
        to_images: bool = False,
    ) -> BackwardResult:
        """The adjoints of the blocks' parameters, and of the images if `to_images`, from those of the pair of features
        [2, n, F].

        With `tangents_known`, the adjoints of tangents are those of an earlier pass down with rows TANGENT, which does
        not compute the adjoints of parameters.
        """
        result = BackwardResult([], None)
        if to_images:
            result.images = torch.empty_like(self.images)
        for block in reversed(self.blocks):
            above = features if block.last else self._input_adjoints(self.blocks[block.index + 1])
            if block.inputs:
                backward, buffers = self.kernels.first_block_back, self._first_adjoint_buffers(rows, result.images)
            else:
                backward, buffers = self.kernels.block_back, self._adjoint_buffers(block, rows, tangents_known)
            if rows == PAIR:
                buffers["a"] = above[0]
            buffers |= {
                "b": above[_value_row(rows)],
                "gamma": self._norm_adjoints("gamma"),
                "beta": self._norm_adjoints("beta"),
            }
            values, tangent = self._flows(block, dots)
            backward(self._shape(block), values, tangent, address(self._stats(block)), adjoint(**buffers))
            if rows != TANGENT:
                result.blocks.insert(0, self._parameter_adjoints(block, rows, buffers.get("weight")))
        return result

    def _first_adjoint_buffers(self, rows: slice, images: Batch | None) -> dict[str, Tensor | None]:
        """Output buffers of the backward pass through the first block."""
        buffers = {"images": images}
        if rows != TANGENT:
            inputs = 9 * self.blocks[0].inputs
            buffers["weight"] = self.space("first", self.count, self.channels // self.lanes, inputs, self.lanes)
        return buffers

    def _adjoint_buffers(self, block: Block, rows: slice, tangents_known: bool) -> dict[str, Tensor | None]:
        """Output buffers of the backward pass through any other block."""
        products, below = self._factors("products", block), self._input_adjoints(block)
        buffers: dict[str, Tensor | None] = {"to_b": products[_value_row(rows)], "below_b": below[_value_row(rows)]}
        if rows == PAIR:
            buffers["to_a"] = products[0]
            if not tangents_known:
                buffers["below_a"] = below[0]
        return buffers

    def _parameter_adjoints(self, block: Block, rows: slice, weight: Tensor | None) -> list[Tensor]:
        """The adjoints of a block's kernel, bias, scale and offset, flat, after the pass through it; `weight` holds
        that of the first kernel, for each image."""
        gamma, beta = (self._norm_adjoints(name).sum(0) for name in ("gamma", "beta"))
        kernel = self._adjoint_kernel(block, rows, weight)
        # The norm subtracts the mean over pixels and the bias with it: its derivative is zero.
        return [kernel.reshape(-1), torch.zeros(self.channels, dtype=torch.float32), gamma, beta]

    def _adjoint_kernel(self, block: Block, rows: slice, weight: Tensor | None) -> Tensor:
        """The adjoint of a block's kernel: Vᵀ (that of M) + V̇ᵀ (that of Ṁ), or the sum of `weight`."""
        if weight is not None:
            return direct_adjoint(weight.sum(0), block.inputs)
        factors, products = self._factors(f"factors{block.index}", block), self._factors("products", block)
        values, tangents = (factors[1], products[1]), (None, None)
        if rows == PAIR:
            tangents = factors[0], products[0]
        scratch = self.space("kernel", 36, self.channels * self.channels + GAP)
        kernel = torch.empty(self.channels, self.channels, 3, 3, dtype=torch.float32)
        self.kernels.kernel_back(self._shape(block), *map(address, [*values, *tangents, scratch, kernel]))
        return kernel

    # Buffers that the kernels read and write.

    def _planes(self, block: Block, name: str) -> Tensor:
        return self.space(
            f"{name}.planes{block.index}",
            2,
            self.count,
            self.channels // self.lanes,
            block.height * block.width,
            self.lanes,
        )

    def _stats(self, block: Block) -> Tensor:
        return self.space(f"stats{block.index}", self.count, self.channels // self.lanes, 2, self.lanes)

    def _norm_adjoints(self, name: str) -> Tensor:
        return self.space(name, self.count, self.channels)

    def _input_adjoints(self, block: Block) -> Tensor:
        """The adjoints of the input planes of a block."""
        return self._planes(block, "below")

    def _groups(self, block: Block) -> int:
        """The number of groups of images whose tiles are multiplied together: one per image in the first block, whose
        convolution is direct."""
        if block.inputs:
            return self.count
        return group_count(block.tiles, self.count, self.threads)

    def _factors(self, name: str, block: Block) -> Tensor:
        """[2, 36 × (channels × images × tiles + a gap for each group)]: in the order of `Layout` of shape.h."""
        size = self.channels * self.count * block.tiles + self._groups(block) * GAP
        return self.space(f"{name}.{block.tiles}", 2, 36 * size)

    def _output_buffer(self, block: Block) -> Tensor:
        """[2, …]: the features of the linear layer, or the factors of the next block's products."""
        if block.last:
            return self.space("features", 2, self.count, self.channels * block.pooled[0] * block.pooled[1])
        return self._factors(f"factors{block.index + 1}", self.blocks[block.index + 1])

    def _shape(self, block: Block) -> Shape:
        return Shape(
            images=self.count,
            blocks=self.channels // self.lanes,
            height=block.height,
            width=block.width,
            inputs=block.inputs,
            last=int(block.last),
            groups=self._groups(block),
            groups_out=0 if block.last else self._groups(self.blocks[block.index + 1]),
            threads=self.threads,
        )

    def _flows(self, block: Block, dots: Weights | None) -> tuple[Flow, Flow | None]:
        """The values and tangents of a block; a tangent along the images is convolved with the first kernel itself."""
        weights, (source_dot, source) = self.weights.blocks[block.index], self._sources(block)
        values = self._flow(block, weights, weights.kernel, 1, source)
        if dots is None:
            return values, None
        dot = dots.blocks[block.index]
        kernel = dot.kernel
        if block.inputs and self.images_dot is not None:
            kernel = weights.kernel
        return values, self._flow(block, dot, kernel, 0, source_dot)

    def _sources(self, block: Block) -> tuple[Tensor, Tensor]:
        """The inputs of a block: of its tangent and of its value."""
        if not block.inputs:
            factors = self._factors(f"factors{block.index}", block)
            return factors[0], factors[1]
        if self.images_dot is None:
            return self.images, self.images
        return self.images_dot, self.images

    def _flow(self, block: Block, weights: BlockWeights, kernel: Tensor | None, row: int, source: Tensor) -> Flow:
        return flow(
            source=source,
            weight=kernel,
            turned=weights.turned,
            bias=weights.bias,
            gamma=weights.gamma,
            beta=weights.beta,
            z=self._planes(block, "z")[row],
            out=self._output_buffer(block)[row],
        )


def _value_row(rows: slice) -> int:
    """The row of a pair with b, the adjoint of the values of a pass."""
    return rows.stop - 1
