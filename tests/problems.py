"""Small problems with known answers, shared by the tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from astdistill.cli.main import main
from astdistill.data.augmentation import Draw
from astdistill.data.dataset import Dataset
from astdistill.data.storage import MappedImages
from astdistill.data.synthetic import SyntheticSet
from astdistill.data.tensors import dataset_from_tensors
from astdistill.data.textures import ORDINARY, TextureSpec
from astdistill.experts.recipe import ExpertRecipe
from astdistill.experts.store import TrajectoryStore
from astdistill.experts.training import train_experts
from astdistill.methods.matching import Matching
from astdistill.methods.unroll import InnerLoop, Plan, Variables
from astdistill.models.flat import FlatModel
from astdistill.runtime.progress import Bar
from astdistill.runtime.seeds import rng, seeded

SMALL_RUN = (
    *("--data.per-class", "12", "--model", "convnet-d1-w4", "--distill.iterations", "4"),
    *("--evaluation.networks", "1", "--evaluation.recipe.epochs", "2", "--workers", "1", "--threads", "1"),
)
"""Flags of a run on digits that takes a second, experts apart."""


class SmoothNet(nn.Module):
    """A few smooth layers with a convolution and a norm: every derivative exists, so finite differences are exact to
    rounding."""

    def __init__(self, channels: int = 2, classes: int = 3, size: int = 6) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.GroupNorm(4, 4)
        self.linear = nn.Linear(4 * (size // 2) ** 2, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = nn.functional.avg_pool2d(torch.tanh(self.norm(self.convolution(images))), 2)
        return self.linear(hidden.flatten(1))


@dataclass(frozen=True)
class Problem:
    """An inner loop, where it starts, what is differentiated, and the objective: everything an estimator takes."""

    inner: InnerLoop
    start: Tensor
    variables: Variables
    objective: Matching


def problem(
    steps: int = 4,
    batch: int | None = None,
    momentum: float = 0.9,
    read: Sequence[int] = (4,),
    soft: bool = False,
    augment: bool = True,
    texture: TextureSpec = ORDINARY,
) -> Problem:
    """A float64 problem of six images, 2 × 6 × 6 (or canvases of such), three classes; `read` are the inner steps the
    objective sees."""
    generator = rng(7, "problem")
    with seeded(3, "network"):
        model = FlatModel(SmoothNet().double())
    start = model.flatten()
    images = torch.randn(6, *texture.extent((2, 6, 6)), generator=generator, dtype=torch.float64)
    labels = torch.arange(6) % 3
    targets = (
        torch.randn(6, 3, generator=generator, dtype=torch.float64)
        if soft
        else nn.functional.one_hot(labels, 3).double()
    )
    size = batch or 6
    indices = torch.stack([torch.randperm(6, generator=generator)[:size] for _ in range(steps)])
    indices = texture.repeated(indices)
    seen = indices.shape[1]
    draws = tuple(_flips(seen, generator) if augment else Draw("none") for _ in range(steps))
    crops = tuple(texture.draw(seen, (6, 6), generator) for _ in range(steps))
    inner = InnerLoop(model, Plan(indices, draws, crops), momentum, weight=1.3, labels="soft" if soft else "hard")
    checkpoints = start + 0.1 * torch.randn(len(read), len(start), generator=generator, dtype=torch.float64)
    scales = torch.rand(len(read), generator=generator, dtype=torch.float64) + 0.5
    variables = Variables(images, targets, torch.tensor(0.05, dtype=torch.float64))
    return Problem(inner, start, variables, Matching(tuple(read), checkpoints, scales))


def _flips(size: int, generator: torch.Generator) -> Draw:
    return Draw("flip", {"flip": torch.rand(size, generator=generator) < 0.5})


def blobs(
    classes: int = 3, count: int = 24, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0, **fields: Any
) -> Dataset:
    """A data set of `count` noisy copies of one random picture per class, with as many to test on; `fields` are
    DataConfig's."""
    generator = rng(seed, "blobs")
    centres = torch.rand(classes, *shape, generator=generator)

    def sample() -> tuple[Tensor, Tensor]:
        labels = torch.arange(classes).repeat(count)
        noise = 0.15 * torch.randn(len(labels), *shape, generator=generator)
        return (centres[labels] + noise).clamp(0, 1), labels

    return dataset_from_tensors(*sample(), *sample(), name="blobs", **fields)


TINY = "convnet-d1-w4"
TINY_RECIPE = ExpertRecipe(epochs=6, batch=24, lr=0.05, momentum=0.9, augmentation="flip_scale")


def tiny_experts(
    folder: Path, dataset: Dataset, count: int = 2, model: str = TINY, recipe: ExpertRecipe = TINY_RECIPE
) -> TrajectoryStore:
    """Two short trajectories of a network of a few hundred parameters."""
    return train_experts(dataset, model=model, recipe=recipe, count=count, store=folder)


def same_store(first: TrajectoryStore, second: TrajectoryStore) -> bool:
    """Whether two stores are equal to the bit: identity, numbers of the experts, rows and curves."""
    return (
        first.identity == second.identity
        and first.experts() == second.experts()
        and first.curves() == second.curves()
        and all(
            torch.equal(first.rows(k, 0, first.epochs + 1), second.rows(k, 0, first.epochs + 1))
            for k in first.experts()
        )
    )


def same_set(first: SyntheticSet, second: SyntheticSet) -> bool:
    """Whether two distilled sets are equal to the bit."""
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("images", "targets", "lr"))


@contextmanager
def float64_by_default() -> Iterator[None]:
    """What a user may have set, who computes in float64 elsewhere."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def exit_code(*words: str) -> int:
    """The code with which `astdistill WORDS` would end."""
    return main(words)


def dropout_net(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    """A user's own network, at `problems:dropout_net`, that draws random numbers while it trains."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * size[0] * size[1], 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, classes)
    )


def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of images at each read of images that lie in a file."""
    read: list[int] = []
    original = MappedImages.__getitem__

    def counted(self: MappedImages, indices: slice | Tensor) -> Tensor:
        found = original(self, indices)
        read.append(len(found))
        return found

    monkeypatch.setattr(MappedImages, "__getitem__", counted)
    return read


class NotedBar(Bar):
    """A bar that nobody sees, and that keeps its notes."""

    def __init__(self) -> None:
        super().__init__("", 100, 0, None)
        self.notes: list[str] = []

    def step(self, units: int = 1, note: str = "") -> None:
        super().step(units, note)
        self.notes.append(note)
