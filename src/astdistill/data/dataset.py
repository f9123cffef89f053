"""A labelled image data set as tensors, and the preprocessing that made them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..errors import InputError
from ..shapes import Images, Labels
from .config import DataConfig
from .preprocessing import Preprocessing


@dataclass(frozen=True)
class Split:
    """Images, preprocessed, `[N, C, H, W]` float32, with their labels `[N]` int64."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str | torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))

    def select(self, indices: torch.Tensor) -> Split:
        """The images at `indices`, in that order."""
        return Split(self.images[indices], self.labels[indices])

    def of_class(self, label: int) -> torch.Tensor:
        """The indices of one class, ascending."""
        return (self.labels == label).nonzero().squeeze(1)


@dataclass(frozen=True)
class Dataset:
    """What experts learn from and students are tested on.

    `fingerprint` is a hash of the training pixels, labels, classes and preprocessing: two sets teach the same exactly if their
    fingerprints are equal, wherever they lie on disk. Test and validation images are not in it.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    preprocessing: Preprocessing
    fingerprint: str
    config: DataConfig
    validation: Split | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def class_sizes(self) -> list[int]:
        """Training images per class."""
        return torch.bincount(self.train.labels, minlength=len(self.classes)).tolist()

    def to(self, device: str | torch.device) -> Dataset:
        """The same set on another device."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), test=self.test.to(device), validation=validation)

    def check_ipc(self, ipc: int) -> None:
        """Raise InputError unless every class has at least `ipc` training images."""
        smallest = min(range(len(self.classes)), key=self.class_sizes().__getitem__)
        count = self.class_sizes()[smallest]
        if not 1 <= ipc <= count:
            raise InputError(
                f"{ipc} images per class were asked for, but class '{self.classes[smallest]}' has {count} training images; "
                f"choose --ipc between 1 and {count}."
            )
