"""What the student is compared with, after which inner steps."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import InputError
from ...experts import Segment
from ...records import Part
from ...shapes import Params, Rows
from ...unroll import Matching, Nearest, Objective


class Goal(Part):
    """Builds the objective of one outer step."""

    origin: Literal["expert", "student"] = "expert"
    """Where denominators measure from: the expert's θ*_t (sound), or the student's start, perturbed or not (as released)."""

    def scales(self, segment: Segment, start: Params, targets: Rows) -> Float[Tensor, " rows"]:
        """1 / ‖origin − target_j‖² for each target."""
        return 1 / ((segment.start if self.origin == "expert" else start) - targets).square().sum(dim=1)

    def __call__(self, segment: Segment, start: Params, steps: int) -> Objective:
        """The objective for a student that takes `steps` inner steps from `start` (perturbed or not)."""
        raise NotImplementedError

    def check(self, steps: int, matched_epochs: int) -> None:
        """Raise InputError when no objective can be built for so many inner steps and matched epochs."""


class FinalGoal(Goal):
    """‖θ_T − θ*_{t+M}‖² / ‖θ*_t − θ*_{t+M}‖² (MTT, METHOD §1.3)."""

    def __call__(self, segment: Segment, start: Params, steps: int) -> Objective:
        target = segment.checkpoints[-1:]
        return Matching((steps,), target, self.scales(segment, start, target))


class NearestGoal(Goal):
    """min_i ‖θ_i − θ*_{t+M}‖² / ‖θ*_t − θ*_{t+M}‖² over all inner steps i = 1 … T (ATT, arXiv 2407.14245, §3)."""

    def __call__(self, segment: Segment, start: Params, steps: int) -> Objective:
        target = segment.checkpoints[-1:]
        return Nearest(tuple(range(1, steps + 1)), target[0], self.scales(segment, start, target)[0])


class IntermediateGoal(Goal):
    """AST, METHOD §2 part 5, sound: Σ_{j=1..M} β_j ‖θ_{s_j} − θ*_{t+j}‖² / ‖θ*_t − θ*_{t+j}‖² with s_j = round(jT/M)."""

    beta: Literal["one", "adaptive"] = "one"
    """one: β_j = 1; adaptive: β_j = j/M."""

    def __call__(self, segment: Segment, start: Params, steps: int) -> Objective:
        count = len(segment.checkpoints)
        return Matching(
            self.at(steps, count), segment.checkpoints, _betas(self.beta, segment) * self.scales(segment, start, segment.checkpoints)
        )

    def at(self, steps: int, matched: int) -> tuple[int, ...]:
        """s_1 … s_M."""
        return tuple((2 * j * steps + matched) // (2 * matched) for j in range(1, matched + 1))

    def check(self, steps: int, matched_epochs: int) -> None:
        if steps < matched_epochs:
            raise InputError(
                f"{steps} inner steps cannot visit {matched_epochs} matched epochs; choose --distill.inner-steps of at least "
                f"{matched_epochs}, or --without intermediate."
            )


class IntermediateGoalAsReleased(IntermediateGoal):
    """AST, METHOD §2 part 5, as released: s_j = (T//M)·j for j < M and s_M = T."""

    def at(self, steps: int, matched: int) -> tuple[int, ...]:
        return (*(steps // matched * j for j in range(1, matched)), steps)


def _betas(beta: Literal["one", "adaptive"], segment: Segment) -> torch.Tensor:
    count = len(segment.checkpoints)
    ones = torch.ones(count, device=segment.start.device)
    return ones if beta == "one" else torch.arange(1, count + 1, device=segment.start.device) / count
