"""The exact meta-gradient in constant memory: keep the students, walk back, recompute one step at a time."""

from __future__ import annotations

from typing import ClassVar

import torch

from ..engines import Directional, Engine, engine_of
from ..shapes import Batch, Params, Targets
from .estimator import Estimator
from .inner import InnerLoop, MetaGradient, Variables
from .objective import Objective, cotangents


class Recompute(Estimator):
    """Exact, in constant memory: P floats a step are kept (METHOD §3; cf. arXiv 2505.00793).

    The walk back needs v_i only inside dL/dη = −Σ_i ⟨λ_{i+1}, v_{i+1}⟩; exchanging the two sums gives Σ_i ⟨m_i, g_i⟩ / η, and
    ⟨m_i, g_i⟩ is the slope of the loss along m_i, which the walk computes anyway, so the velocities are not stored either.
    """

    exact: ClassVar[bool] = True

    def __call__(self, inner: InnerLoop, start: Params, variables: Variables, objective: Objective) -> MetaGradient:
        return walk_back(inner, start, variables, objective, steps=inner.plan.steps)


def walk_back(
    inner: InnerLoop, start: Params, variables: Variables, objective: Objective, *, steps: int, curvature: bool = True
) -> MetaGradient:
    """The meta-gradient through the last `steps` inner steps; without `curvature`, θ's dependence on earlier images is dropped."""
    last = inner.plan.steps
    course = inner.course(start, variables, velocity_at=last - steps)
    students, engine = course.students, engine_of(inner.model)
    loss, read = cotangents(objective, students)
    images, targets = torch.zeros_like(variables.images), torch.zeros_like(variables.targets)
    lr = torch.zeros_like(variables.lr)
    adjoint, velocity = torch.zeros_like(start), torch.zeros_like(start)  # λ = dL/dθ and m = dL/dv
    # What comes after the last student with a derivative adds nothing.
    for portion in reversed(inner.plan.portions(range(last - steps, max(read)), variables.images)):
        source = variables.images[inner.plan.indices[portion.start : portion.stop]].detach().requires_grad_()
        augmented, slopes = inner.plan.augment_steps(portion, source), []
        for step, seen in zip(reversed(portion), reversed(augmented), strict=True):
            adjoint += read.get(step + 1, 0.0)
            velocity.mul_(inner.momentum).sub_(variables.lr * adjoint)
            del students[step + 1 :]
            chosen = inner.plan.indices[step]
            found = step_derivatives(inner, engine, students[step], velocity, seen.detach(), variables.targets[chosen].detach(), curvature)
            slopes.append(found.images)
            targets.index_add_(0, chosen, found.targets)
            lr += found.slope / variables.lr
            adjoint += found.theta
        # The augmentation does not depend on θ: one ordinary pull-back, and no second derivative of resampling, is enough.
        (pulled,) = torch.autograd.grad(augmented, source, slopes[::-1])
        for step in reversed(portion):
            images.index_add_(0, inner.plan.indices[step], pulled[step - portion.start])
    # Where the walk stops early, the velocity it stops at is a constant that every later step still multiplies by η.
    lr += inner.momentum * (velocity @ course.velocity) / variables.lr
    return MetaGradient(loss, images, targets, lr)


def step_derivatives(
    inner: InnerLoop, engine: Engine, theta: Params, direction: Params, images: Batch, targets: Targets, curvature: bool = True
) -> Directional:
    """d/dε of the inner loss w·ℓ and of its gradients with respect to θ, x and y at θ + ε · direction."""
    probabilities = inner.probabilities(targets)
    found = engine.directional(theta, direction, images, probabilities, curvature)
    to_targets = found.targets
    if inner.labels == "soft":  # the softmax does not depend on θ: one ordinary pull-back
        to_targets = probabilities * (to_targets - (probabilities * to_targets).sum(dim=1, keepdim=True))
    return Directional(*(inner.weight * part for part in (found.slope, found.theta, found.images, to_targets)))
