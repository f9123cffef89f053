"""Sharpness-aware training: the gradient of a point further up, without what would widen the gap to it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..engines import Trainee
from ..shapes import Logits


def sharpness_aware(trainee: Trainee, gradient: Callable[[], Logits], sharpness: float, surrogate_gap: float) -> Logits:
    """The logits of `gradient()` at θ; `theta.grad` becomes the direction of GSAM (arXiv 2203.08065, Algorithm 1), and θ stays where it is.

        g = ∇f(θ),  g_p = ∇f(θ + ρ g/‖g‖),  g_⊥ = g − (⟨g, g_p⟩/‖g_p‖²) g_p;   the direction is g_p − α g_⊥

    `gradient` gives the logits of one batch and leaves ∇f at the present θ in `theta.grad`; it is called twice, and must see the same
    batch, equally augmented, both times. ρ is `sharpness`, α is `surrogate_gap`.
    """
    logits, theta, slope = gradient(), trainee.theta.detach(), trainee.theta.grad
    assert slope is not None
    here, clean, tiny = (
        theta.clone(),
        slope.clone(),
        torch.finfo(theta.dtype).tiny,
    )  # of a gradient of length zero nothing is divided by zero
    theta.add_(sharpness * clean / clean.norm().clamp_min(tiny))
    gradient()
    theta.copy_(here)
    across = clean - (clean @ slope) / slope.square().sum().clamp_min(tiny) * slope
    slope.sub_(surrogate_gap * across)
    return logits
