"""Optimisers of the student and their adjoints: SGD with momentum, and Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..runtime.shapes import Params, Scalar

Moments = tuple[Tensor, ...]
"""State of an optimiser between steps, each tensor `[P]`."""


class Walk(Protocol):
    """The adjoint of an optimiser's steps, from the last to the first; it holds dL/d(moments)."""

    def direction(self, step: int, adjoint: Params, kept: Moments) -> Params:
        """dL/dg of step `step` (counted from 0), where `adjoint` is dL/dθ after it: the direction along which the inner
        loss is differentiated."""
        ...

    def slope(self, along: Scalar) -> None:
        """Record ⟨∇ℓ, direction⟩ of the step for which `direction` was called last."""
        ...

    def lr(self, before: Moments) -> Scalar:
        """dL/dη, where `before` are the moments before the earliest step, which count as constants."""
        ...


class StudentOptimiser(Protocol):
    """Updates θ by a gradient, and provides the adjoint of that update."""

    def begin(self, theta: Params) -> Moments:
        """The moments before the first step.

        Args:
            theta: θ_0 `[P]`.
        """
        ...

    def step(self, step: int, theta: Params, moments: Moments, gradient: Params, lr: Scalar) -> tuple[Params, Moments]:
        """θ and the moments after step number `step`, counted from 0. Pure, and differentiable in everything.

        Args:
            step: Index of the step, counted from 0.
            theta: θ before it, `[P]`.
            moments: Moments before it, each `[P]`.
            gradient: ∇_θ of the loss, `[P]`.
            lr: η, a scalar.
        """
        ...

    def kept(self, moments: Moments, gradient: Params) -> Moments:
        """Tensors that the backward walk needs of a step, besides θ: from its gradient and the moments after it.

        Args:
            moments: Moments after the step, each `[P]`.
            gradient: The gradient of the step, `[P]`.
        """
        ...

    def walk(self, theta: Params, lr: Scalar) -> Walk:
        """The backward walk, before its first step.

        Args:
            theta: Any θ `[P]`, for its shape, type and device.
            lr: η, a scalar.
        """
        ...


@dataclass(frozen=True)
class Sgd:
    """v ← μ v + g, θ ← θ − η v. Nothing is kept of a step."""

    momentum: float = 0.0
    """μ, 0 … 1."""

    def begin(self, theta: Params) -> Moments:
        return (torch.zeros_like(theta),)

    def step(self, step: int, theta: Params, moments: Moments, gradient: Params, lr: Scalar) -> tuple[Params, Moments]:
        velocity = self.momentum * moments[0] + gradient
        return theta - lr * velocity, (velocity,)

    def kept(self, moments: Moments, gradient: Params) -> Moments:
        return ()

    def walk(self, theta: Params, lr: Scalar) -> Walk:
        return _SgdWalk(self.momentum, theta, lr)


class _SgdWalk:
    """m = dL/dv ← μ m − η λ, which is also dL/dg (docs/method.md, section 3).

    dL/dη = −Σ_i ⟨λ_{i+1}, v_{i+1}⟩ needs the velocities; exchanging the two sums gives Σ_i ⟨m_i, g_i⟩ / η, and
    ⟨m_i, g_i⟩ is the slope of the loss along m_i.
    """

    def __init__(self, momentum: float, theta: Params, lr: Scalar) -> None:
        self._momentum, self._eta = momentum, lr
        self._velocity, self._lr = torch.zeros_like(theta), torch.zeros_like(lr)

    def direction(self, step: int, adjoint: Params, kept: Moments) -> Params:
        return self._velocity.mul_(self._momentum).sub_(self._eta * adjoint)

    def slope(self, along: Scalar) -> None:
        self._lr += along / self._eta

    def lr(self, before: Moments) -> Scalar:
        # Where the walk stops early, the velocity it stops at is a constant that every later step still multiplies by
        # η.
        self._lr += self._momentum * (self._velocity @ before[0]) / self._eta
        return self._lr


ROUNDING = 2.0**12
"""An entry whose √v̂ is below this many units of rounding, measured at the root of the mean v̂, moves by rounding
errors only: its step is treated as a constant.

A bias before instance norm has no influence on the loss. Its gradient is zero or noise, up to 1000 units for images of
small contrast, and derivatives of its step, which are divided by √v̂, would amplify the noise. In float32 the bound is
5e-4, below which a few other entries lie in the first step, where the exact derivative is near zero; none do in later
steps.
"""


def above_rounding(square: Tensor) -> Tensor:
    """Mask of the entries of a second moment that are above rounding errors."""
    return square > (ROUNDING * torch.finfo(square.dtype).eps) ** 2 * square.mean()


@dataclass(frozen=True)
class Adam:
    """Adam (arXiv 1412.6980, Algorithm 1), without weight decay. m, v and g are kept of every step."""

    beta1: float = 0.9
    """β1, decay of the mean of gradients."""
    beta2: float = 0.999
    """β2, decay of the mean of their squares."""
    eps: float = 1e-8
    """ε, added to the root of that mean."""

    def begin(self, theta: Params) -> Moments:
        return torch.zeros_like(theta), torch.zeros_like(theta)

    def step(self, step: int, theta: Params, moments: Moments, gradient: Params, lr: Scalar) -> tuple[Params, Moments]:
        mean = self.beta1 * moments[0] + (1 - self.beta1) * gradient
        square = self.beta2 * moments[1] + (1 - self.beta2) * gradient.square()
        corrected, root, clear = self._corrected(step, mean, square)
        moved = corrected / (root + self.eps)
        return theta - lr * torch.where(clear, moved, moved.detach()), (mean, square)

    def _corrected(self, step: int, mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """m̂, √v̂, and the mask of entries above rounding errors; the root has a finite derivative everywhere."""
        first, second = self.corrections(step)
        unbiased = square / second
        clear = above_rounding(unbiased.detach())
        root = torch.where(clear, unbiased, 1.0).sqrt()
        return mean / first, torch.where(clear, root, unbiased.detach().sqrt()), clear

    def corrections(self, step: int) -> tuple[float, float]:
        """1 − β1^t and 1 − β2^t for step number `step`, which is the t-th.

        Args:
            step: Index of the step, counted from 0.
        """
        return 1 - self.beta1 ** (step + 1), 1 - self.beta2 ** (step + 1)

    def kept(self, moments: Moments, gradient: Params) -> Moments:
        return *moments, gradient

    def walk(self, theta: Params, lr: Scalar) -> Walk:
        return _AdamWalk(self, theta, lr)


class _AdamWalk:
    """μ = dL/dm and ν = dL/dv. With s = √v̂ + ε, a = 1 − β1^t and b = 1 − β2^t a step back is

    η̄ −= ⟨λ, m̂/s⟩,   μ −= η λ/(s a),   ν += η λ m̂/(2 s² √v̂ b),   dL/dg = (1−β1) μ + 2 (1−β2) g ν,

    after which μ and ν are multiplied by β1 and β2.
    """

    def __init__(self, adam: Adam, theta: Params, lr: Scalar) -> None:
        self._adam, self._eta = adam, lr
        self._mean, self._square = torch.zeros_like(theta), torch.zeros_like(theta)
        self._lr = torch.zeros_like(lr)

    def direction(self, step: int, adjoint: Params, kept: Moments) -> Params:
        adam, (mean, square, gradient) = self._adam, kept
        (first, second), within_rounding = adam.corrections(step), ~above_rounding(square)
        root = (square / second).sqrt_()
        denominator = root + adam.eps
        moved = mean / first / denominator
        self._lr -= adjoint @ moved
        scaled_adjoint = (self._eta * adjoint / denominator).masked_fill_(within_rounding, 0.0)
        self._mean.sub_(scaled_adjoint, alpha=1 / first)
        self._square.add_((scaled_adjoint * moved).div_(root.masked_fill_(within_rounding, 1.0)), alpha=0.5 / second)
        direction = (1 - adam.beta1) * self._mean + 2 * (1 - adam.beta2) * gradient * self._square
        self._mean.mul_(adam.beta1)
        self._square.mul_(adam.beta2)
        return direction

    def slope(self, along: Scalar) -> None:
        """Do nothing: m̂/s is kept."""

    def lr(self, before: Moments) -> Scalar:
        return self._lr
