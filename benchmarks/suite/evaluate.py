"""Evaluating a hundred images by five networks: one after another on all threads as published, and through this
package."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils.data import TensorDataset

from astdistill.data.augmentation import STRATEGY
from astdistill.data.dataset import Dataset
from astdistill.data.tensors import dataset_from_tensors
from astdistill.evaluation.protocol import MTT_PROTOCOL
from astdistill.evaluation.rows import REAL_LR
from astdistill.evaluation.runner import evaluate
from astdistill.runtime.seeds import rng

from . import published
from .convnet_work import TEST, TRAIN, Net, Work, convnet_work
from .task import PUBLISHED, TINY, Bench, Settings, Task, largest_worker_mb


class Case(NamedTuple):
    """Networks, and the images that they learn from and are tested on."""

    net: Net
    images: int = 100
    tested: int = 1000
    networks: int = 5
    epochs: int = 300


CASES = {"w32": Case(Net(width=32)), "w128": Case(Net(width=128)), "tiny": Case(TINY, 20, 20, 2, 3)}


def chosen(name: str, settings: Settings) -> Case:
    """The case, with the requested number of epochs."""
    case = CASES[name]
    return case._replace(epochs=settings.epochs or case.epochs)


def task(name: str, variant: str, settings: Settings) -> Task:
    """All networks of the case, after one network of two epochs.

    `peak_mb` is that of this process; where the package starts workers, `worker_mb` is the peak of the largest.
    """
    case, dataset = chosen(name, settings), random_images(CASES[name])
    run = _published if variant == PUBLISHED else _ours
    small = case._replace(networks=1, epochs=2)

    def after() -> dict[str, Any]:
        return {"epochs": case.epochs, "worker_mb": largest_worker_mb()}

    return Task(lambda: run(small, dataset), lambda: run(case, dataset), after=after)


def random_images(case: Case) -> Dataset:
    """Random pixels, equally many images of each class."""
    generator = rng(0, "bench")

    def part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randint(256, (count, *case.net.shape), generator=generator).byte(), torch.arange(
            count
        ) % case.net.classes

    return dataset_from_tensors(*part(case.images), *part(case.tested), name="random")


def _published(case: Case, dataset: Dataset) -> object:
    train, test = (TensorDataset(part.whole(), part.labels) for part in (dataset.train, dataset.test))
    return published.evaluated(case.net, train, test, case.networks, case.epochs, STRATEGY, REAL_LR)


def _ours(case: Case, dataset: Dataset) -> object:
    recipe = MTT_PROTOCOL.replace(epochs=case.epochs, released_count=False)  # as many passes as the other row
    return evaluate(dataset.train, dataset, recipe=recipe, model=case.net.name, seeds=case.networks)


def work(name: str, variant: str, settings: Settings) -> Work:
    """The convolutions of all training steps and of the one test pass of each network."""
    case = chosen(name, settings)
    training = convnet_work(case.net, TRAIN, case.images).times(case.epochs)
    return (training + convnet_work(case.net, TEST, case.tested)).times(case.networks)


BENCH = Bench(
    "evaluate",
    "5 networks of width w trained for 300 epochs on 100 images, and tested once on 1,000",
    ("w32", "w128"),
    (),
    (PUBLISHED, "ours"),
    task,
    work,
)
