"""A labelled image data set as it was read and as networks see it, the configuration that names it, and its labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import UInt8
from pydantic import Field, field_validator, model_serializer
from torch import Tensor

from ..runtime.config import Record
from ..runtime.errors import InputError
from ..runtime.seeds import to_device
from ..runtime.shapes import Batch, Images, Labels
from .digests import FileSet
from .levels import background_colour
from .preprocessing import Preprocessing
from .storage import StoredImages, chosen_rows, in_batches

Resize = Literal["crop", "squash"]


NEW_DEFAULTS = (
    ("resize", "crop"),
    ("background", "white"),
    ("white_level", None),
    ("train_part", None),
    ("test_part", None),
)
"""Settings that earlier versions did not have, and their defaults."""


class DataConfig(Record):
    """Everything `load_dataset` needs to build the same data set again."""

    source: str = "digits"
    """A name (digits, cifar10, cifar100, mnist, fashion_mnist, svhn, tiny_imagenet, imagenet, or its subsets
    imagenet-nette, -woof, -fruit, -meow, -squawk, -yellow, or MedMNIST's such as pathmnist and pathmnist_64), a hub
    name ('owner/name' or 'owner/name:configuration'), a folder of images, parquet files or arrays, an .npz, .mat or IDX
    file, or tiny-imagenet-200.zip."""
    whiten: Literal["none", "standard", "zca"] = "standard"
    """none keeps [0, 1]; standard subtracts the mean and divides by the standard deviation per channel (published
    values for CIFAR and ImageNet); zca is kornia's ZCA with eps 0.1."""
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
    train_part: str | None = None
    """The folder that holds the training images, inside the source or inside each of its classes, where it cannot be
    found by itself; '.' says that the folders of the source are its classes."""
    test_part: str | None = None
    """The same for the test images."""
    size: int | None = Field(default=None, ge=8)
    """Resize to this many pixels a side; without it single-channel 28×28 images, of whatever source, are padded to
    32×32 (give 28 to keep them), and ImageNet and its subsets get 128."""
    resize: Resize = "crop"
    """How, where there is a size: crop resizes the short side (bilinear, antialiased) and crops the centre; squash
    resizes each side by itself (bilinear, not antialiased), as the released code of MTT and FTD does with ImageNet's
    subsets."""
    memory: Literal["auto", "float32", "uint8", "disk"] = "auto"
    """How images are kept: float32 preprocesses them once, uint8 keeps a quarter of that and preprocesses each batch,
    disk reads each batch from a file of the cache, for sets larger than memory. auto takes the first that fits, on an
    accelerator uint8 before float32. It changes results by no more than rounding."""
    background: str = "white"
    """What lies behind transparent pixels: white, black, a colour such as '#ff8000', or drop, which shows the colour
    that they hide. Opaque pictures are not changed by it."""
    white_level: float | None = Field(default=None, gt=0)
    """The value that is white in pictures and lists of more than 256 levels, where it cannot be told from the largest
    value of the set: 4095 for 12 bits, 65535 for 16 bits, 1 for fractions."""
    seed: int = 0
    """Chooses the held-out images and, where a source has no test part, the test images."""

    @field_validator("background")
    @classmethod
    def _is_colour(cls, name: str) -> str:
        background_colour(name)
        return name

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """What earlier versions did not have is written where it is not as they did, so that their runs stay the
        same."""
        return {name: value for name, value in handler(self).items() if (name, value) not in NEW_DEFAULTS}


@dataclass(frozen=True)
class Summary:
    """What a reader made of a source, in words for people: what it read, what it left out and why, what it guessed."""

    read: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()

    def with_read(self, *words: str) -> Summary:
        """The same, and more that was read or made of it."""
        return replace(self, read=(*self.read, *words))

    def with_guessed(self, *words: str) -> Summary:
        """The same, and more that was guessed."""
        return replace(self, guessed=(*self.guessed, *words))


@dataclass(frozen=True)
class Source:
    """Labelled pictures that are not decoded yet, so that classes can be chosen first.

    The parts are 'train' and, where the source has one, 'test'. `labels[part]` is `[N]` int64, `fetch(part, rows)`
    gives some of its pictures, as encoded bytes or as an array of what nested lists hold, and `where(part, row)` names
    one in an error.
    """

    name: str
    classes: tuple[str, ...]
    labels: Mapping[str, Labels]
    fetch: Callable[[str, Sequence[int]], Iterable[bytes | np.ndarray]]
    where: Callable[[str, int], str]
    files: FileSet
    """Those that decide what is read; none where the pictures lie in memory."""
    summary: Summary
    words: tuple[str, ...] = ()
    """Class names that are in none of these files."""
    places: tuple[tuple[str, int, str], ...] = ()
    """Part, label and folder of what is read, where folders tell them."""


class Labelled(NamedTuple):
    """A batch: images `[B, C, H, W]` as a network sees them, labels `[B]`."""

    images: Batch
    labels: Labels


def dimensions(shape: Sequence[int]) -> str:
    """Channels, height and width as `3×32×32`."""
    return "×".join(map(str, shape))


@dataclass(frozen=True)
class Split:
    """Images `[N, C, H, W]` with their labels `[N]` int64.

    `images` is a float32 tensor, preprocessed, where the set is kept so, and otherwise a `Holding`, which can be
    indexed like one. What works for sets of any size asks for batches. Before preprocessing, as readers give it, a
    split holds uint8 bytes, in memory or in a file.
    """

    images: StoredImages
    labels: Labels

    def __repr__(self) -> str:
        """One line: how many images, of which shape."""
        return f"Split({len(self):,} images of {dimensions(self.images.shape[1:])})"

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


def rows_of(part: Split, indices: Tensor) -> Split:
    """The images at `indices`, in that order; the same part when that is all of them."""
    if len(indices) == len(part) and bool((indices == torch.arange(len(part))).all()):
        return part
    return part.select(indices)


@dataclass(frozen=True)
class RawData:
    """A labelled image set as it was stored, its splits still bytes; `test` is None where there is no test part."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split | None
    summary: Summary = Summary()

    def map_pixels(self, change: Any) -> RawData:
        """The same set with `change` applied to the pixels of each part, which it is given in memory."""
        test = None if self.test is None else Split(change(self.test.images[:]), self.test.labels)
        return replace(self, train=Split(change(self.train.images[:]), self.train.labels), test=test)


@dataclass(frozen=True)
class Dataset:
    """What experts learn from and students are tested on.

    `fingerprint` is a hash of the training pixels, labels, classes and preprocessing: two sets teach the same exactly
    if their fingerprints are equal, wherever they lie on disk. Test and validation images are not in it.
    """

    name: str
    """Shown in tables and files."""
    classes: tuple[str, ...]
    """Names of the classes 0 … K − 1."""
    train: Split
    """Training images and labels."""
    test: Split
    """Test images and labels."""
    preprocessing: Preprocessing
    """From pixels in [0, 1] to what networks see, fitted on the training images."""
    fingerprint: str
    """See above."""
    config: DataConfig
    """What `load_dataset` builds the same set from."""
    validation: Split | None = None
    """Held-out training images; none where `config.validation` is 0."""
    summary: Summary = Summary()
    """What was read, left out and guessed, in words."""

    def __repr__(self) -> str:
        """One line: name, images of each part, shape, classes, whitening."""
        parts = f"{len(self.train):,} training, {len(self.test):,} test"
        if self.validation is not None:
            parts += f", {len(self.validation):,} validation"
        of = f"images of {dimensions(self.shape)}, {len(self.classes)} classes, whiten {self.config.whiten}"
        return f"Dataset({self.name}: {parts} {of})"

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
        """The same set on another device.

        Args:
            device: Such as "cpu" or "cuda:1".
        """
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), test=self.test.to(device), validation=validation)

    def check_ipc(self, ipc: int) -> None:
        """Raise InputError unless every class has at least `ipc` training images.

        Args:
            ipc: Images per class.
        """
        smallest = min(range(len(self.classes)), key=self.class_sizes().__getitem__)
        count = self.class_sizes()[smallest]
        if not 1 <= ipc <= count:
            raise InputError(
                f"{ipc} images per class were asked for, but class '{self.classes[smallest]}' has {count} training "
                f"images; choose --ipc between 1 and {count}."
            )


def checked_count(pixels: UInt8[Tensor, "M C H W"], labels: Labels, where: str) -> Split:
    """The pair as a part. Raises InputError when there are not as many labels as images, or none at all."""
    if len(pixels) != len(labels):
        raise InputError(f"{where} has {len(pixels)} images but {len(labels)} labels; give one label per image.")
    if not len(labels):
        raise InputError(f"{where} holds no images; give at least one per class.")
    return Split(pixels, labels)
