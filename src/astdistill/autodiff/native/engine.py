"""The engine of the ConvNet on a CPU: hand-written derivatives around `kernels/`, several times as fast as torch's
own."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...models.flat import FlatModel
from ...runtime.shapes import Batch, Features, Logits, Params, Targets
from ..engine import Directional, Gradient, PenaltyForm
from .layout import Block, Unflattener, Weights, Workspace, zero_direction
from .passes import PAIR, TANGENT, VALUE, Passes

VALUES = 25 * 32 * 32 * 128
"""Pixels times channels that are processed at once: few enough that their planes fit in a shared cache."""


@dataclass(frozen=True)
class NativeEngine:
    """Derivatives of the instance-norm ConvNet's loss in float32.

    Images are independent of one another in this network, so that a batch is processed in parts, and memory does not
    grow with it.
    """

    model: FlatModel
    blocks: list[Block]
    kernels: ctypes.CDLL
    space: Workspace

    @property
    def _unflatten(self) -> Unflattener:
        return Unflattener(self.model, self.blocks, self.kernels, self.space)

    def logits(self, theta: Params, images: Batch) -> Logits:
        """f(θ, x)."""
        weights = self._unflatten(theta, "θ", down=False)
        return torch.cat([_linear_logits(weights, passes.up(VALUE)[1]) for passes, _ in self._parts(weights, images)])

    def features(self, theta: Params, images: Batch) -> Features:
        """h(θ, x)."""
        weights = self._unflatten(theta, "θ", down=False)
        # A copy: the next part overwrites the same memory.
        return torch.cat([passes.up(VALUE)[1].clone() for passes, _ in self._parts(weights, images)])

    def features_back(self, theta: Params, images: Batch, slopes: Features) -> Batch:
        """∇_x ⟨h, slopes⟩, by a forward and a backward pass of each part: two convolutions a layer, no adjoint of a
        kernel."""
        weights, slopes_to_images = self._unflatten(theta, "θ"), []
        for passes, part in self._parts(weights, images):
            passes.up(VALUE)
            slopes_to_images.append(passes.down(TANGENT, _pair(slopes[part], None), to_images=True).images)
        return torch.cat(slopes_to_images)

    def gradient(self, theta: Params, images: Batch, targets: Targets) -> Gradient:
        """ℓ, f and ∇_θ ℓ."""
        weights, logits, total = self._unflatten(theta, "θ"), [], _GradientSum()
        for passes, part in self._parts(weights, images):
            features = passes.up(VALUE)[1]
            logits.append(_linear_logits(weights, features))
            b = _loss_gradient(logits[-1], targets[part], len(images))
            total.add(passes.down(VALUE, _pair(None, b @ weights.linear)).blocks, b.t() @ features, b.sum(0))
        return Gradient(_loss(torch.cat(logits), targets), torch.cat(logits), total.flat())

    def directional(
        self, theta: Params, direction: Params, images: Batch, targets: Targets, curvature: bool = True
    ) -> Directional:
        """The gradient of the tangent ℓ̇ = ⟨∇_θ ℓ, m⟩, in reverse over forward mode: eight convolutions a layer, and no
        second reverse pass."""
        weights, dots = self._unflatten(theta, "θ"), self._unflatten(direction, "direction")
        total, image_gradients, target_gradients, slope = _GradientSum(), [], [], torch.zeros((), dtype=torch.float32)
        for passes, part in self._parts(weights, images):
            features_dot, features = passes.up(PAIR, dots)
            logits = _linear_logits(weights, features)
            logits_dot = features_dot @ weights.linear.t() + _linear_logits(dots, features)
            a = _loss_gradient(logits, targets[part], len(images))
            b, to_targets = _loss_gradient_tangent(logits, logits_dot, targets[part], len(images))
            slope = slope + (a * logits_dot).sum()
            back = passes.down(
                PAIR, _pair(a @ weights.linear, b @ weights.linear + a @ dots.linear), dots, to_images=True
            )
            total.add(back.blocks, a.t() @ features_dot + b.t() @ features, b.sum(0))
            image_gradients.append(back.images)
            target_gradients.append(to_targets)
        to_theta = total.flat() if curvature else torch.zeros_like(theta)
        return Directional(slope, to_theta, torch.cat(image_gradients), torch.cat(target_gradients))

    def penalised(
        self,
        theta: Params,
        images: Batch,
        targets: Targets | None,
        penalty: float,
        clip: float = 1.0,
        form: PenaltyForm = "image",
    ) -> Gradient:
        """Six convolutions a layer: the reverse pass that gives ∇_x F, F = Σ_k f_k, also gives the adjoints of F's
        tangent.

        With u the derivative of the penalty with respect to ∇_x F, its gradient is that of the tangent of F along u in
        x.
        """
        weights, logits, total = self._unflatten(theta, "θ"), [], _GradientSum()
        zero, loss = zero_direction(weights), torch.zeros((), dtype=torch.float32)
        for passes, part in self._parts(weights, images):
            features = passes.up(VALUE)[1].clone()
            logits.append(_linear_logits(weights, features))
            ones = torch.ones_like(logits[-1])
            a = ones @ weights.linear
            gradient = passes.down(TANGENT, _pair(a, None), to_images=True).images
            assert gradient is not None
            value, along = _penalty(gradient, penalty / len(images), form)
            loss = loss + value
            features_dot = passes.up(TANGENT, zero, along)[0]
            b = torch.zeros_like(ones)
            if targets is not None:
                b = clip * _loss_gradient(logits[-1], targets[part], len(images))
            back = passes.down(PAIR, _pair(a, b @ weights.linear), zero, tangents_known=True)
            total.add(back.blocks, ones.t() @ features_dot + b.t() @ features, b.sum(0))
        if targets is not None:
            loss = loss + clip * _loss(torch.cat(logits), targets)
        return Gradient(loss, torch.cat(logits), total.flat())

    def _parts(self, weights: Weights, images: Batch) -> Iterator[tuple[Passes, slice]]:
        """The batch in nearly equal parts of at least one image."""
        channels, pixels = len(weights.blocks[0].bias), images.shape[2] * images.shape[3]
        count = min(len(images), -(-len(images) * pixels * channels // VALUES))
        first = 0
        for part_images in images.tensor_split(count):
            part = slice(first, first + len(part_images))
            first = part.stop
            yield Passes(self.blocks, weights, part_images, self.kernels, self.space), part


class _GradientSum:
    """Accumulates the gradient with respect to θ over the parts of a batch."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []

    def add(self, blocks: list[list[Tensor]], linear: Tensor, bias: Tensor) -> None:
        new = [*(part for block in blocks for part in block), linear.reshape(-1), bias]
        if self.parts:
            new = [old + part for old, part in zip(self.parts, new, strict=True)]
        self.parts = new

    def flat(self) -> Params:
        return torch.cat(self.parts)


def _pair(a: Tensor | None, b: Tensor | None) -> Tensor:
    """The adjoints of a pair of features: [2, n, F]; zeros replace the one that is None."""
    if a is None:
        assert b is not None
        a = torch.zeros_like(b)
    if b is None:
        b = torch.zeros_like(a)
    return torch.stack([a, b])


def _linear_logits(weights: Weights, features: Tensor) -> Logits:
    return torch.addmm(weights.bias, features, weights.linear.t())


def _loss(logits: Logits, targets: Targets) -> Tensor:
    return -(targets * logits.log_softmax(1)).sum() / len(logits)


def _loss_gradient(logits: Logits, targets: Targets, count: int) -> Tensor:
    """∂ℓ/∂f for a mean over `count` images."""
    return (logits.softmax(1) * targets.sum(1, keepdim=True) - targets) / count


def _loss_gradient_tangent(logits: Logits, tangent: Tensor, targets: Targets, count: int) -> tuple[Tensor, Tensor]:
    """∂ℓ̇/∂f and ∂ℓ̇/∂p."""
    softmax = logits.softmax(1)
    centred = tangent - (softmax * tangent).sum(1, keepdim=True)
    return softmax * centred * targets.sum(1, keepdim=True) / count, -centred / count


def _penalty(gradient: Batch, scale: float, form: PenaltyForm) -> tuple[Tensor, Batch]:
    """scale · Σ (‖g‖ − 1)², with the norms of `form` (their mean over pixels), and its derivative with respect to g."""
    dims = (1, 2, 3)
    if form == "pixel":
        dims, scale = (1,), scale / (gradient.shape[2] * gradient.shape[3])
    norm = (gradient.square().sum(dims, keepdim=True) + 1e-20).sqrt()
    return scale * (norm - 1).square().sum(), 2 * scale * (norm - 1) / norm * gradient
