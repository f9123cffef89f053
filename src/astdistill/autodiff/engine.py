"""The interface of an engine, and its implementation by torch's autograd: gradient of a network's loss, derivative
along a direction, penalised gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..runtime.shapes import Batch, Logits, Params, Scalar, Targets

PenaltyForm = Literal["image", "pixel"]
"""The axes of the norm of an input gradient: a whole image (corrected), or the channels of each pixel (as released)."""


class Gradient(NamedTuple):
    """The loss, the logits it was computed from, and its gradient with respect to θ."""

    loss: Scalar
    logits: Logits
    theta: Params


class Directional(NamedTuple):
    """d/dε at ε = 0 of ℓ and of its gradients (∇_θ ℓ, ∇_x ℓ, ∇_p ℓ) at θ + ε m."""

    slope: Scalar
    """⟨∇_θ ℓ, m⟩."""
    theta: Params
    images: Batch
    targets: Targets

    @classmethod
    def of(cls, theta: Params, slope: Scalar, *derivatives: Tensor) -> Self:
        """From the slope at θ and its derivatives with respect to θ, x and p, or x and p only: the one in θ is then
        zeros."""
        if len(derivatives) == 2:
            derivatives = torch.zeros_like(theta), *derivatives
        return cls(slope, *derivatives)


class Engine(Protocol):
    """Derivatives of ℓ(θ; x, p), the cross-entropy of one network against distributions p `[B, K]`, averaged over the
    batch.

    Every engine returns the same numbers up to rounding, without graphs; they differ in speed and in the networks they
    support.
    """

    def logits(self, theta: Params, images: Batch) -> Logits:
        """f(θ, x)."""
        ...

    def gradient(self, theta: Params, images: Batch, targets: Targets) -> Gradient:
        """ℓ, f and ∇_θ ℓ."""
        ...

    def directional(
        self, theta: Params, direction: Params, images: Batch, targets: Targets, curvature: bool = True
    ) -> Directional:
        """The derivative along `direction` in θ (docs/method.md, section 3); without `curvature`, zeros replace
        (∂²ℓ/∂θ²) m."""
        ...

    def penalised(
        self,
        theta: Params,
        images: Batch,
        targets: Targets | None,
        penalty: float,
        clip: float = 1.0,
        form: PenaltyForm = "image",
    ) -> Gradient:
        """The same as `gradient` for clip·ℓ + penalty·mean (‖∇_x Σ_k f_k‖₂ − 1)² (docs/method.md, section 2, parts 1
        and 2); no ℓ without targets."""
        ...


class EagerEngine:
    """Two backward passes for a second derivative: needs no forward-mode rules, and supports any module."""

    def __init__(self, model: Callable[[Params, Batch], Logits]) -> None:
        self.model = model

    def logits(self, theta: Params, images: Batch) -> Logits:
        """f(θ, x)."""
        with torch.no_grad():
            return self.model(theta, images)

    def gradient(self, theta: Params, images: Batch, targets: Targets) -> Gradient:
        """ℓ, f and ∇_θ ℓ."""
        theta = theta.detach().requires_grad_()
        logits = self.model(theta, images)
        loss = cross_entropy(logits, targets)
        (gradient,) = torch.autograd.grad(loss, theta)
        return Gradient(loss.detach(), logits.detach(), gradient)

    def directional(
        self, theta: Params, direction: Params, images: Batch, targets: Targets, curvature: bool = True
    ) -> Directional:
        """A vector-Jacobian product of the gradient with the direction: second derivatives are symmetric."""
        theta, images, targets = (tensor.detach().requires_grad_() for tensor in (theta, images, targets))
        (gradient,) = torch.autograd.grad(cross_entropy(self.model(theta, images), targets), theta, create_graph=True)
        variables = [images, targets]
        if curvature:
            variables.insert(0, theta)
        derivatives = torch.autograd.grad(gradient, variables, direction)
        return Directional.of(theta, direction @ gradient.detach(), *derivatives)

    def penalised(
        self,
        theta: Params,
        images: Batch,
        targets: Targets | None,
        penalty: float,
        clip: float = 1.0,
        form: PenaltyForm = "image",
    ) -> Gradient:
        """Cross-entropy and penalty share one forward pass."""
        theta, images = theta.detach().requires_grad_(), images.detach().requires_grad_()
        logits = self.model(theta, images)
        loss = penalty * gradient_penalty(images, logits, form)
        if targets is not None:
            loss = loss + clip * cross_entropy(logits, targets)
        (gradient,) = torch.autograd.grad(loss, theta)
        return Gradient(loss.detach(), logits.detach(), gradient)


def gradient_penalty(images: Batch, logits: Logits, form: PenaltyForm) -> Scalar:
    """mean (‖∇_x Σ_k f_k(x)‖₂ − 1)², the norm over a whole image or over the channels of each pixel (docs/method.md,
    section 2, part 2)."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return excess(gradient, form)


def excess(gradient: Batch, form: PenaltyForm) -> Scalar:
    """`gradient_penalty`, given the gradient in x."""
    if form == "image":
        gradient = gradient.flatten(1)
    # A gradient that is exactly zero has no direction: the tiny term keeps the derivative of the norm finite.
    norm = (gradient.square().sum(dim=1) + 1e-20).sqrt()
    return (norm - 1).square().mean()
