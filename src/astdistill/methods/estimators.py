"""Ways to take the meta-gradient: through the whole graph, in constant memory, first-order, truncated."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from ..autodiff.dispatch import engine_of
from ..autodiff.engine import Directional, Engine
from ..runtime.config import Component
from ..runtime.shapes import Batch, Params, Targets
from .matching import Objective, cotangents
from .unroll import InnerLoop, MetaGradient, Variables


class Estimator(Component):
    """(InnerLoop, start, Variables, Objective) → MetaGradient. Any estimator runs on any inner loop and objective."""

    exact: ClassVar[bool] = False
    """Whether the result is the true derivative, up to rounding."""

    def __call__(self, inner: InnerLoop, start: Params, variables: Variables, objective: Objective) -> MetaGradient:
        """The meta-gradient at `variables` of the objective of the students that start from `start`, `[P]`.

        Args:
            inner: How a student trains.
            start: θ_0 `[P]`.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
            objective: The loss of the students.
        """
        raise NotImplementedError


class Backprop(Estimator):
    """Exact: one graph through all T steps (MTT, arXiv 2203.11932, Algorithm 1). Memory grows with T·B."""

    exact: ClassVar[bool] = True

    def __call__(self, inner: InnerLoop, start: Params, variables: Variables, objective: Objective) -> MetaGradient:
        images, targets, lr = (
            tensor.detach().requires_grad_() for tensor in (variables.images, variables.targets, variables.lr)
        )
        learned = Variables(images, targets, lr)
        theta, moves, students = start.detach().requires_grad_(), inner.moves, {}
        moments = moves.begin(theta)
        for step in range(inner.plan.steps):
            loss = inner.loss(theta, *inner.batch(step, learned))
            (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
            theta, moments = moves.step(step, theta, moments, gradient, lr)
            students[step + 1] = theta
        loss = objective([students[step] for step in objective.at])
        gradients = torch.autograd.grad(loss, (images, targets, lr))
        return MetaGradient(loss.detach(), *gradients)


class Recompute(Estimator):
    """Exact, in constant memory: P floats are kept per step, 4 P for Adam (docs/method.md, section 3; cf. arXiv
    2505.00793)."""

    exact: ClassVar[bool] = True

    def __call__(self, inner: InnerLoop, start: Params, variables: Variables, objective: Objective) -> MetaGradient:
        return walk_back(inner, start, variables, objective, steps=inner.plan.steps)


def walk_back(
    inner: InnerLoop, start: Params, variables: Variables, objective: Objective, *, steps: int, curvature: bool = True
) -> MetaGradient:
    """The meta-gradient through the last `steps` inner steps; without `curvature`, θ's dependence on earlier images is
    dropped. θ and the moments before these steps are treated as constants."""
    last = inner.plan.steps
    trajectory = inner.trajectory(start, variables, last - steps, objective.at)
    students, engine = trajectory.students, engine_of(inner.model)
    loss, student_slopes = cotangents(objective, students)
    images, targets = torch.zeros_like(variables.images), torch.zeros_like(variables.targets)
    adjoint, walk = torch.zeros_like(start), inner.moves.walk(start, variables.lr)  # λ = dL/dθ, and dL/d(moments)
    # Steps after the last student with a derivative contribute nothing.
    for portion in reversed(inner.plan.portions(range(last - steps, max(student_slopes)), variables.images)):
        source = variables.images[inner.plan.rows(portion)].detach().requires_grad_()
        augmented, slopes = inner.plan.augment_steps(portion, source), []
        for step, batch in zip(reversed(portion), reversed(augmented), strict=True):
            adjoint += student_slopes.pop(step + 1, 0.0)
            students.pop(step + 1)
            direction = walk.direction(step, adjoint, trajectory.kept.pop(step))
            rows = inner.plan.indices[step]
            derivatives = step_derivatives(
                inner, engine, students[step], direction, batch.detach(), variables.targets[rows].detach(), curvature
            )
            slopes.append(derivatives.images)
            targets.index_add_(0, rows, derivatives.targets)
            walk.slope(derivatives.slope)
            adjoint += derivatives.theta
        # The augmentation does not depend on θ: one ordinary pull-back, and no second derivative of resampling, is
        # enough.
        (pulled,) = torch.autograd.grad(augmented, source, slopes[::-1])
        for step in reversed(portion):
            images.index_add_(0, inner.plan.indices[step], pulled[step - portion.start])
    return MetaGradient(loss, images, targets, walk.lr(trajectory.before))


def step_derivatives(
    inner: InnerLoop,
    engine: Engine,
    theta: Params,
    direction: Params,
    images: Batch,
    targets: Targets,
    curvature: bool = True,
) -> Directional:
    """d/dε of the inner loss w·ℓ and of its gradients with respect to θ, x and y at θ + ε · direction."""
    probabilities = inner.probabilities(targets)
    derivatives = engine.directional(theta, direction, images, probabilities, curvature)
    to_targets = derivatives.targets
    if inner.labels == "soft":  # the softmax does not depend on θ: one ordinary pull-back
        to_targets = probabilities * (to_targets - (probabilities * to_targets).sum(dim=1, keepdim=True))
    return Directional(
        *(inner.weight * part for part in (derivatives.slope, derivatives.theta, derivatives.images, to_targets))
    )


class FirstOrder(Estimator):
    """Approximate: drops θ's dependence on the images of earlier steps (TESLA, arXiv 2211.10586, section 3).

    Exact for T = 1; for longer unrolls its direction drifts from the true one (cosine 0.997 to 0.76 on a toy network,
    docs/method.md, section 3).
    """

    def __call__(self, inner: InnerLoop, start: Params, variables: Variables, objective: Objective) -> MetaGradient:
        return walk_back(inner, start, variables, objective, steps=inner.plan.steps, curvature=False)


class Truncated(Estimator):
    """Approximate: the student after T − k steps is treated as a constant; exact when k ≥ T.

    Terms of the objective that read students at or before step T − k enter the loss but not the gradient.
    """

    k: int = Field(default=10, ge=1)
    """Number of last inner steps that are differentiated."""

    def __call__(self, inner: InnerLoop, start: Params, variables: Variables, objective: Objective) -> MetaGradient:
        return walk_back(inner, start, variables, objective, steps=min(self.k, inner.plan.steps))
