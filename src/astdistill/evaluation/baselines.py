"""What real images reach under the same recipe: a random subset, K-means representatives, and all of them."""

from __future__ import annotations

import torch

from ..data.dataset import Dataset, Split
from ..data.selection import representatives
from ..data.synthetic import SyntheticSet, one_hot
from ..runtime.seeds import derive, rng
from .runner import REAL_LR


def random_real(dataset: Dataset, ipc: int, seed: int) -> SyntheticSet:
    """`ipc` training images of every class, drawn without replacement, grouped by class. Raises InputError when a class
    is too small."""
    dataset.check_ipc(ipc)
    chosen = []
    for label in range(len(dataset.classes)):
        members = dataset.train.of_class(label)
        order = torch.randperm(len(members), generator=rng(seed, "random-real", label))
        chosen.append(members[order[:ipc].to(members.device)])
    return _real(dataset, torch.cat(chosen), "random real images")


def kmeans_real(dataset: Dataset, ipc: int, seed: int) -> SyntheticSet:
    """Per class the `ipc` training images nearest the centres of K-means, each within its own cluster, grouped by
    class.

    K-means sees the preprocessed pixels. Raises InputError when a class is too small.
    """
    dataset.check_ipc(ipc)
    chosen = []
    for label in range(len(dataset.classes)):
        members = dataset.train.of_class(label)
        features = dataset.train.batch(members).flatten(1)
        indices = representatives(features, ipc, seed=derive(seed, "kmeans-real", label))
        chosen.append(members[indices.to(members.device)])
    return _real(dataset, torch.cat(chosen), "K-means real images")


def full_data(dataset: Dataset) -> Split:
    """All training images that are not held out for validation."""
    return dataset.train


def _real(dataset: Dataset, indices: torch.Tensor, method: str) -> SyntheticSet:
    return SyntheticSet(
        images=dataset.train.batch(indices),
        targets=one_hot(dataset.train.labels[indices], len(dataset.classes)),
        lr=torch.tensor(REAL_LR, device=dataset.device),
        classes=dataset.classes,
        preprocessing=dataset.preprocessing,
        data=dataset.config,
        model="",
        method=method,
        fingerprint=dataset.fingerprint,
    )
