"""One outer step over several workers: each computes some of its terms, which are gathered in their order."""

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
    """How many workers share an outer step, each with how many threads: those that were asked for by number, the nodes
    of a cluster, or the ranks of torchrun (`launched` of them, None: as many as there are), and no more than the step
    has terms. Otherwise `HERE`.

    Raises InputError where workers cannot take part, and for a cluster and torchrun at once.
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
        return WorkerPlan(min(count, terms), divided_threads(), asked=True)
    if used() is None and workers in (None, 1):
        return HERE
    return plan_workers(terms, workers, device, [network, *_of_the_script(method)])


def _of_the_script(method: Method) -> list[str]:
    """Components of a method that other processes cannot import."""
    return re.findall(r'"(__main__:[^"]+)"', json.dumps(method.to_json()))


@contextmanager
def shared(run: Distillation, plan: WorkerPlan, done: int) -> Iterator[Distillation]:
    """The run, the terms of whose outer steps are computed by the plan's workers inside the block, unless all of them
    are `done`. The data and the experts are sent to each once, what is learned once a step, and results are the same to
    the bit as those of one process with as many threads as a worker has."""
    if plan == HERE or done >= run.settings.iterations:
        yield run
        return
    seen = run.seen
    given = _Given(run.dataset, run.experts, seen.network, run.method, seen.settings, chosen())
    with _pool(given, plan) as compute:
        tell(_in_a_line(run.method.step.terms, plan))
        yield replace(run, compute_terms=partial(_gathered, compute, run.device))


@contextmanager
def _pool(given: _Given, plan: WorkerPlan) -> Iterator[Callable[..., Iterator[Any]]]:
    """As `parallel.pool`, wherever the workers are."""
    if world() > 1:
        with (
            limited(plan.threads),
            ranks.pool(_term, given, plan.threads, partial(engine_here, given.engine)) as compute,
        ):
            yield compute
        return
    silent, gpu = Bar("", 0, 0, None), given.dataset.device.type != "cpu"
    with pool(_term, given, plan, silent, plan.workers, math.inf, gpu) as compute:
        yield compute


def _in_a_line(terms: int, plan: WorkerPlan) -> str:
    """What a user is told once."""
    who = f"{plan.workers} workers"
    if world() > 1:
        who = f"{plan.workers} ranks of torchrun"
    elif used() is not None:
        who = "the nodes of the cluster"
    return f"Each outer step is shared by {who}: {terms} trajectories, each computed by {many(plan.threads, 'thread')}."


@dataclass(frozen=True)
class _Given:
    """What a worker needs of a run."""

    dataset: Dataset
    experts: TrajectoryStore | None
    network: str
    method: Method
    settings: StepSettings
    engine: str

    @cached_property
    def setup(self) -> Setup:
        """That of the outer step, made once in each process."""
        network = build_model(self.network, self.dataset.shape, len(self.dataset.classes))
        model = FlatModel(network.to(self.dataset.device))
        return Setup(self.dataset, self.experts, self.network, model, self.method, self.settings)


def _term(given: _Given, job: tuple[tuple[Variables, int, int], int], progress: Bar) -> MetaGradient:
    """On a worker: one term of an outer step, in the memory of the CPU."""
    (variables, iteration, seed), number = job
    with using(given.engine):
        variables = variables.to(given.dataset.device)
        return given.method.step.term(given.setup, variables, iteration, seed, number).to("cpu")


def _gathered(
    compute: Callable[..., Iterator[Any]],
    device: torch.device,
    step: OuterStep,
    setup: Setup,
    variables: Variables,
    iteration: int,
    seed: int,
) -> Terms:
    """All terms of an outer step, in their order. Another step than that of the method, which it may hold inside, is
    not known to the workers, and is computed here."""
    if step is not setup.method.step:
        return one_after_another(step, setup, variables, iteration, seed)
    terms = dict(compute(range(step.terms), (variables.to("cpu"), iteration, seed)))
    return [terms[number].to(device) for number in range(step.terms)]
