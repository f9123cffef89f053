"""Where X starts: which real images, or noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ...data import Dataset, representatives
from ...errors import InputError
from ...experts import TrajectoryStore
from ...models import FlatModel
from ...records import Part
from ...seeds import derive, rng
from ...shapes import Images, Labels, Logits
from ...synthetic import load


@dataclass(frozen=True)
class Initial:
    """Start images `[N, C, H, W]` with labels `[N]`, grouped by class, N = K × ipc."""

    images: Images
    labels: Labels


class Init(Part):
    """Chooses the start of X from the training images. ipc has been checked against the class sizes."""

    def check(self, dataset: Dataset, ipc: int) -> None:
        """Raise InputError when so many images per class of this data set cannot be chosen this way."""

    def __call__(self, dataset: Dataset, experts: TrajectoryStore, model: FlatModel, ipc: int, seed: int) -> Initial:
        """The initial set."""
        chosen = [self.choose(dataset, label, ipc, experts, model, seed) for label in range(len(dataset.classes))]
        indices = torch.cat(chosen).to(dataset.train.labels.device)
        return Initial(dataset.train.images[indices].clone(), dataset.train.labels[indices].clone())

    def choose(self, dataset: Dataset, label: int, ipc: int, experts: TrajectoryStore, model: FlatModel, seed: int) -> Int[Tensor, " I"]:
        """Indices into the training images of `ipc` images of class `label`."""
        raise NotImplementedError


class RealInit(Init):
    """Random real images of each class (MTT)."""

    def choose(self, dataset: Dataset, label: int, ipc: int, experts: TrajectoryStore, model: FlatModel, seed: int) -> Int[Tensor, " I"]:
        members = dataset.train.of_class(label).cpu()
        return members[torch.randperm(len(members), generator=rng(seed, "init", label))[:ipc]]


class CorrectInit(Init):
    """Random real images of each class among those that a trained expert classifies correctly (DATM, arXiv 2310.05773, §3.2).

    Where these are too few, those follow that it gets wrong by the least: by how far the logit of another class is above their own.
    """

    def choose(self, dataset: Dataset, label: int, ipc: int, experts: TrajectoryStore, model: FlatModel, seed: int) -> Int[Tensor, " I"]:
        members = dataset.train.of_class(label)
        members = members[torch.randperm(len(members), generator=rng(seed, "init", label)).to(members.device)]
        logits = expert_logits(experts, model, dataset.train.images[members], seed)
        wrong_by = (logits.amax(dim=1) - logits[:, label]).clamp_min(0.0)
        return members.cpu()[wrong_by.argsort(stable=True)[:ipc]]


class NoiseInit(Init):
    """Gaussian noise, unit variance in the preprocessed space."""

    def __call__(self, dataset: Dataset, experts: TrajectoryStore, model: FlatModel, ipc: int, seed: int) -> Initial:
        labels = torch.arange(len(dataset.classes)).repeat_interleave(ipc)
        images = torch.randn(len(labels), *dataset.shape, generator=rng(seed, "init"))
        device = dataset.train.images.device
        return Initial(images.to(device), labels.to(device))


class FileInit(Init):
    """The images of an earlier distilled set, which must have the same classes, images per class and preprocessing."""

    path: Path
    """A synthetic.safetensors, or the run folder that holds one."""

    def check(self, dataset: Dataset, ipc: int) -> None:
        earlier = load(self.path)
        found = (earlier.classes, earlier.ipc, tuple(earlier.images.shape[1:]), earlier.preprocessing.hash)
        wanted = (dataset.classes, ipc, dataset.shape, dataset.preprocessing.hash)
        for name, has, wants in zip(("classes", "images per class", "image shape", "preprocessing"), found, wanted, strict=True):
            if has != wants:
                raise InputError(f"{self.path} has other {name} ({has}) than this run ({wants}); start from a set like it, or --init real.")

    def __call__(self, dataset: Dataset, experts: TrajectoryStore, model: FlatModel, ipc: int, seed: int) -> Initial:
        earlier, device = load(self.path), dataset.train.images.device
        return Initial(earlier.images.to(device), earlier.hard_labels.to(device))


class RepresentativeInit(Init):
    """AST, METHOD §2 part 3, sound: K-means with k = ipc on an expert's logits, the real image nearest each centre within its cluster."""

    def choose(self, dataset: Dataset, label: int, ipc: int, experts: TrajectoryStore, model: FlatModel, seed: int) -> Int[Tensor, " I"]:
        members = dataset.train.of_class(label)
        logits = expert_logits(experts, model, dataset.train.images[members], seed)
        return members.cpu()[representatives(logits, ipc, derive(seed, "init", label))]


class RepresentativeInitAsReleased(Init):
    """AST, METHOD §2 part 3, as released: ten clusters whatever ipc is, int(ipc / 10) images of the whole class nearest each centre."""

    def check(self, dataset: Dataset, ipc: int) -> None:
        if ipc % 10:
            raise InputError(
                f"The released representative initialisation takes int(ipc/10) images from each of ten clusters, which is not {ipc} images "
                f"per class; use a multiple of 10, or --method ast, or --without representative."
            )

    def choose(self, dataset: Dataset, label: int, ipc: int, experts: TrajectoryStore, model: FlatModel, seed: int) -> Int[Tensor, " I"]:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        members = dataset.train.of_class(label)
        logits = expert_logits(experts, model, dataset.train.images[members], seed).double()
        means: Any = KMeans  # its annotations allow only the text 'auto' for n_init
        with threadpool_limits(limits=1):  # parallel sums would change the last bits
            found = means(n_clusters=10, n_init=4, random_state=derive(seed, "init", label) % 2**32).fit(logits.numpy())
        distances = torch.cdist(torch.from_numpy(found.cluster_centers_).double(), logits)
        return members.cpu()[distances.argsort(dim=1)[:, : ipc // 10].flatten()]


@torch.no_grad()
def expert_logits(experts: TrajectoryStore, model: FlatModel, images: Images, seed: int) -> Logits:
    """The logits of one drawn, fully trained expert, on the CPU."""
    numbers = experts.experts()
    expert = numbers[int(torch.randint(len(numbers), (), generator=rng(seed, "init", "expert")))]
    theta = experts.rows(expert, experts.epochs, experts.epochs + 1)[0].to(images.device)
    return torch.cat([model(theta, part) for part in images.split(1000)]).cpu()
