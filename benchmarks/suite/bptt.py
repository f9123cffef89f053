"""One outer step of back-propagation through training: double backward through the window, and the package's walk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from astdistill.data.tensors import dataset_from_tensors
from astdistill.distillation.settings import DistillSettings
from astdistill.methods.back_propagation_through_training import RAT_BPTT, TOGETHER, BackPropagationThroughTraining
from astdistill.methods.method import Method
from astdistill.methods.outer_step import Setup
from astdistill.methods.unroll import Variables
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.seeds import rng

from . import published
from .convnet_work import RECOMPUTE, TRAIN, Net, Units, Work, convnet_work
from .task import PUBLISHED, TINY, Bench, Settings, Task

OURS = "walk"
GRAPH = Units(first=6, inner=9)
"""One graph: forward 1, adjoints 2, and the adjoints of these three 6."""
MOST = 200
"""The largest number of images × steps of the window for the float64 reference."""


class Case(NamedTuple):
    """Synthetic images, steps of training, those that are differentiated, and real images."""

    batch: int
    unroll: int
    window: int
    real: int
    net: Net = Net()


MAIN = {"c10-ipc10": Case(100, 32, 16, 5000)}
MORE = {"c10-ipc10-w32": Case(100, 32, 16, 5000, Net(width=32)), "b10": Case(10, 32, 16, 500)}
CASES = MAIN | MORE | {"tiny": Case(10, 4, 2, 20, TINY)}


class Problem(NamedTuple):
    """The inputs of both ways of computing the gradient."""

    setup: Setup
    step: BackPropagationThroughTraining
    variables: Variables


def make_problem(case: Case) -> Problem:
    """Random real and synthetic images, the window at the end."""
    net, generator = case.net, rng(0, "bench")
    labels = torch.arange(case.real) % net.classes
    pictures = torch.rand(case.real, *net.shape, generator=generator)
    data = dataset_from_tensors(pictures, labels, pictures[: net.classes], labels[: net.classes])
    step = BackPropagationThroughTraining(
        unroll=case.unroll, window=case.window, batch_real=case.real, place="last", clip=0.0
    )
    method: Method = RAT_BPTT.replace(step=step)
    model = FlatModel(build_model(net.name, net.shape, net.classes))
    setup = Setup(data, None, net.name, model, method, DistillSettings(augmentation="flip_rotate"))
    images = torch.randn(case.batch, *net.shape, generator=generator)
    targets = one_hot(torch.arange(case.batch) * net.classes // case.batch, net.classes).float()
    return Problem(setup, step, Variables(images, targets, torch.tensor(0.01)))


def image_gradient(problem: Problem, net: Net, variant: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """dL/dX of one variant."""
    setup, step, variables = problem
    variables = Variables(**{name: part.to(dtype) for name, part in variables.items()})
    if variant == PUBLISHED:
        loss = step.real_loss(setup, step.unroll, 0, 0)
        plan = step.plan(setup, len(variables.images), 0, 0)
        network = published.convnet(net).to(dtype)
        start = setup.fresh(0, 0).to(dtype)
        return published.truncated_by_adam(network, start, variables, plan, step.window, 1e-3, loss.groups)
    found, _ = step.advance(setup, variables, step.begin(setup, variables, 0), 0, 0)
    return found.images


def task(name: str, variant: str, settings: Settings) -> Task:
    """One outer step, after a shorter one with two training steps and fewer real images."""
    case = CASES[name]
    short = case._replace(unroll=2, window=1, real=min(case.real, TOGETHER))
    return Task(_outer_step(short, variant), _outer_step(case, variant))


def _outer_step(case: Case, variant: str) -> Callable[[], object]:
    problem = make_problem(case)
    return lambda: image_gradient(problem, case.net, variant)


def work(name: str, variant: str, settings: Settings) -> Work:
    """The convolutions of the steps before the window, of those in it, and of the real images."""
    case, units = CASES[name], {PUBLISHED: GRAPH, OURS: RECOMPUTE}[variant]
    prefix = convnet_work(case.net, TRAIN, case.batch).times(case.unroll - case.window)
    window = convnet_work(case.net, units, case.batch).times(case.window)
    return prefix + window + convnet_work(case.net, TRAIN, case.real)


def cosine(name: str, variants: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The cosine of each variant in float32 with the published gradient in float64, for as many images as that can
    process."""
    case = CASES[name]
    images = max(case.net.classes, min(case.batch, MOST // case.window))
    problem = make_problem(case._replace(batch=images, real=min(case.real, MOST)))
    exact = image_gradient(problem, case.net, PUBLISHED, torch.float64).flatten()
    return {
        variant: {
            "cosine": float(
                cosine_similarity(image_gradient(problem, case.net, variant).double().flatten(), exact, dim=0)
            )
        }
        for variant in variants
    }


BENCH = Bench(
    "bptt",
    "one outer step of RaT-BPTT: 32 steps of Adam on 100 images, 16 of them differentiated, 5000 real images",
    tuple(MAIN),
    tuple(MORE),
    (PUBLISHED, OURS),
    task,
    work,
    cosine,
)
