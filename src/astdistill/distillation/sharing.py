"""Share one outer step among several workers: each computes some of its terms, which are gathered in order."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch

from ..autodiff.dispatch import chosen, engine_here, using
from ..data.dataset import Dataset
from ..experts.store import TrajectoryStore
from ..methods.method import Method
from ..methods.outer_step import OuterStep, Setup, StepSettings, Terms, one_after_another
from ..methods.unroll import MetaGradient, Variables
from ..models.flat import FlatModel
from ..models.registry import build_model
from ..runtime import ranks
from ..runtime.cluster import used
from ..runtime.errors import InputError
from ..runtime.machine import world
from ..runtime.parallel import WorkerPlan, divided_threads, limited, plan_workers, pool
from ..runtime.progress import Bar, tell
from ..runtime.text import many
from .run import Distillation

HERE = WorkerPlan(1, 1)
"""The plan of a step that is not shared: this process computes it with the threads that it has."""


def plan_step(
    method: Method, network: str, workers: int | None, device: torch.device, launched: int | None = None
) -> WorkerPlan:
    """How many workers share an outer step, and how many threads each has: the requested number of workers, the nodes
    of a cluster, or the ranks of torchrun (`launched` of them; None: all), at most one for each term of the step.
    Otherwise `HERE`.

    Raises InputError if workers cannot take part, and for a cluster and torchrun at once.
    """
    terms, count = method.step.terms, launched or world()
    if terms == 1:
        return HERE
    if used() is not None and count > 1:
        raise InputError(
            f"--cluster was asked for, and torchrun has started {count} ranks; start the command without torchrun, or "
            "leave --cluster out."
        )
    if count > 1:
        return WorkerPlan(min(count, terms), divided_threads(), requested=True)
    if used() is None and workers in (None, 1):
        return HERE
    return plan_workers(terms, workers, device, [network, *_script_components(method)])


def _script_components(method: Method) -> list[str]:
    """Components of a method that other processes cannot import, since the script defines them."""
    return re.findall(r'"(__main__:[^"]+)"', json.dumps(method.to_json()))


@contextmanager
def shared(run: Distillation, plan: WorkerPlan, done: int) -> Iterator[Distillation]:
    """The run, with the terms of its outer steps computed by the plan's workers inside the block, unless all iterations
    are `done`. Data and experts are sent to each worker once, learned tensors once per step, and results are bitwise
    those of one process with as many threads as a worker has."""
    if plan == HERE or done >= run.settings.iterations:
        yield run
        return
    setup = run.step_setup
    context = _WorkerContext(run.dataset, run.experts, setup.network, run.method, setup.settings, chosen())
    with _pool(context, plan) as compute:
        tell(_sharing_message(run.method.step.terms, plan))
        yield replace(run, compute_terms=partial(_gather_terms, compute, run.device))


@contextmanager
def _pool(context: _WorkerContext, plan: WorkerPlan) -> Iterator[Callable[..., Iterator[Any]]]:
    """The equivalent of `parallel.pool` for ranks of torchrun, workers of this machine, or nodes of a cluster."""
    if world() > 1:
        with (
            limited(plan.threads),
            ranks.pool(_compute_term, context, plan.threads, partial(engine_here, context.engine)) as compute,
        ):
            yield compute
        return
    silent, gpu = Bar("", 0, 0, None), context.dataset.device.type != "cpu"
    with pool(_compute_term, context, plan, silent, plan.workers, math.inf, gpu) as compute:
        yield compute


def _sharing_message(terms: int, plan: WorkerPlan) -> str:
    """The message that a user sees once."""
    workers = f"{plan.workers} workers"
    if world() > 1:
        workers = f"{plan.workers} ranks of torchrun"
    elif used() is not None:
        workers = "the nodes of the cluster"
    return (
        f"Each outer step is shared by {workers}: {terms} trajectories, each computed by "
        f"{many(plan.threads, 'thread')}."
    )


@dataclass(frozen=True)
class _WorkerContext:
    """What a worker needs of a run."""

    dataset: Dataset
    experts: TrajectoryStore | None
    network: str
    method: Method
    settings: StepSettings
    engine: str

    @cached_property
    def setup(self) -> Setup:
        """The setup of the outer step, created once in each process."""
        network = build_model(self.network, self.dataset.shape, len(self.dataset.classes))
        model = FlatModel(network.to(self.dataset.device))
        return Setup(self.dataset, self.experts, self.network, model, self.method, self.settings)


def _compute_term(context: _WorkerContext, job: tuple[tuple[Variables, int, int], int], progress: Bar) -> MetaGradient:
    """On a worker: compute one term of an outer step, in CPU memory."""
    (variables, iteration, seed), number = job
    with using(context.engine):
        variables = variables.to(context.dataset.device).clone()
        return context.method.step.term(context.setup, variables, iteration, seed, number).to("cpu")


def _gather_terms(
    compute: Callable[..., Iterator[Any]],
    device: torch.device,
    step: OuterStep,
    setup: Setup,
    variables: Variables,
    iteration: int,
    seed: int,
) -> Terms:
    """All terms of an outer step, in order. The workers only know the step of the method; another step, which it may
    contain, is computed in this process."""
    if step is not setup.method.step:
        return one_after_another(step, setup, variables, iteration, seed)
    terms = dict(compute(range(step.terms), (variables.to("cpu"), iteration, seed)))
    return [terms[number].to(device) for number in range(step.terms)]
