"""Which data, in the words of a configuration file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..records import Record


class DataConfig(Record):
    """Everything `load_dataset` needs to build the same data set again."""

    source: str = "digits"
    """A name (digits, cifar10, cifar100, mnist, fashion_mnist, svhn, tiny_imagenet, imagenet, or its subsets imagenet-nette, -woof, -fruit,
    -meow, -squawk, -yellow), a hub name ('owner/name' or 'owner/name:configuration'), a folder of parquet files or images, an .npz
    file, or tiny-imagenet-200.zip."""
    whiten: Literal["none", "standard", "zca"] = "standard"
    """none keeps [0, 1]; standard subtracts the mean and divides by the deviation per channel (published values for CIFAR and
    ImageNet); zca is kornia's ZCA with eps 0.1."""
    classes: tuple[str, ...] | None = None
    """Keep only these classes, named or numbered, in this order."""
    first_classes: int | None = Field(default=None, ge=2)
    """Keep only the first so many classes in the order of their labels (alphabetical for CIFAR-100)."""
    per_class: int | None = Field(default=None, ge=1)
    """Keep at most this many training images of each class."""
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the training images held out, per class, to choose the distillation iteration; never seen by experts or initialisation."""
    image_column: str | None = None
    """Column holding the images, where it cannot be found by itself."""
    label_column: str | None = None
    """Column holding the labels, where it cannot be found by itself."""
    size: int | None = Field(default=None, ge=8)
    """Resize the short side to this many pixels and crop the centre; without it single-channel 28×28 images, of
    whatever source, are padded to 32×32 (give 28 to keep them), and ImageNet and its subsets get 128."""
    memory: Literal["auto", "float32", "uint8", "disk"] = "auto"
    """How images are kept: float32 preprocesses them once, uint8 keeps a quarter of that and preprocesses each batch, disk reads each
    batch from a file of the cache, for sets larger than memory. auto takes the first that fits, on an accelerator uint8 before float32.
    It changes results by no more than rounding."""
    seed: int = 0
    """Chooses the held-out images and, where a source has no test part, the test images."""
