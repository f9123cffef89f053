"""A stranger's package: a method of their own at `users_paper:STEADY`, with parts that astdistill does not know."""

from __future__ import annotations

import torch

from astdistill.experts.store import Segment
from astdistill.methods.estimators import Backprop, Estimator, Recompute
from astdistill.methods.matching import FinalMatchingLoss, Matching, Objective
from astdistill.methods.outer_step import Setup, TrajectoryMatching
from astdistill.methods.segments import InnerWeight
from astdistill.methods.trajectory_matching import MTT
from astdistill.methods.unroll import InnerLoop, MetaGradient, Variables
from astdistill.runtime.shapes import Params


class LateGoal(FinalMatchingLoss):
    """The last `steps` students are all matched with the target."""

    steps: int = 2

    def __call__(self, segment: Segment, start: Params, steps: int) -> Objective:
        at = tuple(range(max(1, steps - self.steps + 1), steps + 1))
        final = super().__call__(segment, start, steps)
        assert isinstance(final, Matching)
        return Matching(at, final.targets.expand(len(at), -1), final.scales.expand(len(at)) / len(at))


class Ramp(InnerWeight):
    """Later segments count more."""

    def __call__(self, epoch: int, max_start_epoch: int) -> float:
        return 1 + epoch / max_start_epoch


class Halved(TrajectoryMatching):
    """Half of the loss and its derivatives."""

    def __call__(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        found = super().__call__(setup, variables, iteration, seed)
        return MetaGradient(**{name: value / 2 for name, value in found.items()} | {"loss": found.loss / 2})


class Faulty(Estimator):
    """NaN at every `period`-th call of this process, otherwise exact."""

    period: int = 3
    what: str = "loss"

    def __call__(self, inner: InnerLoop, start: Params, variables: Variables, objective: Objective) -> MetaGradient:
        found = Recompute()(inner, start, variables, objective)
        CALLS.append(len(CALLS))
        if len(CALLS) % self.period:
            return found
        broken = {name: getattr(found, name) for name in ("loss", "images", "targets", "lr")}
        broken[self.what] = torch.full_like(broken[self.what], float("nan"))
        return MetaGradient(**broken)


class Poison(Estimator):
    """Exact, but for a finite derivative of 1e30 at call number `at` of this process."""

    at: int = 3

    def __call__(self, inner: InnerLoop, start: Params, variables: Variables, objective: Objective) -> MetaGradient:
        found = Recompute()(inner, start, variables, objective)
        CALLS.append(len(CALLS))
        return found.replace(images=torch.full_like(found.images, 1e30)) if len(CALLS) == self.at else found


CALLS: list[int] = []

STEADY = MTT.replace(
    name="steady",
    paper="A stranger's paper, arXiv 2900.00001, equation 3",
    loss=LateGoal(),
    weight=Ramp(),
    momentum=0.5,
    ema_decay=0.5,
    estimator=Backprop(),
)
