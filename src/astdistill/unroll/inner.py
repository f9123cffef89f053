"""The inner loop: how a student trains on the synthetic set. A pure function of tensors, which estimators differentiate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import cross_entropy

from ..engines import engine_of
from ..shapes import Batch, Images, Logits, Params, Scalar, Targets
from .plan import Plan


@dataclass(frozen=True)
class Variables:
    """X `[N, C, H, W]` (k H and k W on a torus), Y `[N, K]` and η: what a meta-gradient is taken with respect to."""

    images: Images
    targets: Targets
    lr: Scalar


@dataclass(frozen=True)
class MetaGradient:
    """The objective L and its derivative with respect to each of the `Variables`, in their shapes, without a graph."""

    loss: Scalar
    images: Images
    targets: Targets
    lr: Scalar

    @staticmethod
    def mean(parts: Sequence[MetaGradient]) -> MetaGradient:
        """The mean of several, field by field; of one, that one to the bit."""
        columns = zip(*((part.loss, part.images, part.targets, part.lr) for part in parts), strict=True)
        return MetaGradient(*(torch.stack(column).mean(dim=0) for column in columns))


@dataclass(frozen=True)
class Course:
    """θ_0 … θ_T of one student, each `[P]`, and its velocity v_s before the step s that was asked for."""

    students: list[Params]
    velocity: Params


@dataclass(frozen=True)
class InnerLoop:
    """T steps of SGD with momentum on the synthetic set (METHOD §1.2; MTT, arXiv 2203.11932, Algorithm 1).

        v_{i+1} = μ v_i + ∇_θ w·ℓ(θ_i; A_i(X[b_i]), Y[b_i]),   θ_{i+1} = θ_i − η v_{i+1},   v_0 = 0

    `model` maps (θ, images) to logits, `weight` is AST's balancing factor w (1 in MTT), `labels` says whether targets are
    distributions ("hard") or logits of distributions ("soft").
    """

    model: Callable[[Params, Batch], Logits]
    plan: Plan
    momentum: float = 0.0
    weight: float = 1.0
    labels: Literal["hard", "soft"] = "hard"

    def loss(self, theta: Params, images: Batch, targets: Targets) -> Scalar:
        """w·ℓ(θ; x, y) on augmented images x: cross-entropy, averaged over the batch."""
        return self.weight * cross_entropy(self.model(theta, images), self.probabilities(targets))

    def batch(self, step: int, variables: Variables) -> tuple[Batch, Targets]:
        """A_i(X[b_i]) and Y[b_i]."""
        chosen = self.plan.indices[step]
        return self.plan.augment(step, variables.images[chosen]), variables.targets[chosen]

    def _batches(self, variables: Variables) -> Iterator[tuple[int, Batch, Targets]]:
        """Every step with its augmented images and its targets, as `batch` gives them, without a graph."""
        plan = self.plan
        for steps in plan.portions(range(plan.steps), variables.images):
            with torch.no_grad():
                augmented = plan.augment_steps(steps, variables.images[plan.indices[steps.start : steps.stop]])
            for step, images in zip(steps, augmented, strict=True):
                yield step, images, variables.targets[plan.indices[step]].detach()

    def probabilities(self, targets: Targets) -> Targets:
        """The distributions that targets stand for."""
        return targets.softmax(dim=1) if self.labels == "soft" else targets

    def course(self, start: Params, variables: Variables, velocity_at: int = 0) -> Course:
        """The students and one velocity, computed without a graph: P floats a step and nothing else is kept."""
        students, theta, velocity = [start.detach()], start.detach(), torch.zeros_like(start)
        engine, kept = engine_of(self.model), velocity
        for step, images, targets in self._batches(variables):
            if step == velocity_at:
                kept = velocity
            probabilities = self.probabilities(targets)
            gradient = self.weight * engine.gradient(theta, images, probabilities).theta
            velocity = self.momentum * velocity + gradient
            theta = theta - variables.lr * velocity
            students.append(theta)
        return Course(students, kept)
