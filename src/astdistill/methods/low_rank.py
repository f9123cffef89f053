"""Projection of a student's gradient onto a few directions of largest curvature (CR-LRHA of AT-BPTT++, its released
code)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..runtime.shapes import Params, Scalar
from .student_optimisers import Moments, StudentOptimiser, Walk

OVERSAMPLED = 4
"""Additional columns of the random matrix, which are dropped after the decomposition."""
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
            generator: CPU generator of the random matrix.
        """
        columns = min(rank + OVERSAMPLED, len(like))

        def multiplied(matrix: Tensor) -> Tensor:
            return torch.stack([product(column) for column in matrix.unbind(1)], dim=1)

        random = torch.randn(len(like), columns, generator=generator, dtype=like.dtype).to(like.device)
        basis = torch.linalg.qr(multiplied(random)).Q
        for _ in range(ITERATIONS):
            basis = torch.linalg.qr(multiplied(basis)).Q
        inner = basis.T @ multiplied(basis)
        left, values, right = torch.linalg.svd((inner + inner.T) / 2, full_matrices=False)
        kept_rank = min(rank, columns)
        return LowRank(basis @ left[:, :kept_rank], values[:kept_rank], basis @ right[:kept_rank].T)

    @staticmethod
    def peak_vectors(rank: int) -> int:
        """Largest number of vectors `[P]` that `fitted` holds at once: the multiplied columns, one by one and as a
        matrix, their products, and the memory of their QR decomposition."""
        return 4 * (rank + OVERSAMPLED)

    def times(self, vector: Params) -> Params:
        """U diag(s/s_max) Vᵀ v."""
        return self.left @ (self._relative_values * (self.right.T @ vector))

    def transposed_times(self, vector: Params) -> Params:
        """V diag(s/s_max) Uᵀ v."""
        return self.right @ (self._relative_values * (self.left.T @ vector))

    @property
    def _relative_values(self) -> Tensor:
        return self.values / self.values[0].clamp_min(torch.finfo(self.values.dtype).tiny)


@dataclass(frozen=True)
class InFewDirections:
    """An optimiser that receives ‖g‖ P g / ‖P g‖ in place of g from step `first` on, with P = U diag(s/s_max) Vᵀ
    constant."""

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
        """The tensors that the optimiser keeps, with g itself in the last place."""
        return *self.optimiser.kept(moments, gradient)[:-1], gradient

    def walk(self, theta: Params, lr: Scalar) -> Walk:
        return _ProjectedWalk(self, self.optimiser.walk(theta, lr))


class _ProjectedWalk:
    """The adjoint of `InFewDirections`. With y = P g and a = dL/d(‖g‖ y/‖y‖): dL/dg = ⟨a, y⟩ g/(‖g‖ ‖y‖) + ‖g‖/‖y‖ Pᵀ
    (a − ⟨a, y⟩ y/‖y‖²)."""

    def __init__(self, optimiser: InFewDirections, walk: Walk) -> None:
        self._optimiser, self._walk = optimiser, walk

    def direction(self, step: int, adjoint: Params, kept: Moments) -> Params:
        gradient, curvature = kept[-1], self._optimiser.curvature
        along = self._walk.direction(step, adjoint, (*kept[:-1], self._optimiser.projected(gradient)))
        projected, tiny = curvature.times(gradient), torch.finfo(gradient.dtype).tiny
        size, length = gradient.norm().clamp_min(tiny), projected.norm().clamp_min(tiny)
        product = along @ projected
        back = curvature.transposed_times(along - product / length.square() * projected)
        return product / (size * length) * gradient + size / length * back

    def slope(self, along: Scalar) -> None:
        """Do nothing: the optimiser keeps the gradient."""

    def lr(self, before: Moments) -> Scalar:
        return self._walk.lr(before)
