"""Augmenting one batch: image by image as published, and the whole batch at once."""

from __future__ import annotations

from typing import NamedTuple

import torch

from astdistill.data.augmentation import STRATEGY, apply, draw
from astdistill.runtime.seeds import rng

from . import published
from .convnet_work import FLOAT, Work
from .task import PUBLISHED, Bench, Settings, Task


class Case(NamedTuple):
    """The operations, and the number and size of the images."""

    strategy: str
    batch: int = 256
    size: int = 32
    calls: int = 30

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.size, self.size


CASES = {op: Case(op) for op in STRATEGY.split("_")} | {"strategy": Case(STRATEGY), "tiny": Case(STRATEGY, 4, 8, 2)}


def task(name: str, variant: str, settings: Settings) -> Task:
    """Draw and apply, `calls` times with the same numbers for every variant, after two warm-up calls."""
    case = CASES[name]
    images = torch.randn(case.batch, *case.shape, generator=rng(0, "bench"))
    transform = published.augmented_one_by_one if variant == PUBLISHED else apply

    def augment(calls: int) -> None:
        generator = rng(0, "augment")
        for _ in range(calls):
            transform(images, draw(case.strategy, case.batch, case.shape, generator))

    return Task(lambda: augment(2), lambda: augment(case.calls), units=case.calls)


def work(name: str, variant: str, settings: Settings) -> Work:
    """Every image read once and written once; arithmetic is not counted."""
    case = CASES[name]
    return Work(bytes=2 * FLOAT * case.batch * 3 * case.size**2)


BENCH = Bench(
    "augment",
    "one batch of 256 images, 32 px: each operation, and the strategy that draws one of them",
    tuple(name for name in CASES if name != "tiny"),
    (),
    (PUBLISHED, "ours"),
    task,
    work,
)
