"""Matching objectives: which inner steps are read, and the loss of the students at these steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..experts.store import Segment
from ..runtime.config import Component
from ..runtime.errors import InputError
from ..runtime.shapes import Params, Rows, Scalar


class Objective(Protocol):
    """A loss of some of the students θ_1 … θ_T."""

    @property
    def at(self) -> tuple[int, ...]:
        """The inner steps whose students are read, ascending, each in 1 … T."""
        ...

    def __call__(self, students: Sequence[Params]) -> Scalar:
        """The loss of the students at the steps `at`, in that order.

        Args:
            students: θ_s `[P]` for each step s of `at`.
        """
        ...


@dataclass(frozen=True)
class Matching:
    """Σ_j scale_j ‖θ_{s_j} − target_j‖² (docs/method.md, section 1, step 3 with one term, section 2, part 5 with
    several)."""

    at: tuple[int, ...]
    """s_1 … s_M, ascending, each 1 … T."""
    targets: Rows
    """`[M, P]`."""
    scales: Float[Tensor, " rows"]
    """`[M]`."""

    def __call__(self, students: Sequence[Params]) -> Scalar:
        # Differences are written out: mse_loss has no forward-mode rule in torch 2.13.
        """The loss.

        Args:
            students: θ_s `[P]` for each step s of `at`.
        """
        terms = [
            scale * (student - target).square().sum()
            for student, target, scale in zip(students, self.targets, self.scales, strict=True)
        ]
        return torch.stack(terms).sum()


@dataclass(frozen=True)
class Nearest:
    """scale · min_s ‖θ_s − target‖² over the steps s that are read; only the nearest student has a derivative
    (docs/method.md, section 8, ATT)."""

    at: tuple[int, ...]
    """The steps that are read, ascending, each 1 … T."""
    target: Params
    """`[P]`."""
    scale: Scalar
    """A scalar."""

    def __call__(self, students: Sequence[Params]) -> Scalar:
        """The loss.

        Args:
            students: θ_s `[P]` for each step s of `at`.
        """
        with torch.no_grad():
            distances = torch.stack([(student - self.target).square().sum() for student in students])
        return self.scale * (students[int(distances.argmin())] - self.target).square().sum()


@runtime_checkable
class WithCotangents(Objective, Protocol):
    """An objective that computes its own derivatives, without a graph."""

    def cotangents(self, students: Mapping[int, Params]) -> tuple[Scalar, dict[int, Params]]:
        """The loss and its derivatives, as the function `cotangents` returns them."""
        ...


def cotangents(objective: Objective, students: Mapping[int, Params]) -> tuple[Scalar, dict[int, Params]]:
    """The loss, and its derivative with respect to each student that it reads, keyed by inner step; `students` holds
    the θ_i that were kept."""
    if isinstance(objective, WithCotangents):
        return objective.cotangents(students)
    inputs = [students[step].detach().requires_grad_() for step in objective.at]
    loss = objective(inputs)
    slopes = torch.autograd.grad(loss, inputs, allow_unused=True)
    return loss.detach(), {step: slope for step, slope in zip(objective.at, slopes, strict=True) if slope is not None}


class MatchingLoss(Component):
    """Builds the objective of one outer step."""

    origin: Literal["expert", "student"] = "expert"
    """Where the distance in the denominator starts: at the expert's checkpoint θ*_t (expert, corrected), or at the
    student's initial parameters, perturbed or not (student, as released)."""

    def scales(self, segment: Segment, start: Params, targets: Rows) -> Float[Tensor, " rows"]:
        """1 / ‖origin − target_j‖² for each target.

        Args:
            segment: The segment to match: θ*_t and the checkpoints after it.
            start: The student's start `[P]`, perturbed or not.
            targets: `[rows, P]`, what students are compared with.
        """
        return 1 / ((segment.start if self.origin == "expert" else start) - targets).square().sum(dim=1)

    def __call__(self, segment: Segment, start: Params, steps: int) -> Objective:
        """The objective for a student that takes `steps` inner steps from `start` (perturbed or not).

        Args:
            segment: The segment to match: θ*_t and the checkpoints after it.
            start: The student's start `[P]`, perturbed or not.
            steps: T, the number of inner steps.
        """
        raise NotImplementedError

    def check(self, steps: int, matched_epochs: int) -> None:
        """Raise InputError if no objective can be built for this number of inner steps and matched epochs.

        Args:
            steps: T, the number of inner steps.
            matched_epochs: M, expert epochs that the student is to cover.
        """


class FinalMatchingLoss(MatchingLoss):
    """‖θ_T − θ*_{t+M}‖² / ‖θ*_t − θ*_{t+M}‖² (MTT, docs/method.md, section 1, step 3)."""

    def __call__(self, segment: Segment, start: Params, steps: int) -> Objective:
        target = segment.checkpoints[-1:]
        return Matching((steps,), target, self.scales(segment, start, target))


class NearestMatchingLoss(MatchingLoss):
    """min_i ‖θ_i − θ*_{t+M}‖² / ‖θ*_t − θ*_{t+M}‖² over all inner steps i = 1 … T (ATT, arXiv 2407.14245, section
    3)."""

    def __call__(self, segment: Segment, start: Params, steps: int) -> Objective:
        target = segment.checkpoints[-1:]
        return Nearest(tuple(range(1, steps + 1)), target[0], self.scales(segment, start, target)[0])


class IntermediateMatchingLoss(MatchingLoss):
    """AST, docs/method.md, section 2, part 5, corrected: Σ_{j=1..M} β_j ‖θ_{s_j} − θ*_{t+j}‖² / ‖θ*_t − θ*_{t+j}‖² with
    s_j = round(jT/M)."""

    beta: Literal["one", "adaptive"] = "one"
    """Weights of the M terms: one is β_j = 1, adaptive is β_j = j/M."""

    def __call__(self, segment: Segment, start: Params, steps: int) -> Objective:
        count = len(segment.checkpoints)
        return Matching(
            self.at(steps, count),
            segment.checkpoints,
            _betas(self.beta, segment) * self.scales(segment, start, segment.checkpoints),
        )

    def at(self, steps: int, matched: int) -> tuple[int, ...]:
        """s_1 … s_M.

        Args:
            steps: T, the number of inner steps.
            matched: M, expert epochs that the student is to cover.
        """
        return tuple((2 * j * steps + matched) // (2 * matched) for j in range(1, matched + 1))

    def check(self, steps: int, matched_epochs: int) -> None:
        if steps < matched_epochs:
            raise InputError(
                f"{steps} inner steps cannot visit {matched_epochs} matched epochs; choose --method.step.syn-steps of "
                f"at least {matched_epochs}, or --without intermediate."
            )


class IntermediateMatchingLossAsReleased(IntermediateMatchingLoss):
    """AST, docs/method.md, section 2, part 5, as released: s_j = (T//M)·j for j < M and s_M = T."""

    def at(self, steps: int, matched: int) -> tuple[int, ...]:
        return (*(steps // matched * j for j in range(1, matched)), steps)


def _betas(beta: Literal["one", "adaptive"], segment: Segment) -> torch.Tensor:
    count = len(segment.checkpoints)
    ones = torch.ones(count, dtype=torch.float32, device=segment.start.device)
    return (
        ones if beta == "one" else torch.arange(1, count + 1, dtype=torch.float32, device=segment.start.device) / count
    )
