"""What can be asked of a network's loss, and torch's own answers: gradient, derivative along a direction, penalised
gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..runtime.shapes import Batch, Logits, Params, Scalar, Targets

PenaltyForm = Literal["image", "pixel"]
"""Over what the norm of an input gradient is taken: a whole image (corrected), or the channels of each pixel (as
released)."""


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
        """From the slope at θ and its derivatives with respect to θ, x and p, or x and p alone: zeros then stand for
        that in θ."""
        if len(derivatives) == 2:
            derivatives = torch.zeros_like(theta), *derivatives
        return cls(slope, *derivatives)


class Engine(Protocol):
    """Derivatives of ℓ(θ; x, p), the cross-entropy of one network against distributions p `[B, K]`, averaged over the
    batch.

    Every engine returns the same numbers up to rounding, without graphs; they differ in speed and in the networks they
    can do.
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
        """The derivative along `direction` in θ (docs/method.md, section 3); without `curvature`, zeros stand where
        (∂²ℓ/∂θ²) m would."""
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
    """Two backward passes where a second derivative is asked for: needs no forward-mode rules, and runs any module."""

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
        """The direction is pulled back through a graph of the gradient: second derivatives are symmetric."""
        theta, images, targets = (tensor.detach().requires_grad_() for tensor in (theta, images, targets))
        (gradient,) = torch.autograd.grad(cross_entropy(self.model(theta, images), targets), theta, create_graph=True)
        wanted = [images, targets]
        if curvature:
            wanted.insert(0, theta)
        derivatives = torch.autograd.grad(gradient, wanted, direction)
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
        """One forward pass serves cross-entropy and penalty."""
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
    """`gradient_penalty` from the gradient in x on."""
    if form == "image":
        gradient = gradient.flatten(1)
    # An image whose gradient is exactly zero has no direction to be pushed in: the tiny term keeps the derivative of
    # the norm finite.
    norm = (gradient.square().sum(dim=1) + 1e-20).sqrt()
    return (norm - 1).square().mean()
