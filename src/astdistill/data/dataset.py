"""A labelled image data set as tensors, and the configuration that names it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from pydantic import Field

from ..runtime.config import Record
from ..runtime.errors import InputError
from ..runtime.seeds import to_device
from ..runtime.shapes import Batch, Images, Labels
from .preprocessing import Preprocessing
from .storage import StoredImages, chosen_rows, in_batches


class DataConfig(Record):
    """Everything `load_dataset` needs to build the same data set again."""

    source: str = "digits"
    """A name (digits, cifar10, cifar100, mnist, fashion_mnist, svhn, tiny_imagenet, imagenet, or its subsets
    imagenet-nette, -woof, -fruit,
    -meow, -squawk, -yellow), a hub name ('owner/name' or 'owner/name:configuration'), a folder of parquet files or
      images, an .npz
    file, or tiny-imagenet-200.zip."""
    whiten: Literal["none", "standard", "zca"] = "standard"
    """none keeps [0, 1]; standard subtracts the mean and divides by the deviation per channel (published values for
    CIFAR and ImageNet); zca is kornia's ZCA with eps 0.1."""
    classes: tuple[str, ...] | None = None
    """Keep only these classes, named or numbered, in this order."""
    first_classes: int | None = Field(default=None, ge=2)
    """Keep only the first so many classes in the order of their labels (alphabetical for CIFAR-100)."""
    per_class: int | None = Field(default=None, ge=1)
    """Keep at most this many training images of each class."""
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the training images held out, per class, to choose the distillation iteration; never seen by experts or
    initialisation."""
    image_column: str | None = None
    """Column holding the images, where it cannot be found by itself."""
    label_column: str | None = None
    """Column holding the labels, where it cannot be found by itself."""
    size: int | None = Field(default=None, ge=8)
    """Resize the short side to this many pixels and crop the centre; without it single-channel 28×28 images, of
    whatever source, are padded to 32×32 (give 28 to keep them), and ImageNet and its subsets get 128."""
    memory: Literal["auto", "float32", "uint8", "disk"] = "auto"
    """How images are kept: float32 preprocesses them once, uint8 keeps a quarter of that and preprocesses each batch,
    disk reads each batch from a file of the cache, for sets larger than memory. auto takes the first that fits, on an
    accelerator uint8 before float32. It changes results by no more than rounding."""
    seed: int = 0
    """Chooses the held-out images and, where a source has no test part, the test images."""


class Labelled(NamedTuple):
    """A batch: images `[B, C, H, W]` as a network sees them, labels `[B]`."""

    images: Batch
    labels: Labels


@dataclass(frozen=True)
class Split:
    """Images `[N, C, H, W]` with their labels `[N]` int64.

    `images` is a float32 tensor, preprocessed, where the set is kept so, and otherwise a `Holding`, which can be
    indexed like one. What works for sets of any size asks for batches. Before preprocessing, as readers give it, a
    split holds uint8 bytes, in memory or in a file.
    """

    images: StoredImages
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
        return self.images[indices]

    def batches(self, size: int, order: torch.Tensor | None = None) -> Iterator[Labelled]:
        """All images with their labels, `size` at a time, in the stored order or in that of the row numbers `order` (on
        the CPU)."""
        labels = self.labels if order is None else self.labels[to_device(order, self.labels.device)]
        return (Labelled(*pair) for pair in zip(in_batches(self.images, size, order), labels.split(size), strict=True))

    def whole(self) -> Images:
        """Every image at once, in memory: for small sets."""
        return self.images[:]

    def to(self, device: str | torch.device) -> Split:
        """The same split on another device."""
        return Split(self.images.to(device), self.labels.to(device))

    def select(self, indices: torch.Tensor) -> Split:
        """The images at `indices`, in that order, held as they are here."""
        return Split(chosen_rows(self.images, indices), self.labels[indices.to(self.labels.device)])

    def of_class(self, label: int) -> torch.Tensor:
        """The indices of one class, ascending."""
        return (self.labels == label).nonzero().squeeze(1)


@dataclass(frozen=True)
class Dataset:
    """What experts learn from and students are tested on.

    `fingerprint` is a hash of the training pixels, labels, classes and preprocessing: two sets teach the same exactly
    if their fingerprints are equal, wherever they lie on disk. Test and validation images are not in it.
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
                f"{ipc} images per class were asked for, but class '{self.classes[smallest]}' has {count} training "
                f"images; "
                f"choose --ipc between 1 and {count}."
            )
