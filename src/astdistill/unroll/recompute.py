"""The exact meta-gradient in constant memory: keep the students, walk back, recompute one step's graph at a time."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch

from ..shapes import Batch, Params, Targets
from .estimator import Estimator
from .inner import InnerLoop, MetaGradient, Variables
from .objective import Objective, cotangents

Form = Literal["forward", "double"]


class StepDerivatives(NamedTuple):
    """For one inner step: the gradient g = ∇_θ ℓ, and d/dε of (∇_θ ℓ, ∇_x ℓ, ∇_y ℓ) at θ + ε m."""

    gradient: Params
    theta: Params
    images: Batch
    targets: Targets


class Recompute(Estimator):
    """Exact, in constant memory: P floats a step are kept (METHOD §3; cf. arXiv 2505.00793).

    The walk back needs v_i only inside dL/dη = −Σ_i ⟨λ_{i+1}, v_{i+1}⟩; exchanging the two sums gives Σ_i ⟨m_i, g_i⟩ / η with
    the g_i that the walk recomputes anyway, so the velocities are not stored either.
    """

    exact: ClassVar[bool] = True

    form: Form = "double"
    """How one step is differentiated: "forward" (Jacobian-vector product of the gradient) or "double" (two backward passes)."""

    def __call__(self, inner: InnerLoop, start: Params, variables: Variables, objective: Objective) -> MetaGradient:
        return walk_back(inner, start, variables, objective, steps=inner.plan.steps, form=self.form)


def walk_back(
    inner: InnerLoop, start: Params, variables: Variables, objective: Objective, *, steps: int, form: Form = "double", hessian: bool = True
) -> MetaGradient:
    """The meta-gradient through the last `steps` inner steps; without `hessian`, θ's dependence on earlier images is dropped."""
    last = inner.plan.steps
    course = inner.course(start, variables, velocity_at=last - steps)
    students = course.students
    loss, read = cotangents(objective, students)
    images, targets = torch.zeros_like(variables.images), torch.zeros_like(variables.targets)
    lr = torch.zeros_like(variables.lr)
    adjoint, velocity = torch.zeros_like(start), torch.zeros_like(start)  # λ = dL/dθ and m = dL/dv
    for step in reversed(range(last - steps, last)):
        adjoint += read.get(step + 1, 0.0)
        velocity.mul_(inner.momentum).sub_(variables.lr * adjoint)
        del students[step + 1 :]
        chosen = inner.plan.indices[step]
        source = variables.images[chosen].detach().requires_grad_()
        augmented = inner.plan.augment(step, source)
        found = step_derivatives(inner, students[step], augmented.detach(), variables.targets[chosen].detach(), velocity, form, hessian)
        # The augmentation does not depend on θ: one ordinary pull-back, and no second derivative of resampling, is enough.
        (pulled,) = torch.autograd.grad(augmented, source, found.images) if augmented.requires_grad else (found.images,)
        images.index_add_(0, chosen, pulled)
        targets.index_add_(0, chosen, found.targets)
        lr += velocity @ found.gradient / variables.lr
        adjoint += found.theta
    # Where the walk stops early, the velocity it stops at is a constant that every later step still multiplies by η.
    lr += inner.momentum * (velocity @ course.velocity) / variables.lr
    return MetaGradient(loss, images, targets, lr)


def step_derivatives(
    inner: InnerLoop, theta: Params, images: Batch, targets: Targets, direction: Params, form: Form, hessian: bool
) -> StepDerivatives:
    """g = ∇_θ ℓ and the directional derivative of (∇_θ ℓ, ∇_x ℓ, ∇_y ℓ) along `direction` in θ, at one inner step.

    By the symmetry of second derivatives both forms return the same numbers: "forward" pushes the direction through the gradient,
    "double" pulls it back through a graph of the gradient.
    """
    if form == "forward" and hessian:
        return _pushed_forward(inner, theta, images, targets, direction)
    theta, images, targets = (tensor.detach().requires_grad_() for tensor in (theta, images, targets))
    (gradient,) = torch.autograd.grad(inner.loss(theta, images, targets), theta, create_graph=True)
    if hessian:
        return StepDerivatives(gradient.detach(), *torch.autograd.grad(gradient, (theta, images, targets), direction))
    mixed = torch.autograd.grad(gradient, (images, targets), direction)
    return StepDerivatives(gradient.detach(), torch.zeros_like(theta), *mixed)


def _pushed_forward(inner: InnerLoop, theta: Params, images: Batch, targets: Targets, direction: Params) -> StepDerivatives:
    gradients = torch.func.grad(inner.loss, argnums=(0, 1, 2))
    (gradient, _, _), pushed, *_ = torch.func.jvp(lambda point: gradients(point, images, targets), (theta,), (direction,))
    return StepDerivatives(gradient, *pushed)
