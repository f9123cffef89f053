"""What the students are compared with: which inner steps are read, and the loss of those students."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ..shapes import Params, Rows, Scalar


class Objective(Protocol):
    """A loss of some of the students θ_1 … θ_T."""

    @property
    def at(self) -> tuple[int, ...]:
        """The inner steps whose students are read, ascending, each in 1 … T."""
        ...

    def __call__(self, students: Sequence[Params]) -> Scalar:
        """The loss of the students at the steps `at`, in that order."""
        ...


@dataclass(frozen=True)
class Matching:
    """Σ_j scale_j ‖θ_{s_j} − target_j‖² (METHOD §1.3 with one term, §2 part 5 with several)."""

    at: tuple[int, ...]
    targets: Rows
    scales: Float[Tensor, " rows"]

    def __call__(self, students: Sequence[Params]) -> Scalar:
        # Differences are written out: mse_loss has no forward-mode rule in torch 2.13.
        terms = [
            scale * (student - target).square().sum() for student, target, scale in zip(students, self.targets, self.scales, strict=True)
        ]
        return torch.stack(terms).sum()


@dataclass(frozen=True)
class Nearest:
    """scale · min_s ‖θ_s − target‖² over the steps s that are read; only the nearest student has a derivative (METHOD §8, ATT)."""

    at: tuple[int, ...]
    target: Params
    scale: Scalar

    def __call__(self, students: Sequence[Params]) -> Scalar:
        with torch.no_grad():
            distances = torch.stack([(student - self.target).square().sum() for student in students])
        return self.scale * (students[int(distances.argmin())] - self.target).square().sum()


def cotangents(objective: Objective, students: Sequence[Params]) -> tuple[Scalar, dict[int, Params]]:
    """The loss, and its derivative with respect to each student that it reads, keyed by inner step; `students` are θ_0 … θ_T."""
    read = [students[step].detach().requires_grad_() for step in objective.at]
    loss = objective(read)
    slopes = torch.autograd.grad(loss, read, allow_unused=True)
    return loss.detach(), {step: slope for step, slope in zip(objective.at, slopes, strict=True) if slope is not None}
