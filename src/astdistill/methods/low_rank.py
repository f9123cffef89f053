"""A student's gradient in the few directions of most curvature (CR-LRHA of AT-BPTT++, its released code)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..runtime.shapes import Params, Scalar
from .student_optimisers import Moments, StudentOptimiser, Walk

OVERSAMPLED = 4
"""Further columns of the random matrix, which are dropped again."""
ITERATIONS = 2
"""Power iterations."""


@dataclass(frozen=True)
class LowRank:
    """H ≈ U diag(s) Vᵀ, the singular values descending."""

    left: Float[Tensor, "P r"]
    """U."""
    values: Float[Tensor, " r"]
    """s."""
    right: Float[Tensor, "P r"]
    """V."""

    @staticmethod
    def fitted(product: Callable[[Params], Params], rank: int, like: Params, generator: torch.Generator) -> LowRank:
        """The randomised decomposition of Q Qᵀ H Q Qᵀ for a symmetric H, Q the range of H³ Ω with a random Ω (Halko et
        al., arXiv 0909.4061, Algorithm 4.4), by 4 products for each of `rank` + 4 columns.

        Args:
            product: v to H v, each `[P]`.
            rank: r, at most P.
            like: Any `[P]`, for its length, type and device.
            generator: Of the random matrix, on the CPU.
        """
        columns = min(rank + OVERSAMPLED, len(like))

        def multiplied(matrix: Tensor) -> Tensor:
            return torch.stack([product(column) for column in matrix.unbind(1)], dim=1)

        drawn = torch.randn(len(like), columns, generator=generator, dtype=like.dtype).to(like.device)
        basis = torch.linalg.qr(multiplied(drawn)).Q
        for _ in range(ITERATIONS):
            basis = torch.linalg.qr(multiplied(basis)).Q
        inner = basis.T @ multiplied(basis)
        left, values, right = torch.linalg.svd((inner + inner.T) / 2, full_matrices=False)
        few = min(rank, columns)
        return LowRank(basis @ left[:, :few], values[:few], basis @ right[:few].T)

    @staticmethod
    def held(rank: int) -> int:
        """The most vectors `[P]` that `fitted` holds at once: those that are multiplied, one by one and as a matrix,
        their products, and what their QR decomposition takes."""
        return 4 * (rank + OVERSAMPLED)

    def times(self, vector: Params) -> Params:
        """U diag(s/s_max) Vᵀ v."""
        return self.left @ (self._shares * (self.right.T @ vector))

    def transposed_times(self, vector: Params) -> Params:
        """V diag(s/s_max) Uᵀ v."""
        return self.right @ (self._shares * (self.left.T @ vector))

    @property
    def _shares(self) -> Tensor:
        return self.values / self.values[0].clamp_min(torch.finfo(self.values.dtype).tiny)


@dataclass(frozen=True)
class InFewDirections:
    """An optimiser that gets ‖g‖ P g / ‖P g‖ in place of g from step `first` on, P = U diag(s/s_max) Vᵀ a constant."""

    optimiser: StudentOptimiser
    curvature: LowRank
    first: int
    """The first step of the window, counted from 0."""

    def begin(self, theta: Params) -> Moments:
        return self.optimiser.begin(theta)

    def step(self, step: int, theta: Params, moments: Moments, gradient: Params, lr: Scalar) -> tuple[Params, Moments]:
        if step >= self.first:
            gradient = self.projected(gradient)
        return self.optimiser.step(step, theta, moments, gradient, lr)

    def projected(self, gradient: Params) -> Params:
        """‖g‖ P g / ‖P g‖.

        Args:
            gradient: g `[P]`.
        """
        along = self.curvature.times(gradient)
        return gradient.norm() * along / along.norm().clamp_min(torch.finfo(along.dtype).tiny)

    def kept(self, moments: Moments, gradient: Params) -> Moments:
        """What the optimiser keeps, with g itself in the last place."""
        return *self.optimiser.kept(moments, gradient)[:-1], gradient

    def walk(self, theta: Params, lr: Scalar) -> Walk:
        return _Walk(self, self.optimiser.walk(theta, lr))


class _Walk:
    """With y = P g and a = dL/d(‖g‖ y/‖y‖): dL/dg = ⟨a, y⟩ g/(‖g‖ ‖y‖) + ‖g‖/‖y‖ Pᵀ (a − ⟨a, y⟩ y/‖y‖²)."""

    def __init__(self, moves: InFewDirections, walk: Walk) -> None:
        self._moves, self._walk = moves, walk

    def direction(self, step: int, adjoint: Params, kept: Moments) -> Params:
        gradient, curvature = kept[-1], self._moves.curvature
        along = self._walk.direction(step, adjoint, (*kept[:-1], self._moves.projected(gradient)))
        image, tiny = curvature.times(gradient), torch.finfo(gradient.dtype).tiny
        size, length = gradient.norm().clamp_min(tiny), image.norm().clamp_min(tiny)
        shared = along @ image
        back = curvature.transposed_times(along - shared / length.square() * image)
        return shared / (size * length) * gradient + size / length * back

    def slope(self, along: Scalar) -> None:
        """Not needed by an optimiser that keeps the gradient."""

    def lr(self, before: Moments) -> Scalar:
        return self._walk.lr(before)
