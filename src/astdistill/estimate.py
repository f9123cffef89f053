"""What an experiment will cost in memory, disk and time on this machine, measured on random data before anything is spent."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor

from .data import load_dataset
from .experiment import Experiment
from .experts.training import expert_loss
from .methods import Method
from .models import FlatModel, build_model
from .seeds import rng
from .unroll import InnerLoop, Matching, Variables, draw_plan


@dataclass(frozen=True)
class Facts:
    """What an estimate needs to know of a data set."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int

    @property
    def bytes(self) -> int:
        """All images as float32."""
        return 4 * (self.train + self.test) * math.prod(self.shape)


NAMED = {
    "digits": Facts((1, 8, 8), 10, 1437, 360),
    "cifar10": Facts((3, 32, 32), 10, 50000, 10000),
    "cifar100": Facts((3, 32, 32), 100, 50000, 10000),
    "mnist": Facts((1, 32, 32), 10, 60000, 10000),
    "fashion_mnist": Facts((1, 32, 32), 10, 60000, 10000),
    "svhn": Facts((3, 32, 32), 10, 73257, 26032),
}


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
    probe = Probe(experiment, known)
    return [_experts(experiment, known, probe), _distillation(experiment, known, probe), _evaluation(experiment, known, probe)]


def table(experiment: Experiment, stages: list[Stage]) -> Table:
    """The estimate for the terminal."""
    shown = Table(
        caption=f"{experiment.name} on {experiment.device}: from a few timed steps; good to a factor of two.", caption_justify="left"
    )
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


class Probe:
    """A network of the experiment on random images, for timing a few steps."""

    def __init__(self, experiment: Experiment, known: Facts) -> None:
        self.known, self.device = known, experiment.device
        self.network = build_model(experiment.model, known.shape, known.classes).to(experiment.device)
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())

    def _images(self, batch: int) -> tuple[Tensor, Tensor]:
        generator = rng(0, "probe")
        images = torch.randn(batch, *self.known.shape, generator=generator).to(self.device)
        return images, torch.randint(self.known.classes, (batch,), generator=generator).to(self.device)

    def expert_step(self, method: Method, batch: int, penalty: bool) -> tuple[float, int]:
        """Seconds and bytes of one training step on `batch` images."""
        probed = min(batch, 32)
        images, labels = self._images(probed)
        recipe = method.expert if penalty else method.expert.replace(penalty=0.0)

        def step() -> None:
            expert_loss(self.network, images, images, labels, recipe, 0)[0].backward()

        return _timed(step, self.device) * batch / probed, _saved_bytes(step) * batch // probed

    def outer_step(self, experiment: Experiment) -> tuple[float, int]:
        """Seconds and bytes of one outer step, from unrolls of one and two inner steps."""
        settings, count = experiment.distill, experiment.ipc * self.known.classes
        batch = min(settings.batch_syn or count, count)
        probed = min(batch, 20)
        # Without augmentation, because a dearer operation drawn for the second step would look like growth with T.
        first, second = (_saved_bytes(self._unroll(experiment, steps, probed, "")) for steps in (1, 2))
        # The hooks keep a norm's small outputs in a reference cycle for a while; growth of a few per cent is theirs, not the estimator's.
        growth = second - first if second > 1.05 * first else 0
        graphs = (first + (settings.inner_steps - 1) * growth) * batch // probed
        seconds = (
            _timed(self._unroll(experiment, 2, probed, settings.augmentation), self.device) * settings.inner_steps / 2 * batch / probed
        )
        return seconds, graphs + 4 * self.parameters * (settings.inner_steps + 8)

    def _unroll(self, experiment: Experiment, steps: int, batch: int, strategy: str) -> Callable[[], None]:
        """A meta-gradient through `steps` inner steps on `batch` images."""
        images, labels = self._images(batch)
        model = FlatModel(self.network)
        start = model.flatten()
        plan = draw_plan(steps, batch, None, strategy, self.known.shape, rng(0, "probe"), self.device)
        targets = torch.nn.functional.one_hot(labels, self.known.classes).float()
        variables = Variables(images, targets, torch.tensor(0.01, device=self.device))
        goal = Matching((steps,), start[None] + 0.01, torch.ones(1, device=self.device))
        inner = InnerLoop(model, plan, experiment.method.momentum)
        return lambda: _done(experiment.method.estimator(inner, start, variables, goal))


def _experts(experiment: Experiment, known: Facts, probe: Probe) -> Stage:
    recipe, wanted = experiment.method.expert, experiment.experts
    seconds, memory = probe.expert_step(experiment.method, min(recipe.batch, known.train), penalty=True)
    steps = wanted.count * recipe.epochs * known.train / recipe.batch
    disk = wanted.count * (recipe.epochs + 1) * probe.parameters * (2 if wanted.dtype == "bfloat16" else 4)
    return Stage(f"{wanted.count} experts of {recipe.epochs} epochs", steps * seconds, known.bytes + memory, disk)


def _distillation(experiment: Experiment, known: Facts, probe: Probe) -> Stage:
    seconds, memory = probe.outer_step(experiment)
    images = 4 * experiment.ipc * known.classes * math.prod(known.shape)
    return Stage(f"{experiment.distill.iterations} outer steps", experiment.distill.iterations * seconds, known.bytes + memory, 5 * images)


def _evaluation(experiment: Experiment, known: Facts, probe: Probe) -> Stage:
    wanted, recipe = experiment.evaluation, experiment.evaluation.recipe
    count = experiment.ipc * known.classes
    seconds, memory = probe.expert_step(experiment.method, recipe.batch, penalty=False)
    small = (max(1, len(wanted.architectures)) + len([name for name in wanted.baselines if name != "full"])) * recipe.epochs * count
    full = (recipe.full_epochs or recipe.epochs) * known.train if "full" in wanted.baselines else 0
    return Stage(
        f"{wanted.networks} networks a row", wanted.networks * (small + full) / recipe.batch * seconds, known.bytes + memory, 100_000
    )


def _done(result: object) -> None:
    """Drop a result, so that a step returns nothing."""


def _timed(step: Callable[[], None], device: str) -> float:
    """The faster of two runs after a warm-up."""
    step()
    taken = []
    for _ in range(2):
        _wait(device)
        began = time.perf_counter()
        step()
        _wait(device)
        taken.append(time.perf_counter() - began)
    return min(taken)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _saved_bytes(step: Callable[[], None]) -> int:
    """The most bytes that autograd keeps alive at once during a step, each storage counted once: what grows with the batch."""
    alive: dict[int, int] = {}
    ledger = {"now": 0, "peak": 0}

    def release(address: int, count: int) -> None:
        alive[address] -= 1
        ledger["now"] -= 0 if alive[address] else count

    def keep(tensor: Tensor) -> _Kept:
        storage = tensor.untyped_storage()
        address, count = storage.data_ptr(), storage.nbytes()
        ledger["now"] += 0 if alive.get(address) else count
        ledger["peak"] = max(ledger["peak"], ledger["now"])
        alive[address] = alive.get(address, 0) + 1
        kept = _Kept(tensor)
        weakref.finalize(kept, release, address, count)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        step()
    return ledger["peak"]


class _Kept:
    """A tensor that a graph has saved; it goes when the graph goes."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
