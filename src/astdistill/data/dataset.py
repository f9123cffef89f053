"""Labelled image data sets, raw and as networks see them, and the configuration that builds them."""

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
from ..runtime.text import many
from .digests import FileSet
from .levels import background_colour
from .preprocessing import Preprocessing
from .storage import StoredImages, chosen_rows, in_batches

Resize = Literal["crop", "squash"]


def chosen_classes(choice: Any) -> tuple[str, ...]:
    """The chosen classes, by name or number, in the given order. Raises InputError for collections without an order,
    for dictionaries, and for a string, which would be a list of its letters."""
    if isinstance(choice, str):
        raise InputError(f"classes is the text '{choice}'; give a list of names or numbers, such as ['cat', 'dog'].")
    if isinstance(choice, Mapping):
        raise InputError(
            f"classes is the dictionary {str(dict(choice))[:60]}, and it chooses classes, it does not name them; give "
            "a list of names or numbers, such as ['cat', 'dog']."
        )
    if isinstance(choice, set | frozenset) or not isinstance(choice, Iterable):
        raise InputError(
            f"classes is {str(choice)[:60]}, which has no order; give a list of names or numbers, such as "
            "['cat', 'dog']."
        )
    return tuple(map(str, choice))


LARGEST_SIDE = 8192
"""Largest side of resized images in pixels; its square is about the most pixels that a decoded picture may have."""
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
    """Name, hub name, folder or file of the data. Names: digits, cifar10, cifar100, mnist, fashion_mnist, svhn,
    tiny_imagenet, imagenet, its subsets imagenet-nette, -woof, -fruit, -meow, -squawk and -yellow, and MedMNIST's, such
    as pathmnist and pathmnist_64. Hub names: 'owner/name' or 'owner/name:configuration'. Folders of images, parquet
    files or arrays; .csv, .tsv and .jsonl files that label images beside them; .npz, .mat and IDX files;
    tiny-imagenet-200.zip."""
    whiten: Literal["none", "standard", "zca", "rat"] = "standard"
    """Preprocessing of the pixels: none leaves them in [0, 1]; standard subtracts the mean of each channel and divides
    by its standard deviation (the published values for CIFAR and ImageNet); zca is ZCA whitening with eps 0.1, equal to
    kornia's; rat is that of RaT-BPTT, which first scales every image, less its mean, to norm 1."""
    classes: tuple[str, ...] | None = None
    """Use only these classes, all by name or all by number, in this order. Default: all classes."""
    first_classes: int | None = Field(default=None, ge=2)
    """Use only the first N classes, in the order of their labels (alphabetical for CIFAR-100). Default: all classes."""
    per_class: int | None = Field(default=None, ge=1)
    """Use at most N training images of each class. Default: all."""
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Fraction of the training images of each class that is held out, from 0 to below 1. Experts and distillation do
    not see them; they choose the saved iteration where distill.validate_every is set."""
    image_column: str | None = None
    """Column that holds the images. Default: found by type and name."""
    label_column: str | None = None
    """Column that holds the labels. Default: found by type and name."""
    train_part: str | None = None
    """Folder that holds the training images, inside the source or inside each class folder, or text file in the source
    that lists them. Default: found by its name. '.' means that the folders of the source are the classes."""
    test_part: str | None = None
    """Folder that holds the test images, inside the source or inside each class folder, or text file in the source that
    lists them. Default: found by its name."""
    size: int | None = Field(default=None, ge=8, le=LARGEST_SIDE)
    """Resize images to this height and width, in pixels, 8 to 8192. Default: the size of the images, but 128 for
    ImageNet and its subsets, and 32 for single-channel images of 28×28, which are padded (28 keeps them)."""
    resize: Resize = "crop"
    """How images are resized: crop scales the shorter side (bilinear, antialiased) and crops the centre; squash scales
    each side independently (bilinear, not antialiased), as the released code of MTT and FTD does for the ImageNet
    subsets."""
    memory: Literal["auto", "float32", "uint8", "disk"] = "auto"
    """Where images are kept: float32 in memory, preprocessed once; uint8 in memory, a quarter of the size, each batch
    preprocessed when it is used; disk in a file of the cache, for data larger than memory. auto takes the first that
    fits (on a GPU uint8 before float32). Results differ by rounding only."""
    background: str = "white"
    """Colour behind transparent pixels: white, black, a value such as '#ff8000', or drop, which ignores transparency.
    Opaque images are not affected."""
    white_level: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Pixel value of white in images of more than 256 levels: 4095 for 12 bits, 65535 for 16 bits, 1 for fractions.
    Default: derived from the largest value of the data set."""
    seed: int = 0
    """Random seed of the held-out images and, where the source has no test part, of the test images."""

    @field_validator("classes", mode="before")
    @classmethod
    def _check_classes(cls, choice: Any) -> Any:
        return choice if choice is None else chosen_classes(choice)

    @field_validator("background")
    @classmethod
    def _check_background(cls, name: str) -> str:
        background_colour(name)
        return name

    @model_serializer(mode="wrap")
    def _omit_new_defaults(self, handler: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """Omit settings that earlier versions did not have if they have their defaults, so that runs of those versions
        remain the same."""
        return {name: value for name, value in handler(self).items() if (name, value) not in NEW_DEFAULTS}


@dataclass(frozen=True)
class Summary:
    """Notes for the user on how a source was read: what was read, what was left out and why, what was guessed."""

    read: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()

    def __add__(self, more: Summary) -> Summary:
        """The notes of both, those of `self` first."""
        return Summary(self.read + more.read, self.left_out + more.left_out, self.guessed + more.guessed)


@dataclass(frozen=True)
class Source:
    """Labelled images that are not decoded yet, so that classes can be selected first.

    The parts are 'train' and, if the source has one, 'test'. `labels[part]` is `[N]` int64, `fetch(part, rows)` returns
    the images of these rows, as encoded bytes or as arrays of the values of nested lists, and `locate(part, row)` names
    an image in an error message.
    """

    name: str
    classes: tuple[str, ...]
    labels: Mapping[str, Labels]
    fetch: Callable[[str, Sequence[int]], Iterable[bytes | np.ndarray]]
    locate: Callable[[str, int], str]
    files: FileSet
    """Files that determine what is read; none if the images are in memory."""
    summary: Summary
    external_names: tuple[str, ...] = ()
    """Class names that are in none of these files."""
    places: tuple[tuple[str, int, str], ...] = ()
    """Part, label and folder of what is read, if folders determine them."""
    lists: tuple[tuple[str, str], ...] = ()
    """Part and path of the lists that divide the pictures."""


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

    `images` is a preprocessed float32 tensor if the set is stored as one, and otherwise a `Holding`, which is indexed
    like a tensor. Code for data sets of any size must use batches. Before preprocessing, as returned by readers, a
    split holds uint8 pixels, in memory or in a file.
    """

    images: StoredImages
    """`[N, C, H, W]`."""
    labels: Labels
    """`[N]` int64, 0 … K − 1."""

    def __repr__(self) -> str:
        """One line: how many images, of which shape."""
        return f"Split({many(len(self), 'image')} of {dimensions(self.images.shape[1:])})"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self.images.device

    def batch(self, indices: torch.Tensor) -> Batch:
        """The images at `indices`, in that order, preprocessed, on the device: a copy `[B, C, H, W]`.

        Args:
            indices: Row numbers `[B]`.
        """
        return self.images[indices]

    def batches(self, size: int, order: torch.Tensor | None = None) -> Iterator[Labelled]:
        """All images with their labels, batch by batch.

        Args:
            size: Images in a batch; the last one may have fewer.
            order: Row numbers `[N]` on the CPU. None: the stored order.
        """
        labels = self.labels if order is None else self.labels[to_device(order, self.labels.device)]
        return (Labelled(*pair) for pair in zip(in_batches(self.images, size, order), labels.split(size), strict=True))

    def whole(self) -> Images:
        """All images at once, in memory; for small data sets."""
        return self.images[:]

    def to(self, device: str | torch.device) -> Split:
        """The same split on another device.

        Args:
            device: Device of the batches, such as "cpu" or "cuda:1".
        """
        return Split(self.images.to(device), self.labels.to(device))

    def select(self, indices: torch.Tensor) -> Split:
        """The images at `indices`, in that order, stored in the same way.

        Args:
            indices: Row numbers.
        """
        return Split(chosen_rows(self.images, indices), self.labels[indices.to(self.labels.device)])

    def of_class(self, label: int) -> torch.Tensor:
        """The indices of one class, ascending.

        Args:
            label: The class, 0 … K − 1.
        """
        return (self.labels == label).nonzero().squeeze(1)


def rows_of(part: Split, indices: Tensor) -> Split:
    """The images at `indices`, in that order; `part` itself if that is all of them in their order."""
    if len(indices) == len(part) and bool((indices == torch.arange(len(part))).all()):
        return part
    return part.select(indices)


@dataclass(frozen=True)
class RawData:
    """A labelled image data set before preprocessing, its splits in uint8; `test` is None if there is no test part."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split | None
    summary: Summary = Summary()

    def map_pixels(self, change: Any) -> RawData:
        """The same set with `change` applied to the pixels of each part, which are passed to it in memory."""
        test = None if self.test is None else Split(change(self.test.images[:]), self.test.labels)
        return replace(self, train=Split(change(self.train.images[:]), self.train.labels), test=test)


@dataclass(frozen=True)
class Dataset:
    """A preprocessed data set: the images that experts are trained on and students are tested on.

    `fingerprint` is a hash of the training pixels, labels, classes and preprocessing: two data sets have the same
    training data and preprocessing if and only if their fingerprints are equal, regardless of their location on disk.
    It does not cover test and validation images.
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
    """Maps pixels in [0, 1] to network inputs; fitted on the training images."""
    fingerprint: str
    """See above."""
    config: DataConfig
    """Configuration from which `load_dataset` builds the same set."""
    validation: Split | None = None
    """Held-out training images; None if `config.validation` is 0."""
    summary: Summary = Summary()
    """Notes on what was read, left out and guessed."""

    def __repr__(self) -> str:
        """One line: name, images of each part, shape, classes, whitening."""
        parts = f"{len(self.train):,} training, {len(self.test):,} test"
        if self.validation is not None:
            parts += f", {len(self.validation):,} validation"
        details = f"images of {dimensions(self.shape)}, {len(self.classes)} classes, whiten {self.config.whiten}"
        return f"Dataset({self.name}: {parts} {details})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        return self.train.shape

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
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


def checked_count(pixels: UInt8[Tensor, "M C H W"], labels: Labels, source: str) -> Split:
    """The images and labels as a split. Raises InputError if their numbers differ, or if there are no images."""
    if len(pixels) != len(labels):
        raise InputError(f"{source} has {len(pixels)} images but {len(labels)} labels; give one label per image.")
    if not len(labels):
        raise InputError(f"{source} holds no images; give at least one per class.")
    return Split(pixels, labels)
