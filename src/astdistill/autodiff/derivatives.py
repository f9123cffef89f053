"""The derivatives of `Engine` as pure functions of tensors, each compiled as a whole: their inputs and outputs have no
autograd graph.

Work in units of one forward pass of the convolutions: `gradient` 3, `directional` 8, `penalised` 6. `directional` is
reverse mode over a forward-mode derivative (H m = ∇_θ ⟨∇_θ ℓ, m⟩; cf. arXiv 2505.00793, docs/method.md, section 3), so
that nothing is differentiated in reverse mode twice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..runtime.shapes import Batch, Logits, Params, Scalar, Targets
from .engine import PenaltyForm, excess

Model = Callable[[Params, Batch], Logits]
Function = Callable[..., tuple[Tensor, ...]]


def channels_last(model: Model) -> Model:
    """The same network on images in channels-last layout, the fastest for convolutions and the fused norms; inputs that
    are not 4-D are unchanged."""

    def laid_out(theta: Params, images: Batch) -> Logits:
        if images.ndim == 4:
            images = images.to(memory_format=torch.channels_last)
        return model(theta, images)

    return laid_out


def gradient(model: Model) -> Function:
    """(θ, x, p) → ℓ, f, ∇_θ ℓ."""

    def function(theta: Params, images: Batch, targets: Targets) -> tuple[Tensor, ...]:
        def loss(theta: Params) -> tuple[Scalar, Logits]:
            logits = model(theta, images)
            return cross_entropy(logits, targets), logits

        slopes, (value, logits) = torch.func.grad_and_value(loss, has_aux=True)(theta)
        return value, logits, slopes

    return function


def directional(model: Model, curvature: bool) -> Function:
    """(θ, m, x, p) → ⟨∇_θ ℓ, m⟩ and its derivatives with respect to x and p and, with `curvature`, first θ."""
    argnums = (1, 2)
    if curvature:
        argnums = (0, 1, 2)

    def function(theta: Params, direction: Params, images: Batch, targets: Targets) -> tuple[Tensor, ...]:
        def slope(theta: Params, images: Batch, targets: Targets) -> Scalar:
            def loss(theta: Params) -> Scalar:
                return cross_entropy(model(theta, images), targets)

            return torch.func.jvp(loss, (theta,), (direction,))[1]

        slopes, value = torch.func.grad_and_value(slope, argnums=argnums)(theta, images, targets)
        return value, *(part.contiguous() for part in slopes)

    return function


def penalised(model: Model, form: PenaltyForm) -> Function:
    """(θ, x, λ, c, p) → c·ℓ + λ·mean (‖∇_x Σ_k f_k‖₂ − 1)², f, and the gradient of the former in θ; without c·ℓ if p
    is None.

    Reverse over reverse, in one graph: 6 units, because forward pass and input gradient are shared. The same trick as
    in `directional` (∇_θ of Σf pushed along ∂P/∂∇_x, held constant) would take 7.
    """

    def function(
        theta: Params, images: Batch, penalty: Scalar, clip: Scalar, targets: Targets | None = None
    ) -> tuple[Tensor, ...]:
        def loss(theta: Params) -> tuple[Scalar, Logits]:
            slopes, logits = torch.func.grad(lambda images: _sum_with_logits(model(theta, images)), has_aux=True)(
                images
            )
            value = penalty * excess(slopes, form)
            if targets is not None:
                value = value + clip * cross_entropy(logits, targets)
            return value, logits

        slopes, (value, logits) = torch.func.grad_and_value(loss, has_aux=True)(theta)
        return value, logits, slopes

    return function


def _sum_with_logits(logits: Logits) -> tuple[Scalar, Logits]:
    return logits.sum(), logits
