"""What an experiment will cost in memory, disk and time on this machine, before anything is spent.

The stages ask what single steps cost: a `Probe` times them on random images of the experiment itself, a `Counted`
counts their work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from rich.table import Table

from ..data.loading import load_dataset
from ..data.whitening import zca_cost
from ..evaluation.protocol import architectures
from ..methods.method import Method
from ..runtime.errors import InputError
from ..runtime.status import duration, size
from .config import Experiment, expert_epochs
from .probe import NAMED, Facts, Probe

TOGETHER = 1024
"""Images that a step which is no unroll is taken to hold at once."""
SETS = 7
"""Copies of X at once: itself, its gradient, momentum and average, and the three that a step may go back to."""


class Pace(Protocol):
    """What single steps of an experiment cost, in seconds and in bytes above data and kept students."""

    parameters: int

    def expert_step(self, method: Method, batch: int, penalty: bool) -> tuple[float, int]:
        """One training step on `batch` images, with the recipe's penalty and sharpness or without."""
        ...

    def outer_step(self, experiment: Experiment) -> tuple[float, int]:
        """One trajectory of an outer step."""
        ...


@dataclass(frozen=True)
class Stage:
    """One stage: seconds, peak bytes of memory above the idle process, bytes on disk."""

    name: str
    seconds: float
    memory: int
    disk: int


def facts(experiment: Experiment) -> Facts:
    """The data set's size: known for named sets, read from disk for all others."""
    data = experiment.data
    if data.source not in NAMED or data.size is not None:
        dataset = load_dataset(data.replace(whiten="none"))  # to fit a whitening is one of the stages
        return Facts(dataset.shape, len(dataset.classes), len(dataset.train), len(dataset.test))
    whole = NAMED[data.source]
    classes = len(data.classes) if data.classes else min(data.first_classes or whole.classes, whole.classes)
    per_class = min(whole.train // whole.classes, data.per_class or whole.train)
    train = int(classes * per_class * (1 - data.validation))
    return Facts(whole.shape, classes, train, whole.test * classes // whole.classes)


def estimate(experiment: Experiment) -> list[Stage]:
    """The stages of `experiment` with their cost, from a few steps timed on random images of the data set's shape."""
    known = facts(experiment)
    steps = timed(experiment, known)
    return [_whitening(experiment, known), *steps] if experiment.data.whiten == "zca" else steps


def timed(experiment: Experiment, known: Facts) -> list[Stage]:
    """Experts, distillation and evaluation by a few steps of them. Raises InputError for more images per class than
    there are."""
    if experiment.ipc * known.classes > known.train:
        raise InputError(
            f"{experiment.ipc} images per class were asked for, but there are {known.train // known.classes}; lower "
            f"--ipc."
        )
    return stages(experiment, known, Probe(experiment, known))


def stages(experiment: Experiment, known: Facts, pace: Pace) -> list[Stage]:
    """Experts where there are some, distillation and evaluation, at the pace of single steps.

    Seconds are not a number where the pace's are not.
    """
    experts = [] if experiment.method.expert is None else [_experts(experiment, known, pace)]
    return [*experts, _distillation(experiment, known, pace), _evaluation(experiment, known, pace)]


def together(found: list[Stage]) -> Stage:
    """The stages as one: their time and disk added up, the memory of the largest."""
    seconds, disk = sum(stage.seconds for stage in found), sum(stage.disk for stage in found)
    return Stage("together", seconds, max(stage.memory for stage in found), disk)


def table(experiment: Experiment, found: list[Stage]) -> Table:
    """The estimate for the terminal."""
    shown = Table(
        caption=f"{experiment.name} on {experiment.device}, from a few steps timed just now.", caption_justify="left"
    )
    for column in ("stage", "time", "memory", "disk"):
        shown.add_column(column, justify="left" if column == "stage" else "right")
    for stage in (*found, together(found)):
        style = "bold" if stage.name == "together" else None
        shown.add_row(stage.name, duration(stage.seconds), size(stage.memory), size(stage.disk), style=style)
    return shown


def _whitening(experiment: Experiment, known: Facts) -> Stage:
    """The fit, which is kept in the cache, and needs the set's bytes from there alone."""
    cost = zca_cost(known.train, math.prod(known.shape))
    return Stage("ZCA whitening, once for all runs", cost.seconds, cost.memory, _whitening_bytes(experiment, known))


def _experts(experiment: Experiment, known: Facts, pace: Pace) -> Stage:
    recipe, wanted = experiment.method.recipe, experiment.experts
    if wanted.imported is not None:
        return Stage(f"experts of {wanted.imported}", 0.0, _data(experiment, known), 0)
    seconds, memory = pace.expert_step(experiment.method, min(recipe.batch, known.train), penalty=True)
    epochs = expert_epochs(experiment)
    steps = wanted.count * epochs * math.ceil(known.train / recipe.batch)
    disk = wanted.count * (epochs + 1) * pace.parameters * (2 if wanted.dtype == "bfloat16" else 4)
    length = f"{epochs} epochs" if epochs == recipe.epochs else f"{epochs} of {recipe.epochs} epochs"
    return Stage(f"{wanted.count} experts of {length}", steps * seconds, _data(experiment, known) + memory, disk)


def _distillation(experiment: Experiment, known: Facts, pace: Pace) -> Stage:
    seconds, memory = _outer_step(experiment, known, pace)
    settings, count = experiment.distill, experiment.ipc * known.classes
    images = 4 * count * math.prod(settings.torus.extent(known.shape))
    students = 4 * pace.parameters * (8 + experiment.method.step.unrolls * settings.inner_steps)
    sets = 3 if settings.validate_every else 1
    # X and its momentum in the state, and each set that is saved.
    disk = 2 * images + sets * (images + _whitening_bytes(experiment, known))
    spent = settings.iterations * settings.trajectories * seconds
    if settings.validate_every:
        networks = settings.iterations // settings.validate_every * settings.validate_networks
        batch = min(count, 256)
        step, _ = pace.expert_step(experiment.method, batch * settings.torus.samples, penalty=False)
        spent += networks * settings.validate_epochs * math.ceil(count / batch) * step
    return Stage(
        f"{settings.iterations} outer steps", spent, _data(experiment, known) + SETS * images + students + memory, disk
    )


def _outer_step(experiment: Experiment, known: Facts, pace: Pace) -> tuple[float, int]:
    """Seconds and bytes of one outer step with one trajectory: timed where it is an unroll, otherwise as so much
    training."""
    method, settings = experiment.method, experiment.distill
    if method.step.unrolls:
        return pace.outer_step(experiment)
    images = method.step.images_trained(experiment.ipc * known.classes * settings.torus.samples, known.classes)
    batch = max(1, min(round(images), TOGETHER))
    seconds, memory = pace.expert_step(method, batch, penalty=False)
    return seconds * images / batch, memory


def _evaluation(experiment: Experiment, known: Facts, pace: Pace) -> Stage:
    wanted, recipe = experiment.evaluation, experiment.evaluation.recipe
    count = experiment.ipc * known.classes
    names = architectures(wanted.architectures, experiment.model, known.shape)
    rows = len(names) * experiment.distill.torus.samples + len([name for name in wanted.baselines if name != "full"])
    sets = [(rows * recipe.passes, count)]
    if "full" in wanted.baselines:
        sets.append((recipe.for_full_data().passes, known.train))
    spent, memory = 0.0, 0
    for epochs, images in sets:
        batch = min(recipe.batch, images)
        seconds, held = pace.expert_step(experiment.method, batch, penalty=False)
        spent, memory = spent + wanted.networks * epochs * images / batch * seconds, max(memory, held)
    return Stage(f"{wanted.networks} networks a row", spent, _data(experiment, known) + memory, 100_000)


def _data(experiment: Experiment, known: Facts) -> int:
    """The images and their whitening, which every stage holds."""
    return known.held(experiment.data, experiment.device)


def _whitening_bytes(experiment: Experiment, known: Facts) -> int:
    """The eigenvectors in a file."""
    return 4 * math.prod(known.shape) ** 2 if experiment.data.whiten == "zca" else 0
