"""One epoch of expert training: one network on all threads from a DataLoader as published, and our experts in
parallel, one per core."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from astdistill.autodiff.training import Trainee, accuracy
from astdistill.data.augmentation import apply, draw
from astdistill.data.dataset import Split
from astdistill.experts.recipe import ExpertRecipe
from astdistill.experts.training import make_optimiser, train_epoch
from astdistill.models.registry import build_model
from astdistill.runtime.seeds import rng

from . import published
from .convnet_work import PENALISED, TEST, TRAIN, Net, Units, Work, convnet_work
from .harness import SideBySide
from .task import PUBLISHED, TINY, Bench, Settings, Task

RATE = 1e-4
"""A small learning rate, which keeps every number finite on random labels with the penalty; speed does not depend on
it."""


class Case(NamedTuple):
    """A network, whether its input gradient is penalised, and how many images it learns from and is tested on."""

    net: Net
    penalty: float = 0.0
    images: int = 5000
    tested: int = 1000
    batch: int = 256

    @property
    def recipe(self) -> ExpertRecipe:
        return ExpertRecipe(batch=self.batch, lr=RATE, momentum=0.9, penalty=self.penalty)


MAIN = {"w32": Case(Net(width=32)), "w128": Case(Net(width=128)), "w32-penalty": Case(Net(width=32), 2.0)}
MORE = {"w128-penalty": Case(Net(width=128), 2.0)}
CASES = MAIN | MORE | {"tiny": Case(TINY, 0.0, 32, 16, 8), "tiny-penalty": Case(TINY, 2.0, 32, 16, 8)}


class Trainer(NamedTuple):
    """One expert: `train` for an epoch on a split, and `test` it."""

    train: Callable[[Split], object]
    test: Callable[[], object]


def our_trainer(case: Case, tested: Split) -> Trainer:
    """An expert as `train_experts` trains it. Only this function here depends on how it does so."""
    recipe, classes = case.recipe, case.net.classes
    trainee = Trainee(build_model(case.net.name, case.net.shape, classes))
    optimiser = make_optimiser(trainee, recipe, 0)
    return Trainer(
        lambda split: train_epoch(trainee, optimiser, split, classes, recipe, 0, 0),
        lambda: accuracy(trainee.logits, tested),
    )


def our_data(case: Case, split: Split) -> None:
    """Selection and augmentation of one epoch alone, as our training does them."""
    generator = rng(0, "epoch")
    for images, _ in split.batches(case.batch, torch.randperm(len(split), generator=generator)):
        apply(images, draw(case.recipe.augmentation, len(images), case.net.shape, generator))


def published_trainer(case: Case, tested: Split) -> Trainer:
    """One network fed by a DataLoader over single items, tested after every epoch."""
    network, recipe = published.convnet(case.net), case.recipe
    optimiser = torch.optim.SGD(network.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    test = published.loader(tested.whole(), tested.labels, case.batch, False)

    def train(split: Split) -> object:
        batches = published.loader(split.whole(), split.labels, case.batch, True)
        return published.train_epoch(
            network, optimiser, batches, recipe.augmentation, recipe.penalty, _same_draws(split)
        )

    return Trainer(train, lambda: published.accuracy(network, test))


def published_data(case: Case, split: Split) -> None:
    """The same epoch's batches and augmentation alone."""
    generator = _same_draws(split)
    for images, _ in published.loader(split.whole(), split.labels, case.batch, True):
        apply(images, draw(case.recipe.augmentation, len(images), case.net.shape, generator))


def _same_draws(split: Split) -> torch.Generator:
    """A generator that has drawn the permutation of our epoch, and draws the same augmentations next."""
    generator = rng(0, "epoch")
    torch.randperm(len(split), generator=generator)
    return generator


def random_split(case: Case, count: int) -> Split:
    """Random images, equally many of each class."""
    return Split(
        torch.randn(count, *case.net.shape, generator=rng(0, "images", count)), torch.arange(count) % case.net.classes
    )


class Expert:
    """One expert of a case in this process: call `warm`, `run` and then `share`."""

    def __init__(self, name: str, variant: str) -> None:
        self.case = CASES[name]
        self.split = random_split(self.case, self.case.images)
        ours = variant != PUBLISHED
        self.trainer = (our_trainer if ours else published_trainer)(
            self.case, random_split(self.case, self.case.tested)
        )
        self.data = our_data if ours else published_data
        self.training = 0.0

    def warm(self) -> None:
        """Train on two batches and test."""
        self.trainer.train(self.split.select(torch.arange(min(2 * self.case.batch, len(self.split)))))
        self.trainer.test()

    def run(self) -> None:
        """Train one epoch and test."""
        began = time.perf_counter()
        self.trainer.train(self.split)
        self.training = time.perf_counter() - began
        self.trainer.test()

    def share(self) -> dict[str, Any]:
        """`share`: the time of selection and augmentation alone over that of the whole training epoch."""
        began = time.perf_counter()
        self.data(self.case, self.split)
        return {"share": (time.perf_counter() - began) / self.training}


def task(name: str, variant: str, settings: Settings) -> Task:
    """An epoch of one network on all threads, or of as many single-threaded experts in parallel as there are
    threads."""
    if variant == PUBLISHED:
        expert = Expert(name, variant)
        return Task(expert.warm, expert.run, after=expert.share)
    experts = SideBySide(settings.threads, name, variant)
    return Task(experts.warm, experts.run, units=settings.threads, after=experts.after)


def work(name: str, variant: str, settings: Settings) -> Work:
    """The convolutions of one epoch and its test pass."""
    case = CASES[name]
    units = TRAIN
    if case.penalty:  # a second forward pass, as published, adds 3 − 1 adjoints and itself
        units = (
            Units(TRAIN.first + PENALISED.first, TRAIN.inner + PENALISED.inner) if variant == PUBLISHED else PENALISED
        )
    return convnet_work(case.net, units, case.images) + convnet_work(case.net, TEST, case.tested)


BENCH = Bench(
    "experts",
    "one epoch of the whole machine: 5,000 images 32×32, ConvNet of width w, DSA, and a test pass over 1,000",
    tuple(MAIN),
    tuple(MORE),
    (PUBLISHED, "ours"),
    task,
    work,
)
