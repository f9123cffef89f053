"""Your own images: tensors in memory, or any torch data set."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..runtime.errors import InputError
from .dataset import DataConfig, Dataset, RawData, Split, checked_count, checked_labels, class_names
from .decoding import Layout, from_array, from_tensor, resized, stacked
from .levels import picture_pixels
from .loading import assemble, resolved
from .selection import ClassChoice, with_classes
from .sources import IN_MEMORY, bordered


def dataset_from_tensors(
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    classes: Sequence[str] | None = None,
    *,
    whiten: str = "standard",
    name: str = "own",
    device: str | torch.device = "cpu",
    **fields: Any,
) -> Dataset:
    """A data set of images `[N, C, H, W]` (or grey `[N, H, W]`), uint8 or float in [0, 1], with integer labels 0..K−1.

    `classes` names the classes; without it they are numbered. Floats are rounded to 256 levels; every channel is kept.
    `fields` are others of `DataConfig`: first_classes, per_class, validation, size, resize, seed. Without a `size`,
    single-channel 28×28 images are padded to 32×32. Raises InputError as `load_dataset` does.
    """
    names = class_names(train_labels, classes, name)
    train = _tensor_part(train_images, train_labels, len(names), f"{name} (training part)")
    test = _tensor_part(test_images, test_labels, len(names), f"{name} (test part)")
    return _dataset(RawData(name, names, train, test), whiten, device, fields)


def dataset_from_torch(
    train: Any,
    test: Any,
    classes: Sequence[str] | None = None,
    *,
    whiten: str = "standard",
    name: str | None = None,
    device: str | torch.device = "cpu",
    **fields: Any,
) -> Dataset:
    """A data set of two `torch.utils.data.Dataset`s that give (image, label): Pillow pictures, uint8 arrays HWC, or
    tensors CHW in [0, 1].

    Labels are whole numbers 0..K−1 of any type (int, bool, numpy, 0-dim tensor). Leave out transforms that normalise or
    augment. Class names come from `classes`, else from `train.classes`. Transparency of Pillow pictures is dropped;
    arrays and tensors keep every channel. Without a `size`, single-channel 28×28 images are padded to 32×32. Raises
    InputError naming the image that cannot be used.
    """
    name = name or type(train).__name__
    found = classes if classes is not None else getattr(train, "classes", None)
    config = resolved("own", dict(fields))
    first, second = (
        _torch_part(part, f"{name} ({which} part)", config) for part, which in ((train, "training"), (test, "test"))
    )
    names = class_names(first.labels, found, name)
    for part, which in ((first, "training"), (second, "test")):
        checked_labels(part.labels, len(names), f"{name} ({which} part)")
    return _dataset(RawData(name, names, first, second), whiten, device, fields)


def _dataset(raw: RawData, whiten: str, device: str | torch.device, fields: dict[str, Any]) -> Dataset:
    config = resolved(f"{IN_MEMORY}{raw.name}", {"whiten": whiten, **fields})
    chosen = with_classes(raw, ClassChoice(first=config.first_classes)).map_pixels(
        lambda pixels: resized(pixels, config.size, config.resize)
    )
    if chosen.test is not None and chosen.train.images.shape[1:] != chosen.test.images.shape[1:]:
        shapes = [tuple(part.images.shape[1:]) for part in (chosen.train, chosen.test)]
        raise InputError(
            f"Training images of {raw.name} are {shapes[0]} and test images {shapes[1]}; give both the same channels "
            f"and size."
        )
    return assemble(bordered(chosen, config.size), config, device)


def _tensor_part(images: Tensor, labels: Any, classes: int, where: str) -> Split:
    return checked_count(from_tensor(torch.as_tensor(images), where), checked_labels(labels, classes, where), where)


def _torch_part(part: Any, where: str, config: DataConfig) -> Split:
    labels: list[int] = []

    def pictures() -> Iterator[Tensor]:
        for row in range(len(part)):
            image, label = part[row]
            labels.append(_label(label, row, where))
            yield resized(_pixels(image, where).unsqueeze(0), config.size, config.resize)[0]

    if not len(part):
        raise InputError(f"{where} holds no images; give at least one per class.")
    pixels = stacked(pictures(), len(part), lambda row: f"image {row} of {where}")
    return Split(pixels, torch.tensor(labels, dtype=torch.int64))


def _label(label: Any, row: int, where: str) -> int:
    try:
        value = label.item() if hasattr(label, "item") else label  # numpy and torch, also one-element arrays
        number = int(value)
        whole = number == value
    except (
        TypeError,
        ValueError,
        OverflowError,
        RuntimeError,
    ):  # what `item` raises for several elements depends on the library
        whole, number = False, 0
    if not whole:
        given = textwrap.shorten(repr(label), 60, placeholder=" …")
        raise InputError(
            f"The label of image {row} of {where} is {given}; labels are whole numbers 0..K-1, so give its class "
            f"number."
        )
    return number


def _array_layout(image: Any) -> Layout | None:
    """HWC, as promised, also where the shape could be read both ways; None leaves a shorter first axis to be taken for
    the channels."""
    return None if image.ndim == 3 and image.shape[0] < min(image.shape[1:]) else "NHWC"


def _pixels(image: Any, where: str) -> Tensor:
    if isinstance(image, Image.Image):
        return picture_pixels(image)
    if isinstance(image, Tensor):
        return from_tensor(image.unsqueeze(0), where)[0]
    if hasattr(image, "dtype"):
        return from_array(image[None], where, _array_layout(image))[0]
    raise InputError(f"{where} gives images of type {type(image).__name__}; give Pillow pictures, arrays or tensors.")
