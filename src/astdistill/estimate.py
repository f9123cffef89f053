"""What an experiment will cost in memory, disk and time on this machine, measured on random data before anything is spent."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.table import Table

from .data import load_dataset
from .errors import InputError
from .evaluation import architectures
from .experiment import Experiment
from .probe import NAMED, Facts, Probe


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
        dataset = load_dataset(data)
        return Facts(dataset.shape, len(dataset.classes), len(dataset.train), len(dataset.test))
    whole = NAMED[data.source]
    classes = len(data.classes) if data.classes else min(data.first_classes or whole.classes, whole.classes)
    per_class = min(whole.train // whole.classes, data.per_class or whole.train)
    train = int(classes * per_class * (1 - data.validation))
    return Facts(whole.shape, classes, train, whole.test * classes // whole.classes)


def estimate(experiment: Experiment) -> list[Stage]:
    """The stages of `experiment` with their cost, from a few steps timed on random images of the data set's shape."""
    known = facts(experiment)
    if experiment.ipc * known.classes > known.train:
        raise InputError(f"{experiment.ipc} images per class were asked for, but there are {known.train // known.classes}; lower --ipc.")
    probe = Probe(experiment, known)
    return [_experts(experiment, known, probe), _distillation(experiment, known, probe), _evaluation(experiment, known, probe)]


def table(experiment: Experiment, stages: list[Stage]) -> Table:
    """The estimate for the terminal."""
    shown = Table(caption=f"{experiment.name} on {experiment.device}, from a few steps timed just now.", caption_justify="left")
    for column in ("stage", "time", "memory", "disk"):
        shown.add_column(column, justify="left" if column == "stage" else "right")
    for stage in stages:
        shown.add_row(stage.name, duration(stage.seconds), size(stage.memory), size(stage.disk))
    total = sum(stage.seconds for stage in stages), max(stage.memory for stage in stages), sum(stage.disk for stage in stages)
    shown.add_row("together", duration(total[0]), size(total[1]), size(total[2]), style="bold")
    return shown


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}" if seconds / unit >= 10 else f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86400:.1f} days"


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _experts(experiment: Experiment, known: Facts, probe: Probe) -> Stage:
    recipe, wanted = experiment.method.expert, experiment.experts
    seconds, memory = probe.expert_step(experiment.method, min(recipe.batch, known.train), penalty=True)
    steps = wanted.count * recipe.epochs * math.ceil(known.train / recipe.batch)
    disk = wanted.count * (recipe.epochs + 1) * probe.parameters * (2 if wanted.dtype == "bfloat16" else 4)
    return Stage(f"{wanted.count} experts of {recipe.epochs} epochs", steps * seconds, known.bytes + memory, disk)


def _distillation(experiment: Experiment, known: Facts, probe: Probe) -> Stage:
    seconds, memory = probe.outer_step(experiment)
    settings, count = experiment.distill, experiment.ipc * known.classes
    size = math.prod(known.shape)
    whitening = 4 * size * size if experiment.data.whiten == "zca" else 0
    sets = 3 if settings.validate_every else 1
    disk = 2 * 4 * count * size + sets * (
        4 * count * size + whitening
    )  # images and their momentum in the state, and each set that is saved
    spent = settings.iterations * seconds
    if settings.validate_every:
        networks = settings.iterations // settings.validate_every * settings.validate_networks
        batch = min(count, 256)
        step, _ = probe.expert_step(experiment.method, batch, penalty=False)
        spent += networks * settings.validate_epochs * math.ceil(count / batch) * step
    return Stage(f"{settings.iterations} outer steps", spent, known.bytes + memory, disk)


def _evaluation(experiment: Experiment, known: Facts, probe: Probe) -> Stage:
    wanted, recipe = experiment.evaluation, experiment.evaluation.recipe
    count = experiment.ipc * known.classes
    seconds, memory = probe.expert_step(experiment.method, recipe.batch, penalty=False)
    names = architectures(wanted.architectures, experiment.model, known.shape)
    small = (len(names) + len([name for name in wanted.baselines if name != "full"])) * recipe.epochs * count
    full = (recipe.full_epochs or recipe.epochs) * known.train if "full" in wanted.baselines else 0
    return Stage(
        f"{wanted.networks} networks a row", wanted.networks * (small + full) / recipe.batch * seconds, known.bytes + memory, 100_000
    )
