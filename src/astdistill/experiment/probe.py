"""A few steps of an experiment on random images, timed and weighed."""

from __future__ import annotations

import copy
import math
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..autodiff.dispatch import held_bytes as engine_bytes
from ..autodiff.training import Trainee
from ..data.dataset import DataConfig
from ..data.imagenet import SIZE, SUBSETS
from ..data.storage import held_bytes, residence
from ..experts.recipe import ExpertRecipe
from ..experts.training import expert_gradient
from ..methods.matching import Matching
from ..methods.method import Method
from ..methods.unroll import AT_ONCE, AT_ONCE_CUDA, InnerLoop, Variables, draw_plan
from ..models.flat import FlatModel
from ..models.registry import build_model
from ..runtime.seeds import rng
from .config import Experiment

PROBED = 50
"""Images in a probe: enough that an engine which splits its batches holds as much memory as for any larger one."""
LONG_S = 1.0
"""A step of so many seconds is not timed again: what disturbs it for a moment counts for little in it, and its user
waits."""


@dataclass(frozen=True)
class Facts:
    """What an estimate needs to know of a data set."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int

    def held(self, data: DataConfig, device: str) -> int:
        """Bytes of memory for all images, as that configuration keeps them, and for ZCA's matrices."""
        images = self.train + self.test
        where = residence(data.memory, images, self.shape, data.whiten, device)
        matrices = {"none": 0, "standard": 0, "zca": 1 if where == "float32" else 2}[data.whiten]
        return held_bytes(where, images, self.shape) + matrices * 4 * math.prod(self.shape) ** 2


NAMED = {
    "digits": Facts((1, 8, 8), 10, 1437, 360),
    "cifar10": Facts((3, 32, 32), 10, 50000, 10000),
    "cifar100": Facts((3, 32, 32), 100, 50000, 10000),
    "mnist": Facts((1, 32, 32), 10, 60000, 10000),
    "fashion_mnist": Facts((1, 32, 32), 10, 60000, 10000),
    "svhn": Facts((3, 32, 32), 10, 73257, 26032),
    "tiny_imagenet": Facts((3, 64, 64), 200, 100000, 10000),
    **{f"imagenet-{subset}": Facts((3, SIZE, SIZE), 10, 13000, 500) for subset in SUBSETS},
}
"""A class of ILSVRC-2012 has 732 to 1,300 training images; those of the subsets are counted with the most."""


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
        probed = min(batch, PROBED)
        images, labels = self._images(probed)
        recipe = trained_as(method, penalty)
        trainee, targets = Trainee(copy.deepcopy(self.network)), self._targets(labels)

        def step() -> None:
            expert_gradient(trainee, images, images, targets, recipe, 0)

        held = saved_bytes(step) * batch // probed + engine_bytes(trainee.model)
        return _timed(step, self.device) * batch / probed, held

    def outer_step(self, experiment: Experiment) -> tuple[float, int]:
        """Seconds and bytes of one trajectory of an outer step, from unrolls of one and two steps, without the kept
        students."""
        settings, count = experiment.distill, experiment.ipc * self.known.classes
        batch = min(settings.batch_syn or count, count) * settings.torus.samples
        probed = min(batch, PROBED)
        model = FlatModel(self.network)
        # Without augmentation, because a dearer operation drawn for the second step would look like growth with T.
        first, second = (saved_bytes(self._unroll(experiment, model, steps, probed, "")) for steps in (1, 2))
        # The hooks keep a norm's small outputs in a reference cycle for a while; growth of a few per cent is theirs,
        # not the estimator's.
        growth = second - first if second > 1.05 * first else 0
        together = (
            3 * 4 * (AT_ONCE_CUDA if self.device.startswith("cuda") else AT_ONCE)
        )  # images, augmented images, their derivatives
        graphs = (first + (settings.inner_steps - 1) * growth) * batch // probed + engine_bytes(model) + together
        seconds = _timed(self._unroll(experiment, model, 2, probed, settings.augmentation), self.device) * (
            settings.inner_steps / 2 * batch / probed
        )
        return seconds, graphs

    def _targets(self, labels: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(labels, self.known.classes).float()

    def _unroll(
        self, experiment: Experiment, model: FlatModel, steps: int, batch: int, strategy: str
    ) -> Callable[[], None]:
        """A meta-gradient through `steps` inner steps on `batch` images."""
        images, labels = self._images(batch)
        start = model.flatten().to(self.device)
        plan = draw_plan(steps, batch, None, strategy, self.known.shape, rng(0, "probe"), self.device)
        if not strategy:  # weighed, not timed: images that are augmented together would look like growth with T
            plan = replace(plan, at_once=1)
        targets = self._targets(labels)
        variables = Variables(images, targets, torch.tensor(0.01, device=self.device))
        goal = Matching((steps,), start[None] + 0.01, torch.ones(1, device=self.device))
        inner = InnerLoop(model, plan, experiment.method.momentum)
        return lambda: _done(experiment.method.estimator(inner, start, variables, goal))


def trained_as(method: Method, penalty: bool) -> ExpertRecipe:
    """How the method's experts are trained, with the recipe's penalty and sharpness or without; MTT's way where it has
    none."""
    recipe = method.expert or ExpertRecipe()
    return recipe if penalty else recipe.replace(penalty=0.0, sharpness=0.0)


def _done(result: object) -> None:
    """Drop a result, so that a step returns nothing."""


def _timed(step: Callable[[], None], device: str) -> float:
    """Seconds of a step that has been run before, which was its warm-up: the faster of two runs, or a single one that
    takes long."""
    taken: list[float] = []
    while len(taken) < 2 and sum(taken) < LONG_S:
        _wait(device)
        began = time.perf_counter()
        step()
        _wait(device)
        taken.append(time.perf_counter() - began)
    return min(taken)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def saved_bytes(step: Callable[[], None]) -> int:
    """The most bytes that autograd keeps alive at once during a step, each storage counted once: what grows with the
    batch."""
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
