"""The oracle: back-propagation through the whole unroll."""

from __future__ import annotations

from typing import ClassVar

import torch

from ..shapes import Params
from .estimator import Estimator
from .inner import InnerLoop, MetaGradient, Variables
from .objective import Objective


class Backprop(Estimator):
    """Exact: one graph through all T steps (MTT, arXiv 2203.11932, Algorithm 1). Memory grows with T·B."""

    exact: ClassVar[bool] = True

    def __call__(self, inner: InnerLoop, start: Params, variables: Variables, objective: Objective) -> MetaGradient:
        images, targets, lr = (tensor.detach().requires_grad_() for tensor in (variables.images, variables.targets, variables.lr))
        learned = Variables(images, targets, lr)
        theta, velocity, students = start.detach().requires_grad_(), torch.zeros_like(start), {}
        for step in range(inner.plan.steps):
            loss = inner.loss(theta, *inner.batch(step, learned))
            (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
            velocity = inner.momentum * velocity + gradient
            theta = theta - lr * velocity
            students[step + 1] = theta
        loss = objective([students[step] for step in objective.at])
        gradients = torch.autograd.grad(loss, (images, targets, lr))
        return MetaGradient(loss.detach(), *gradients)
