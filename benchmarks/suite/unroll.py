"""One meta-gradient: the published double backward through the whole unroll, and the package's estimators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from astdistill.data.augmentation import STRATEGY
from astdistill.methods.estimators import Backprop, Estimator, FirstOrder, Recompute
from astdistill.methods.matching import Matching
from astdistill.methods.unroll import InnerLoop, Plan, Variables, draw_plan
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.seeds import rng

from . import published
from .convnet_work import FIRST_ORDER, RECOMPUTE, Net, Units, Work, convnet_work
from .task import PUBLISHED, TINY, Bench, Settings, Task

MOMENTUM = 0.9
MOST = 1000
"""The largest number of images × steps for the float64 reference, which stores about 7.4 MB for each at width 128; 8 GB
are allowed."""


class Case(NamedTuple):
    """The number of images per step, and the number of steps."""

    batch: int
    steps: int
    net: Net = Net()

    @property
    def name(self) -> str:
        return f"b{self.batch}-t{self.steps}"

    @property
    def affordable(self) -> Case:
        """The same case with at most as many images as the float64 reference can process."""
        return self._replace(batch=min(self.batch, MOST // self.steps))


MAIN = {case.name: case for case in (Case(100, 10), Case(10, 20), Case(50, 5), Case(50, 40))}
MORE = {case.name: case for case in (Case(50, 10), Case(50, 20))}
CASES = MAIN | MORE | {"tiny": Case(4, 3, TINY)}
ESTIMATORS: dict[str, Estimator] = {"backprop": Backprop(), "recompute": Recompute(), "first-order": FirstOrder()}
UNITS = {
    # One graph: forward 1, adjoints 2, and the adjoints of these three 6. The first layer has no input adjoint in the
    # inner gradient.
    PUBLISHED: Units(first=6, inner=9),
    "backprop": Units(first=6, inner=9),
    "recompute": RECOMPUTE,
    "first-order": FIRST_ORDER,
}


class Problem(NamedTuple):
    """The inputs of both ways of computing the gradient."""

    start: Tensor
    goal: Tensor
    variables: Variables
    plan: Plan

    def double(self) -> Problem:
        """The same problem in float64."""
        images, targets, lr = (
            part.double() for part in (self.variables.images, self.variables.targets, self.variables.lr)
        )
        return Problem(self.start.double(), self.goal.double(), Variables(images, targets, lr), self.plan)


def problem(case: Case) -> Problem:
    """Random images of ten classes, full DSA, and a goal near the start of the student."""
    generator = rng(0, "bench")
    start = FlatModel(build_model(case.net.name, case.net.shape, case.net.classes)).flatten()
    images = torch.randn(case.batch, *case.net.shape, generator=generator)
    targets = one_hot(torch.arange(case.batch) % case.net.classes, case.net.classes).float()
    plan = draw_plan(case.steps, case.batch, None, STRATEGY, case.net.shape, generator)
    goal = start + 0.01 * torch.randn(len(start), generator=generator)
    return Problem(start, goal, Variables(images, targets, torch.tensor(0.01)), plan)


def taken(inputs: Problem, net: Net, variant: str) -> published.Gradient:
    """The meta-gradient of one variant."""
    if variant == PUBLISHED:
        network = published.convnet(net).to(inputs.start.dtype)
        return published.meta_gradient(network, inputs.start, inputs.goal, inputs.variables, inputs.plan, MOMENTUM)
    inner = InnerLoop(FlatModel(build_model(net.name, net.shape, net.classes)), inputs.plan, MOMENTUM)
    scale = 1 / (inputs.goal - inputs.start).square().sum()
    goal = Matching((inputs.plan.steps,), inputs.goal[None], scale[None])
    found = ESTIMATORS[variant](inner, inputs.start, inputs.variables, goal)
    return published.Gradient(found.images, found.lr)


def task(name: str, variant: str, settings: Settings) -> Task:
    """One meta-gradient, after one of two steps."""
    case = CASES[name]
    return Task(_unroll(case._replace(steps=min(2, case.steps)), variant), _unroll(case, variant))


def _unroll(case: Case, variant: str) -> Callable[[], object]:
    inputs = problem(case)
    return lambda: taken(inputs, case.net, variant)


def work(name: str, variant: str, settings: Settings) -> Work:
    """The convolutions of all steps."""
    case = CASES[name]
    return convnet_work(case.net, UNITS[variant], case.batch).times(case.steps)


def cosine(name: str, variants: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The cosine of each variant in float32 with the published gradient in float64, over X and η together.

    Where that would need too much memory, both use fewer images, and `cosine_case` names the case that was compared.
    """
    case = CASES[name]
    compared = case.affordable
    inputs = problem(compared)
    exact = _vector(taken(inputs.double(), compared.net, PUBLISHED))
    label = {} if compared == case else {"cosine_case": compared.name}
    return {
        variant: {
            "cosine": float(cosine_similarity(_vector(taken(inputs, compared.net, variant)), exact, dim=0)),
            **label,
        }
        for variant in variants
    }


def _vector(gradient: published.Gradient) -> Tensor:
    return torch.cat([gradient.images.flatten(), gradient.lr.view(1)]).double()


BENCH = Bench(
    "unroll",
    "one outer step: the meta-gradient of b images a step through t inner steps, 320,010 parameters",
    tuple(MAIN),
    tuple(MORE),
    (PUBLISHED, *ESTIMATORS),
    task,
    work,
    cosine,
)
