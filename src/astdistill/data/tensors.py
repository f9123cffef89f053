"""Your own images: tensors in memory, any torch data set, or Hugging Face data sets."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..runtime.errors import InputError
from ..runtime.shapes import Pixels
from ..runtime.text import printable
from .arrays import (
    Layout,
    channels_first,
    channels_last,
    checked_tensor,
    dark,
    from_array,
    from_tensor,
    joint_levels,
    seen_layout,
)
from .dataset import DataConfig, Dataset, RawData, Split, Summary, checked_count
from .decoding import decoded, opened_picture, resized, stacked
from .digests import FileSet
from .hub import table_source
from .items import Items, class_names_in, label_of
from .labels import MISSING, Numbered, array_of, class_names, is_missing, numbered
from .levels import Levels, Opening, Values, picture_values
from .loading import assemble, resolved
from .named_arrays import one_each, with_labels
from .selection import ClassChoice, renumbered, with_classes
from .sources import IN_MEMORY, alike, bordered


def dataset_from_tensors(
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
    classes: Sequence[str] | Mapping[int, str] | Mapping[str, int] | None = None,
    *,
    whiten: str = "standard",
    name: str = "own",
    device: str | torch.device = "auto",
    **fields: Any,
) -> Dataset:
    """A data set of images with one label each, training and test images apart.

    Whole numbers above 255 are read by their depth, floats that are whole numbers up to 255 as such; floats are rounded
    to 256 levels; every channel of tensors and arrays is kept. Images without a label (None, NaN, empty text, or −1
    where `classes` names the others) are left out. Without a `size`, single-channel 28×28 images are padded to 32×32.

    Args:
        train_images: `[N, C, H, W]`, or grey `[N, H, W]`, uint8 or float in [0, 1]: a tensor, a list of tensors or
            arrays of one shape, or a numpy array, whose channels are last where the last axis is shorter than height
            and width. Or a list of Pillow pictures, which are read as `dataset_from_torch` does.
        train_labels: `[N]`: whole numbers, text or flags.
        test_images: The same of the test images, `[M, C, H, W]`.
        test_labels: The same of their labels, `[M]`.
        classes: Names of the classes 0 … K − 1, in this order or by number ({0: "cat"} or {"cat": 0}). None: the
            labels' own values are the names.
        whiten: "none", "standard" or "zca", as in `DataConfig`.
        name: What the data set is called in tables and files.
        device: Where the images lie, such as "cpu". "auto" is the CUDA GPU where there is a usable one.
        **fields: Others of `DataConfig`: first_classes, per_class, validation, size (pixels a side), resize, seed.

    Returns:
        The data set, preprocessed.

    Raises:
        InputError: For what cannot be used, as `load_dataset` does.
    """
    config, names = resolved("own", dict(fields)), class_names(classes)
    opening = Opening(config.background, config.white_level)
    given = {"training": train_images, "test": test_images}
    images = {part: _images(held, f"{name} ({part} part)", opening) for part, held in given.items()}
    pictures = [held for held in images.values() if isinstance(held, Pictures)]
    arrays = [held.held for held in images.values() if isinstance(held, Given)]
    whites = Levels(opening, lambda: (values for held in pictures for values in held))
    levels = joint_levels(arrays, name, config.white_level if arrays else None)
    labels, numbers = _numbered([train_labels, test_labels], names, name)
    pixels, tops = {}, []
    for part, held in images.items():
        if isinstance(held, Pictures):
            pixels[part], top = _stacked(held, len(held.held), held.where, config, whites)
            tops.append(top)
        else:
            pixels[part] = levels.pixels(held.held)
    splits, without = _with_labels(pixels, numbers, name)
    said = dict.fromkeys(word for held in images.values() if isinstance(held, Given) for word in held.said)
    guessed = (*said, *levels.guessed, *_dark(tops), *whites.guesses())
    summary = Summary((*levels.read, *whites.words(), *labels.words), without, guessed)
    return _dataset(RawData(name, labels.classes, *splits, summary), whiten, device, fields)


def dataset_from_torch(
    train: Any,
    test: Any,
    classes: Sequence[str] | Mapping[int, str] | Mapping[str, int] | None = None,
    *,
    whiten: str = "standard",
    name: str | None = None,
    device: str | torch.device = "auto",
    **fields: Any,
) -> Dataset:
    """A data set of two `torch.utils.data.Dataset`s, iterable ones, or DataLoaders, whose items hold an image and its
    label.

    Items are pairs, longer tuples, named tuples, dictionaries or dataclasses; `image_column` and `label_column` name
    the entries where their names do not tell. Images are Pillow pictures, uint8 arrays HWC, or tensors CHW in [0, 1];
    leave out transforms that normalise or augment. Labels are whole numbers of any type (int, bool, numpy, 0-dim
    tensor) or text; images without one (None, NaN, empty text, or −1 where classes have names) are left out. A test
    part that numbers the same names in another way is renumbered. A DataLoader that only batches and shuffles stands
    for its data set, any other for the batches of one pass. Transparent pixels of Pillow pictures are laid on
    `background`, and those of more than 256 levels are brought there by one factor for both parts; arrays and tensors
    keep every channel. Without a `size`, single-channel 28×28 images are padded to 32×32.

    Args:
        train: The training part; any of the kinds above.
        test: The test part.
        classes: Names of the classes 0 … K − 1, in this order or by number ({0: "cat"} or {"cat": 0}). None: those of
            `train.classes`, where it has them.
        whiten: "none", "standard" or "zca", as in `DataConfig`.
        name: What the data set is called in tables and files. None: a name made of the class of `train`.
        device: Where the images lie, such as "cpu". "auto" is the CUDA GPU where there is a usable one.
        **fields: Others of `DataConfig`: image_column, label_column, background, first_classes, per_class, validation,
            size (pixels a side), resize, seed.

    Returns:
        The data set, preprocessed.

    Raises:
        InputError: It names the image that cannot be used.
    """
    name, names = name or type(train).__name__, class_names(classes)
    config = resolved("own", dict(fields))
    opening = Opening(config.background, config.white_level)
    streams = [
        Stream.of(part, f"{name} ({which} part)", config, opening)
        for part, which in ((train, "training"), (test, "test"))
    ]
    levels = Levels(opening, lambda: (image for each in streams for image in each.pictures()))
    first = _part_of_items(streams[0], config, levels, None)
    second = _part_of_items(streams[1], config, levels, first.is_text)
    first_names, second_names = first.names, second.names
    test_labels = second.labels
    if first_names and second_names and first_names != second_names and not second.is_text:
        test_labels = _by_name(test_labels, second_names, first_names, second.where)
    labels, numbers = _numbered([first.labels, test_labels], names or first_names, name)
    splits, without = _with_labels({"training": first.pixels, "test": second.pixels}, numbers, name)
    tops = [part.top for part in (first, second)]
    guessed = dict.fromkeys((*first.said, *second.said, *_dark(tops), *levels.guesses()))
    said = Summary((*labels.words, *levels.words()), without, tuple(guessed))
    raw = RawData(name, labels.classes, *splits, said)
    return _dataset(raw if names else _without_empty(raw), whiten, device, fields)


def _with_labels(
    pixels: Mapping[str, Pixels], labels: Sequence[Tensor], name: str
) -> tuple[tuple[Split, Split], tuple[str, ...]]:
    """The training and the test part, each with the images that have a label, and how many have none."""
    splits, without = [], []
    for (part, images), numbers in zip(pixels.items(), labels, strict=True):
        where = f"{name} ({part} part)"
        split, missing = with_labels(checked_count(images, numbers, where), where)
        splits.append(split)
        without += [f"{missing} images of the {part} part, which have no label"] * bool(missing)
    return (splits[0], splits[1]), tuple(without)


def _dark(tops: Sequence[int]) -> tuple[str, ...]:
    """A note where the largest values of all parts, of 256 levels, are small."""
    return dark(max(tops, default=0), 255, "(otherwise: scale the images before)")


def dataset_from_splits(source: Any, device: str | torch.device, fields: dict[str, Any]) -> Dataset:
    """A data set of a Hugging Face `Dataset` or `DatasetDict`, or of a dictionary of data sets by their parts.

    `fields` are those of `DataConfig`. Raises InputError for anything else in memory, saying which function takes it.
    """
    splits = source if isinstance(source, Mapping) else {"train": source}
    if not splits or not all(_is_data(split) for split in splits.values()):
        raise InputError(
            f"A {type(source).__name__} is no data source; give a name, a path, a DataConfig or a Hugging Face data "
            "set, or call dataset_from_torch(train, test) or dataset_from_tensors(images, labels, test_images, "
            "test_labels)."
        )
    if not all(_is_table(split) for split in splits.values()):
        return _of_iterables(splits, device, fields)
    first = next(iter(splits.values()))
    name = str(getattr(first.info, "dataset_name", None) or "own")
    config = resolved(f"{IN_MEMORY}{name}", fields)
    table = table_source(name, splits, FileSet([]), config.image_column, config.label_column)
    choice = ClassChoice(config.classes, config.first_classes)
    opening = Opening(config.background, config.white_level)
    raw = decoded(table, choice, lambda pixels: resized(pixels, config.size, config.resize), opening=opening)
    if any(split.format["type"] == "custom" for split in splits.values()):
        words = "the transform that is set on the data set: its pictures are read as they are stored"
        raw = replace(raw, summary=raw.summary + Summary(left_out=(words,)))
    return assemble(bordered(raw, config.size), config, device)


def _of_iterables(splits: Mapping[str, Any], device: str | torch.device, fields: dict[str, Any]) -> Dataset:
    test = next((split for split in ("test", "validation", "val") if split in splits), None)
    if "train" not in splits or test is None:
        raise InputError(
            f"The parts are called {', '.join(map(str, splits))}; call dataset_from_torch(train, test) and say which "
            "are for training and for testing."
        )
    if fields.get("classes") is not None:
        raise InputError(
            "classes chooses among those of a named source; of data sets in memory give subsets, or call "
            "dataset_from_torch, whose classes are their names."
        )
    return dataset_from_torch(splits["train"], splits[test], device=device, **fields)


def _is_data(split: Any) -> bool:
    return _is_table(split) or isinstance(split, torch.utils.data.Dataset | torch.utils.data.DataLoader) or (
        type(split).__module__.startswith("datasets.") and hasattr(split, "__iter__")
    )  # fmt: skip


def _is_table(split: Any) -> bool:
    """Whether it is a Hugging Face data set that lies in memory or in files."""
    return (
        type(split).__module__.startswith("datasets.") and hasattr(split, "cast_column") and hasattr(split, "__len__")
    )


def _dataset(raw: RawData, whiten: str, device: str | torch.device, fields: dict[str, Any]) -> Dataset:
    config = resolved(f"{IN_MEMORY}{raw.name}", {"whiten": whiten, **fields})
    chosen = with_classes(raw, ClassChoice(config.classes, config.first_classes)).map_pixels(
        lambda pixels: resized(pixels, config.size, config.resize)
    )
    return assemble(bordered(alike(chosen), config.size), config, device)


def _numbered(parts: Sequence[Any], names: Sequence[str] | None, where: str) -> tuple[Numbered, Sequence[Tensor]]:
    """The labels of all parts in one numbering, and those of each part."""
    held = [_label_list(part, where) for part in parts]
    joined = numbered([label for part in held for label in part], names, where)
    return joined, joined.labels.split([len(part) for part in held])


def _label_list(labels: Any, where: str) -> list[Any]:
    if isinstance(labels, Tensor):
        labels = array_of(labels, where)
    if not isinstance(labels, list | tuple) or (len(labels) and np.ndim(labels[0])):
        labels = one_each(np.asarray(labels), where)
        if labels.ndim != 1:
            raise InputError(f"The labels of {where} have shape {labels.shape}; give one class per image.")
        return labels.tolist()
    return list(labels)


@dataclass(frozen=True)
class Given:
    """The images of one part `[N, C, H, W]`, not in 256 levels yet, a tensor on the CPU or an array; and what was
    decided about their axes."""

    held: Any
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pictures:
    """The Pillow pictures of one part, whose values are taken as often as they are asked for."""

    held: Sequence[Image.Image]
    where: str
    opening: Opening

    def __iter__(self) -> Iterator[Values]:
        for row, picture in enumerate(self.held):
            yield _values_of(picture, f"Image {row} of {self.where}", self.opening)


def _images(images: Any, where: str, opening: Opening) -> Given | Pictures:
    if isinstance(images, list | tuple):
        pictures = [image for image in images if isinstance(image, Image.Image)]
        if pictures and len(pictures) == len(images):
            return Pictures(pictures, where, opening)
        if pictures:
            raise InputError(
                f"{where} holds {len(pictures)} Pillow pictures among {len(images)} images; give all of them as "
                "pictures or all as arrays, or give dataset_from_torch a list of pairs."
            )
        images = _one_block(images, where)
    if isinstance(images, Tensor):
        tensor = checked_tensor(images, where)
        if images.ndim == 4 and seen_layout(images.shape) == "NHWC":
            return Given(tensor, (_axes(images.shape, "NCHW", "permute(0, 3, 1, 2)"),))
        return Given(tensor)
    array = np.asarray(images)
    if array.ndim != 4:
        return Given(channels_first(array, where))
    seen = seen_layout(array.shape)
    layout: Layout = seen or "NCHW"  # as promised, where the shape shows nothing
    held = channels_first(array, where, layout)
    if seen == "NCHW" or channels_last(array.shape):
        return Given(held)
    otherwise = {"NHWC": "a tensor [N, C, H, W]", "NCHW": "transpose(0, 3, 1, 2)"}[layout]
    return Given(held, (_axes(array.shape, layout, otherwise),))


def _axes(shape: Sequence[int], layout: Layout, otherwise: str) -> str:
    """What was taken for the channels, of a shape that could be meant otherwise."""
    named = {"NHWC": ("height", "width", "channels"), "NCHW": ("channels", "height", "width")}[layout]
    axes = ", ".join(f"{name} {length}" for length, name in zip(shape[1:], named, strict=True))
    return f"images: the axes after the first are {axes} (otherwise: give {otherwise})"


def _one_block(images: Sequence[Any], where: str) -> Any:
    """A list of tensors or arrays of one shape as one. Raises InputError naming two that differ."""
    if not len(images):
        raise InputError(f"{where} holds no images; give at least one per class.")
    shapes = [tuple(np.shape(image)) for image in images]
    row = next((row for row, shape in enumerate(shapes) if shape != shapes[0]), None)
    if row is not None:
        raise InputError(
            f"Images differ in shape: image 0 of {where} is {shapes[0]} and image {row} is {shapes[row]}; bring them "
            "to one size first, or give dataset_from_torch a list of pairs and a size."
        )
    if all(isinstance(image, Tensor) for image in images):
        return torch.stack([image.detach().cpu() for image in images])
    return np.stack([np.asarray(image) for image in images])


@dataclass(frozen=True)
class ReadPart:
    """Pixels and labels of one part, its class names where it has any, and what was decided about its items; `top` is
    the largest value of those that had 256 levels, or fractions."""

    pixels: Pixels
    top: int
    labels: list[Any]
    names: tuple[str, ...] | None
    said: tuple[str, ...]
    where: str

    @property
    def is_text(self) -> bool | None:
        """Whether the labels are text; None where there are none."""
        return next((isinstance(label, str) for label in self.labels if label is not None), None)


@dataclass(frozen=True)
class Stream:
    """The items of one part, read again as often as they are asked for: an image as values that are not in 256 levels
    yet, or as pixels, and its label."""

    part: Any
    items: Items
    count: int
    read: Callable[[], Iterable[tuple[Values | Tensor, Any]]]

    @staticmethod
    def of(part: Any, where: str, config: DataConfig, opening: Opening) -> Stream:
        """Those of a data set; what comes once, and nobody knows how many, is held in memory."""
        items = Items(part, where, config.image_column, config.label_column)

        def read() -> Iterator[tuple[Values | Tensor, Any]]:
            for row, (image, label) in enumerate(items):
                yield _read(image, f"Image {row} of {where}", where, opening), label

        if items.count is not None:
            return Stream(part, items, items.count, read)
        held = list(read())
        return Stream(part, items, len(held), lambda: held)

    def pictures(self) -> Iterator[Values]:
        """The values of all images that are pictures."""
        return (image for image, _ in self.read() if isinstance(image, Values))


def _part_of_items(stream: Stream, config: DataConfig, levels: Levels, text: bool | None) -> ReadPart:
    """All items of a part; `text` says whether labels are text, None that the first item decides."""
    items, where, labels = stream.items, stream.items.where, []

    def images() -> Iterator[Values | Tensor]:
        is_text = text
        for row, (image, label) in enumerate(stream.read()):
            if is_text is None and not is_missing(label):
                is_text = isinstance(label, str | bytes)
            labels.append(label_of(label, row, where, bool(is_text)))
            yield image

    pixels, top = None, 0
    if stream.count:
        pixels, top = _stacked(images(), stream.count, where, config, levels)
    if pixels is None or items.places is None:
        raise InputError(f"{where} holds no images; give at least one per class.")
    if items.places.rivals and len(labels) > 2 and labels == list(range(len(labels))):
        raise InputError(
            f"Entry {items.places.label} of the items of {where} numbers the images, so it is no label; name another "
            f"entry with label_column, or give pairs of an image and its label."
        )
    names = class_names_in(stream.part, where, items.places.label)
    return ReadPart(pixels, top, labels, names, (*items.said, *items.places.said), where)


def _stacked(
    images: Iterable[Values | Tensor], count: int, where: str, config: DataConfig, levels: Levels
) -> tuple[Pixels, int]:
    """The images in 256 levels and one size, and the largest value of those whose levels were not `levels`' choice."""
    top = 0

    def pixels() -> Iterator[Tensor]:
        nonlocal top
        for image in images:
            own = levels.pixels(image) if isinstance(image, Values) else image
            if own.numel() and not (isinstance(image, Values) and image.kind):
                top = max(top, int(own.max()))
            yield resized(own.unsqueeze(0), config.size, config.resize)[0]

    block = stacked(pixels(), count, lambda row: f"image {row} of {where}")
    return block, top


def _by_name(
    labels: Sequence[int | None], own: tuple[str, ...], wanted: tuple[str, ...], where: str
) -> list[int | None]:
    """Labels in the numbering of the training part, which has the same names in another order, or more of them."""
    place: dict[str, int] = {name: number for number, name in enumerate(wanted)}
    missing = None, MISSING
    for row, label in enumerate(labels):
        name = own[label] if label is not None and 0 <= label < len(own) else str(label)
        if label not in missing and name not in place:
            raise InputError(
                f"Image {row} of {where} is of class '{name}', which the training part does not have; take it out, or "
                "name the classes of both parts alike."
            )
    return [None if label is None or label == MISSING else place[own[label]] for label in labels]


def _without_empty(raw: RawData) -> RawData:
    """The set without classes that have a name but no image in any part, as those outside a subset have."""
    parts = [part for part in (raw.train, raw.test) if part is not None]
    used = torch.cat([part.labels for part in parts]).unique().tolist()
    empty = [name for number, name in enumerate(raw.classes) if number not in set(used)]
    if not empty:
        return raw
    splits = [Split(part.images, renumbered(part.labels, used).labels) for part in parts]
    classes = tuple(raw.classes[number] for number in used)
    words = f"{len(empty)} classes that have a name but no images ({', '.join(empty[:3])})"
    summary = raw.summary + Summary(left_out=(words,))
    return replace(raw, classes=classes, train=splits[0], test=splits[-1], summary=summary)


def _array_layout(image: Any) -> Layout | None:
    """HWC, as promised, also where the shape could be read both ways; None leaves a shorter first axis to be taken for
    the channels."""
    return None if image.ndim == 3 and image.shape[0] < min(image.shape[1:]) else "NHWC"


def _read(image: Any, called: str, where: str, opening: Opening) -> Values | Tensor:
    """An item's image: the values of a picture, or the pixels of an array or a tensor."""
    if isinstance(image, bytes | Image.Image):
        return _values_of(image, called, opening)
    if isinstance(image, Tensor):
        return from_tensor(image.unsqueeze(0), where)[0]
    if hasattr(image, "dtype"):
        return from_array(image[None], where, _array_layout(image))[0]
    raise InputError(f"{where} gives images of type {type(image).__name__}; give Pillow pictures, arrays or tensors.")


def _values_of(image: bytes | Image.Image, called: str, opening: Opening) -> Values:
    """The values of a picture, encoded or opened. Raises InputError for one that cannot be read."""
    try:
        if isinstance(image, Image.Image):
            return picture_values(image, opening)
        with opened_picture(io.BytesIO(image)) as picture:
            return picture_values(picture, opening)
    except Exception as error:  # what Pillow and its libraries raise depends on the format
        given, why = "cannot", printable(str(error))[:200]
        if isinstance(image, bytes):  # whose address Pillow would name
            given, why = "gives bytes that cannot", type(error).__name__
        raise InputError(
            f"{called} {given} be read as a picture ({why}); give encoded pictures, arrays or tensors, or take it out."
        ) from error
