"""What MTT's code does with its files, written plainly from its papers and its file formats: the oracle of
`exchange/`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from astdistill.experts.store import TrajectoryStore
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.seeds import rng, seeded

Rows = list[list[Tensor]]


class PublishedConvNet(nn.Module):
    """The ConvNet as its users know it: convolution, norm with a group for each channel, ReLU, average pooling; then
    one linear layer."""

    def __init__(self, channels: int, classes: int, size: int, depth: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(depth):
            layers += [
                nn.Conv2d(width if block else channels, width, 3, padding=1),
                nn.GroupNorm(width, width),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * (size // 2**depth) ** 2, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


def snapshot(network: nn.Module) -> list[Tensor]:
    """One row, copied."""
    return [part.detach().cpu().clone() for part in network.parameters()]


def alias(network: nn.Module) -> list[Tensor]:
    """One row as the released code takes it: on a CPU these are the live parameters."""
    return [part.detach().cpu() for part in network.parameters()]


def trained(
    network: nn.Module, images: Tensor, labels: Tensor, epochs: int, row: Callable[[nn.Module], list[Tensor]] = snapshot
) -> Rows:
    """A trajectory: the row before the first epoch and after each."""
    rows, optimiser = [row(network)], torch.optim.SGD(network.parameters(), lr=0.05)
    for epoch in range(epochs):
        for chosen in torch.randperm(len(images), generator=rng(0, "reference", epoch)).split(24):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images[chosen]), labels[chosen]).backward()
            optimiser.step()
        rows.append(row(network))
    return rows


def published_rows(
    depth: int = 1, width: int = 4, classes: int = 3, size: int = 8, count: int = 3, seed: int = 0
) -> Rows:
    """`count` rows of a one-channel ConvNet, drawn, not trained."""
    rows = []
    for row in range(count):
        with seeded(seed, "rows", row):
            rows.append(snapshot(PublishedConvNet(1, classes, size, depth, width)))
    return rows


def write_buffers(folder: Path, files: Sequence[Sequence[Rows]]) -> Path:
    """`replay_buffer_0.pt` and so on, each a list of experts."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, experts in enumerate(files):
        torch.save(list(experts), folder / f"replay_buffer_{number}.pt")
    return folder


def rows_of(store: TrajectoryStore, expert: int) -> Rows:
    """A trajectory of a store, as lists of tensors."""
    identity = store.identity
    flat = FlatModel(build_model(identity.model, identity.shape, len(identity.classes)))
    return [[part.clone() for part in flat.unflatten(row).values()] for row in store.rows(expert, 0, store.epochs + 1)]


class Touch:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def loss_of_set(folder: Path, network: nn.Module) -> tuple[Tensor, float]:
    """The loss that a published evaluation takes on its first step, and its learning rate, from the three files
    alone."""
    images, labels, lr = (torch.load(folder / f"{name}.pt") for name in ("images_best", "labels_best", "lr"))
    return nn.CrossEntropyLoss()(network(images), labels if labels.ndim == 1 else labels.softmax(1)), lr.item()
