"""A labelled image data set as tensors, and the preprocessing that made them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from ..errors import InputError
from ..seeds import sent
from ..shapes import Batch, Images, Labels
from .config import DataConfig
from .holdings import FloatImages, Holding
from .preprocessing import Preprocessing


class Labelled(NamedTuple):
    """A batch: images `[B, C, H, W]` as a network sees them, labels `[B]`."""

    images: Batch
    labels: Labels


@dataclass(frozen=True)
class Split:
    """Images `[N, C, H, W]` with their labels `[N]` int64.

    `images` is a float32 tensor, preprocessed, where the set is kept so, and otherwise a `Holding`, which can be indexed like one. What
    works for sets of any size asks for batches.
    """

    images: Images | Holding
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where batches lie."""
        return self.images.device

    def batch(self, indices: torch.Tensor) -> Batch:
        """The images at `indices`, in that order, preprocessed, on the device: a copy."""
        return self._held[indices]

    def batches(self, size: int, order: torch.Tensor | None = None) -> Iterator[Labelled]:
        """All images with their labels, `size` at a time, in the stored order or in that of the row numbers `order` (on the CPU)."""
        labels = self.labels if order is None else self.labels[sent(order, self.labels.device)]
        return (Labelled(*pair) for pair in zip(self._held.batches(size, order), labels.split(size), strict=True))

    def whole(self) -> Images:
        """Every image at once, in memory: for small sets."""
        return self._held[:]

    def to(self, device: str | torch.device) -> Split:
        """The same split on another device."""
        return Split(self._held.to(device), self.labels.to(device))

    def select(self, indices: torch.Tensor) -> Split:
        """The images at `indices`, in that order, held as they are here."""
        return Split(self._held.select(indices), self.labels[indices.to(self.labels.device)])

    def of_class(self, label: int) -> torch.Tensor:
        """The indices of one class, ascending."""
        return (self.labels == label).nonzero().squeeze(1)

    @property
    def _held(self) -> Holding:
        return self.images if isinstance(self.images, Holding) else FloatImages(self.images)


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
        return self.train.shape

    @property
    def device(self) -> torch.device:
        """Where batches lie."""
        return self.train.device

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
