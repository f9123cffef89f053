"""Slow, obvious forms of what the package computes fast. The formulas of docs/method.md, written down
once more without cleverness."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from astdistill.methods.matching import Matching, Nearest
from astdistill.methods.unroll import InnerLoop, Variables


def unrolled_loss(inner: InnerLoop, start: Tensor, variables: Variables, objective: Matching | Nearest) -> Tensor:
    """L(X, Y, η): the student's steps and the objective, one line each, with a graph through everything."""
    theta, velocity = start.detach().clone().requires_grad_(), torch.zeros_like(start)
    students = [theta]
    for step, chosen in enumerate(inner.plan.indices):
        images = inner.plan.augment(step, variables.images[chosen])
        targets = variables.targets[chosen]
        if inner.labels == "soft":
            targets = targets.exp() / targets.exp().sum(dim=1, keepdim=True)
        loss = -inner.weight * (targets * log_softmax(inner.model(theta, images), dim=1)).sum(dim=1).mean()
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        velocity = inner.momentum * velocity + gradient
        theta = theta - variables.lr * velocity
        students.append(theta)
    if isinstance(objective, Nearest):
        terms = [objective.scale * ((students[step] - objective.target) ** 2).sum() for step in objective.at]
        return min(terms, key=lambda term: float(term.detach()))
    total = torch.zeros((), dtype=start.dtype)
    for step, target, scale in zip(objective.at, objective.targets, objective.scales, strict=True):
        total = total + scale * ((students[step] - target) ** 2).sum()
    return total


def unrolled_gradient(
    inner: InnerLoop, start: Tensor, variables: Variables, objective: Matching | Nearest
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/dX, dL/dY and dL/dη by autograd through `unrolled_loss`."""
    leaves = [
        tensor.detach().clone().requires_grad_() for tensor in (variables.images, variables.targets, variables.lr)
    ]
    images, targets, lr = torch.autograd.grad(unrolled_loss(inner, start, Variables(*leaves), objective), leaves)
    return images, targets, lr


def adam_window_gradient(
    inner: InnerLoop, start: Tensor, variables: Variables, objective: Any, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/dX, dL/dY and dL/dη of a student that Adam trains, by autograd through the last `window` steps; what comes
    before them, θ and both moments, is computed without a graph and constant.

    Adam is written out (arXiv 1412.6980, Algorithm 1; 0.9, 0.999, 1e-8). Where the second moment is exactly zero its
    root has no derivative, and is taken as a constant.
    """
    images, targets, lr = (
        tensor.detach().clone().requires_grad_() for tensor in (variables.images, variables.targets, variables.lr)
    )
    theta, first, second = start.detach().clone(), torch.zeros_like(start), torch.zeros_like(start)
    steps = len(inner.plan.indices)
    for step, chosen in enumerate(inner.plan.indices):
        inside = step >= steps - window
        theta = theta if inside and theta.requires_grad else theta.detach().requires_grad_()
        seen, wanted, rate = images[chosen], targets[chosen], lr
        if not inside:
            seen, wanted, rate = seen.detach(), wanted.detach(), lr.detach()
        if inner.labels == "soft":
            wanted = wanted.exp() / wanted.exp().sum(dim=1, keepdim=True)
        logits = inner.model(theta, inner.plan.augment(step, seen))
        loss = -inner.weight * (wanted * log_softmax(logits, dim=1)).sum(dim=1).mean()
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=inside)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = second / (1 - 0.999 ** (step + 1))
        zero = corrected.detach() == 0
        root = torch.where(zero, torch.ones_like(corrected), corrected) ** 0.5
        root = torch.where(zero, torch.zeros_like(root), root)
        theta = theta - rate * (first / (1 - 0.9 ** (step + 1))) / (root + 1e-8)
    found = torch.autograd.grad(objective([theta]), (images, targets, lr))
    return found[0], found[1], found[2]


def first_order_gradient(
    inner: InnerLoop, start: Tensor, variables: Variables, objective: Matching | Nearest
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, where every step's gradient is taken at a student that counts as a constant (TESLA)."""
    images, targets, lr = (
        tensor.detach().clone().requires_grad_() for tensor in (variables.images, variables.targets, variables.lr)
    )
    theta, velocity = start.detach().clone(), torch.zeros_like(start)
    students = [theta]
    for step, chosen in enumerate(inner.plan.indices):
        constant = theta.detach().requires_grad_()
        loss = inner.loss(constant, inner.plan.augment(step, images[chosen]), targets[chosen])
        (gradient,) = torch.autograd.grad(loss, constant, create_graph=True)
        velocity = inner.momentum * velocity + gradient
        theta = theta - lr * velocity
        students.append(theta)
    loss = objective([students[step] for step in objective.at])
    found = torch.autograd.grad(loss, (images, targets, lr))
    return found[0], found[1], found[2]


def truncated_gradient(
    inner: InnerLoop, start: Tensor, variables: Variables, objective: Matching | Nearest, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, where student and velocity before the last k steps count as constants."""
    images, targets, lr = (
        tensor.detach().clone().requires_grad_() for tensor in (variables.images, variables.targets, variables.lr)
    )
    theta, velocity = start.detach().clone().requires_grad_(), torch.zeros_like(start)
    students = [theta]
    for step, chosen in enumerate(inner.plan.indices):
        if step == len(inner.plan.indices) - k:
            theta, velocity = theta.detach().requires_grad_(), velocity.detach()
            students = [student.detach() for student in students]
        loss = inner.loss(theta, inner.plan.augment(step, images[chosen]), targets[chosen])
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        velocity = inner.momentum * velocity + gradient
        theta = theta - lr * velocity
        students.append(theta)
    found = torch.autograd.grad(objective([students[step] for step in objective.at]), (images, targets, lr))
    return found[0], found[1], found[2]


def difference(
    inner: InnerLoop, start: Tensor, variables: Variables, objective: Matching, along: Variables, eps: float = 1e-5
) -> float:
    """(L(z + εd) − L(z − εd)) / 2ε for z = (X, Y, η) and a direction d."""
    sides = []
    for sign in (1, -1):
        moved = Variables(
            variables.images + sign * eps * along.images,
            variables.targets + sign * eps * along.targets,
            variables.lr + sign * eps * along.lr,
        )
        sides.append(float(unrolled_loss(inner, start, moved, objective).detach()))
    return (sides[0] - sides[1]) / (2 * eps)
