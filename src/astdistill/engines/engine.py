"""What can be asked of a network's loss: its gradient, the derivative of that gradient along a direction, and the penalised gradient."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from ..shapes import Batch, Logits, Params, Scalar, Targets

PenaltyForm = Literal["image", "pixel"]
"""Over what the norm of an input gradient is taken: a whole image (sound), or the channels of each pixel (as released)."""


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


class Engine(Protocol):
    """Derivatives of ℓ(θ; x, p), the cross-entropy of one network against distributions p `[B, K]`, averaged over the batch.

    Every engine returns the same numbers up to rounding, without graphs; they differ in speed and in the networks they can do.
    """

    def logits(self, theta: Params, images: Batch) -> Logits:
        """f(θ, x)."""
        ...

    def gradient(self, theta: Params, images: Batch, targets: Targets) -> Gradient:
        """ℓ, f and ∇_θ ℓ."""
        ...

    def directional(self, theta: Params, direction: Params, images: Batch, targets: Targets, curvature: bool = True) -> Directional:
        """The derivative along `direction` in θ (METHOD §3); without `curvature`, zeros stand where (∂²ℓ/∂θ²) m would."""
        ...

    def penalised(
        self, theta: Params, images: Batch, targets: Targets | None, penalty: float, clip: float = 1.0, form: PenaltyForm = "image"
    ) -> Gradient:
        """The same as `gradient` for clip·ℓ + penalty·mean (‖∇_x Σ_k f_k‖₂ − 1)² (METHOD §2, parts 1 and 2); no ℓ without targets."""
        ...
