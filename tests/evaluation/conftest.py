"""Tiny labelled sets: coloured blobs that any network tells apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from astdistill.data.dataset import DataConfig, Dataset, Split
from astdistill.data.preprocessing import Preprocessing
from astdistill.data.synthetic import SyntheticSet, one_hot

CLASSES = ("ant", "bee", "cat")
MODEL = "convnet-d1-w8"


def make_blobs(per_class: int = 24, tests: int = 20, size: int = 8, noise: float = 0.2, seed: int = 0) -> Dataset:
    """Three classes of `[3, size, size]` images, each a noisy shade of its own colour; classes are interleaved, not
    sorted."""
    generator = torch.Generator().manual_seed(seed)

    def split(count: int) -> Split:
        labels = torch.arange(len(CLASSES)).repeat(count)
        images = torch.eye(3)[labels][:, :, None, None] + noise * torch.randn(
            len(labels), 3, size, size, generator=generator
        )
        return Split(images, labels)

    shape = (3, size, size)
    return Dataset(
        "blobs",
        CLASSES,
        split(per_class),
        split(tests),
        Preprocessing.none(shape),
        f"blobs-{seed}",
        DataConfig(whiten="none"),
    )


@pytest.fixture
def blobs() -> Dataset:
    return make_blobs()


@pytest.fixture
def distil() -> Callable[[Dataset, int], SyntheticSet]:
    """Stands in for a distillation: the first images of every class, whose row of `targets` is their class."""

    def first(dataset: Dataset, ipc: int = 2) -> SyntheticSet:
        chosen = torch.cat([dataset.train.of_class(label)[:ipc] for label in range(len(dataset.classes))])
        return SyntheticSet(
            images=dataset.train.images[chosen],
            targets=one_hot(dataset.train.labels[chosen], len(dataset.classes)),
            lr=torch.tensor(0.05),
            classes=dataset.classes,
            preprocessing=dataset.preprocessing,
            data=dataset.config,
            model=MODEL,
        )

    return first
