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
from ..runtime.kinds import usual_torch
from ..runtime.shapes import Pixels
from ..runtime.text import printable
from .arrays import (
    Layout,
    channels_first,
    channels_last,
    checked_tensor,
    dark,
    detect_layout,
    from_array,
    from_tensor,
    joint_levels,
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


@usual_torch()
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
    """A data set of training and test images with one label each.

    Whole numbers above 255 are scaled by their bit depth; floats that are whole numbers up to 255 are read as bytes;
    other floats are rounded to 256 levels; every channel of tensors and arrays is kept. Images without a label (None,
    NaN, empty text, or −1 if `classes` is given) are left out. Without a `size`, single-channel 28×28 images are padded
    to 32×32.

    Args:
        train_images: `[N, C, H, W]`, or grey `[N, H, W]`, uint8 or float in [0, 1]: a tensor, a list of tensors or
            arrays of one shape, or a numpy array, whose channels are last where the last axis is shorter than height
            and width. Or a list of Pillow pictures, which are read as `dataset_from_torch` does.
        train_labels: `[N]`: whole numbers, text or flags.
        test_images: The test images `[M, C, H, W]`, in the same form.
        test_labels: The labels of the test images `[M]`, in the same form.
        classes: Names of the classes 0 … K − 1, in this order or by number ({0: "cat"} or {"cat": 0}). None: the
            labels' own values are the names.
        whiten: "none", "standard", "zca" or "rat", as in `DataConfig`.
        name: The name of the data set in tables and files.
        device: The device of the images, such as "cpu". "auto": the CUDA GPU if there is a usable one.
        **fields: Other fields of `DataConfig`: first_classes, per_class, validation, size (pixels a side), resize,
            seed.

    Returns:
        The data set, preprocessed.

    Raises:
        InputError: The images, labels or settings cannot be used, as for `load_dataset`.
    """
    config, names = resolved("own", dict(fields)), class_names(classes)
    opening = Opening(config.background, config.white_level)
    inputs = {"training": train_images, "test": test_images}
    images = {part: _read_images(each, f"{name} ({part} part)", opening) for part, each in inputs.items()}
    pictures = [each for each in images.values() if isinstance(each, Pictures)]
    arrays = [each.array for each in images.values() if isinstance(each, ArrayPart)]
    picture_levels = Levels(opening, lambda: (values for each in pictures for values in each))
    levels = joint_levels(arrays, name, config.white_level if arrays else None)
    labels, numbers = _number_labels([train_labels, test_labels], names, name)
    pixels, maxima = {}, []
    for part, each in images.items():
        if isinstance(each, Pictures):
            pixels[part], maximum = _stack_images(each, len(each.pictures), each.source, config, picture_levels)
            maxima.append(maximum)
        else:
            pixels[part] = levels.pixels(each.array)
    splits, left_out = _labelled_splits(pixels, numbers, name)
    notes = dict.fromkeys(note for each in images.values() if isinstance(each, ArrayPart) for note in each.notes)
    guessed = (*notes, *levels.guessed, *_dark_note(maxima), *picture_levels.guesses())
    summary = Summary((*levels.read, *picture_levels.notes(), *labels.notes), left_out, guessed)
    return _assemble_raw(RawData(name, labels.classes, *splits, summary), whiten, device, fields)


@usual_torch()
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
    the entries if their names are ambiguous. Images are Pillow pictures, uint8 arrays HWC, or tensors CHW in [0, 1];
    leave out transforms that normalise or augment. Labels are whole numbers of any type (int, bool, numpy, 0-dim
    tensor) or text; images without one (None, NaN, empty text, or −1 where classes have names) are left out. A test
    part that numbers the same names in another way is renumbered. Of a DataLoader that only batches and shuffles the
    data set is read, of any other the batches of one pass. Transparent pixels of Pillow pictures are blended with
    `background`, and pictures of more than 256 levels are scaled by one factor for both parts; arrays and tensors keep
    every channel. Without a `size`, single-channel 28×28 images are padded to 32×32.

    Args:
        train: The training part; any of the kinds above.
        test: The test part.
        classes: Names of the classes 0 … K − 1, in this order or by number ({0: "cat"} or {"cat": 0}). None: those of
            `train.classes`, if it has them.
        whiten: "none", "standard", "zca" or "rat", as in `DataConfig`.
        name: The name of the data set in tables and files. None: the name of the class of `train`.
        device: The device of the images, such as "cpu". "auto": the CUDA GPU if there is a usable one.
        **fields: Other fields of `DataConfig`: image_column, label_column, background, first_classes, per_class,
            validation, size (pixels a side), resize, seed.

    Returns:
        The data set, preprocessed.

    Raises:
        InputError: An image, a label or a setting cannot be used; the message names it.
    """
    name, names = name or type(train).__name__, class_names(classes)
    config = resolved("own", dict(fields))
    opening = Opening(config.background, config.white_level)
    streams = [
        Stream.of(part, f"{name} ({which} part)", config, opening)
        for part, which in ((train, "training"), (test, "test"))
    ]
    levels = Levels(opening, lambda: (image for each in streams for image in each.pictures()))
    train_part = _read_part(streams[0], config, levels, None)
    test_part = _read_part(streams[1], config, levels, train_part.is_text)
    train_names, test_names = train_part.names, test_part.names
    test_labels = test_part.labels
    if train_names and test_names and train_names != test_names and not test_part.is_text:
        test_labels = _renumber_by_name(test_labels, test_names, train_names, test_part.source)
    labels, numbers = _number_labels([train_part.labels, test_labels], names or train_names, name)
    splits, left_out = _labelled_splits({"training": train_part.pixels, "test": test_part.pixels}, numbers, name)
    maxima = [part.top for part in (train_part, test_part)]
    guessed = dict.fromkeys((*train_part.notes, *test_part.notes, *_dark_note(maxima), *levels.guesses()))
    summary = Summary((*labels.notes, *levels.notes()), left_out, tuple(guessed))
    raw = RawData(name, labels.classes, *splits, summary)
    return _assemble_raw(raw if names else _without_empty(raw), whiten, device, fields)


def _labelled_splits(
    pixels: Mapping[str, Pixels], labels: Sequence[Tensor], name: str
) -> tuple[tuple[Split, Split], tuple[str, ...]]:
    """The training and the test part, each with its labelled images, and notes on the number of unlabelled ones."""
    splits, notes = [], []
    for (part, images), numbers in zip(pixels.items(), labels, strict=True):
        location = f"{name} ({part} part)"
        split, missing = with_labels(checked_count(images, numbers, location), location)
        splits.append(split)
        notes += [f"{missing} images of the {part} part, which have no label"] * bool(missing)
    return (splits[0], splits[1]), tuple(notes)


def _dark_note(maxima: Sequence[int]) -> tuple[str, ...]:
    """A note if the largest value of all parts, out of 255, is small; else empty."""
    return dark(max(maxima, default=0), 255, "(otherwise: scale the images before)")


def dataset_from_splits(source: Any, device: str | torch.device, fields: dict[str, Any]) -> Dataset:
    """A data set of a Hugging Face `Dataset` or `DatasetDict`, or of a dictionary of data sets by part.

    `fields` are those of `DataConfig`. Raises InputError for any other object; the message names functions that fit.
    """
    splits = source if isinstance(source, Mapping) else {"train": source}
    if not splits or not all(_is_data_set(split) for split in splits.values()):
        raise InputError(
            f"A {type(source).__name__} is no data source; give a name, a path, a DataConfig or a Hugging Face data "
            "set, or call dataset_from_torch(train, test) or dataset_from_tensors(images, labels, test_images, "
            "test_labels)."
        )
    if not all(_is_table(split) for split in splits.values()):
        return _from_iterables(splits, device, fields)
    first = next(iter(splits.values()))
    name = str(getattr(first.info, "dataset_name", None) or "own")
    config = resolved(f"{IN_MEMORY}{name}", fields)
    table = table_source(name, splits, FileSet([]), config.image_column, config.label_column)
    choice = ClassChoice(config.classes, config.first_classes)
    opening = Opening(config.background, config.white_level)
    raw = decoded(table, choice, lambda pixels: resized(pixels, config.size, config.resize), opening=opening)
    if any(split.format["type"] == "custom" for split in splits.values()):
        note = "the transform that is set on the data set: its pictures are read as they are stored"
        raw = replace(raw, summary=raw.summary + Summary(left_out=(note,)))
    return assemble(bordered(raw, config.size), config, device)


def _from_iterables(splits: Mapping[str, Any], device: str | torch.device, fields: dict[str, Any]) -> Dataset:
    test = next((split for split in ("test", "validation", "val") if split in splits), None)
    if "train" not in splits or test is None:
        raise InputError(
            f"The parts are called {', '.join(map(str, splits))}; call dataset_from_torch(train, test) and say which "
            "are for training and for testing."
        )
    if fields.get("classes") is not None:
        raise InputError(
            "classes selects classes of a named source; give subsets of data sets in memory, or name their classes "
            "with dataset_from_torch(classes=...)."
        )
    return dataset_from_torch(splits["train"], splits[test], device=device, **fields)


def _is_data_set(split: Any) -> bool:
    return _is_table(split) or isinstance(split, torch.utils.data.Dataset | torch.utils.data.DataLoader) or (
        type(split).__module__.startswith("datasets.") and hasattr(split, "__iter__")
    )  # fmt: skip


def _is_table(split: Any) -> bool:
    """Whether `split` is a Hugging Face data set in memory or in files, not an iterable one."""
    return (
        type(split).__module__.startswith("datasets.") and hasattr(split, "cast_column") and hasattr(split, "__len__")
    )


def _assemble_raw(raw: RawData, whiten: str, device: str | torch.device, fields: dict[str, Any]) -> Dataset:
    config = resolved(f"{IN_MEMORY}{raw.name}", {"whiten": whiten, **fields})
    chosen = with_classes(raw, ClassChoice(config.classes, config.first_classes)).map_pixels(
        lambda pixels: resized(pixels, config.size, config.resize)
    )
    return assemble(bordered(alike(chosen), config.size), config, device)


def _number_labels(parts: Sequence[Any], names: Sequence[str] | None, source: str) -> tuple[Numbered, Sequence[Tensor]]:
    """The labels of all parts in one numbering, and those of each part."""
    label_lists = [_label_list(part, source) for part in parts]
    joined = numbered([label for part in label_lists for label in part], names, source)
    return joined, joined.labels.split([len(part) for part in label_lists])


def _label_list(labels: Any, source: str) -> list[Any]:
    if isinstance(labels, Tensor):
        labels = array_of(labels, source)
    if not isinstance(labels, list | tuple) or (len(labels) and np.ndim(labels[0])):
        labels = one_each(np.asarray(labels), source)
        if labels.ndim != 1:
            raise InputError(f"The labels of {source} have shape {labels.shape}; give one class per image.")
        return labels.tolist()
    return list(labels)


@dataclass(frozen=True)
class ArrayPart:
    """The images of one part `[N, C, H, W]`, not yet in 256 levels, a tensor on the CPU or an array, and notes on their
    axes."""

    array: Any
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pictures:
    """The Pillow pictures of one part; each iteration converts them to values again."""

    pictures: Sequence[Image.Image]
    source: str
    opening: Opening

    def __iter__(self) -> Iterator[Values]:
        for row, picture in enumerate(self.pictures):
            yield _picture_values(picture, f"Image {row} of {self.source}", self.opening)


def _read_images(images: Any, source: str, opening: Opening) -> ArrayPart | Pictures:
    if isinstance(images, list | tuple):
        pictures = [image for image in images if isinstance(image, Image.Image)]
        if pictures and len(pictures) == len(images):
            return Pictures(pictures, source, opening)
        if pictures:
            raise InputError(
                f"{source} holds {len(pictures)} Pillow pictures among {len(images)} images; give all of them as "
                "pictures or all as arrays, or give dataset_from_torch a list of pairs."
            )
        images = _stack_list(images, source)
    if isinstance(images, Tensor):
        tensor = checked_tensor(images, source)
        if images.ndim == 4 and detect_layout(images.shape) == "NHWC":
            return ArrayPart(tensor, (_axes_note(images.shape, "NCHW", "permute(0, 3, 1, 2)"),))
        return ArrayPart(tensor)
    array = np.asarray(images)
    if array.ndim != 4:
        return ArrayPart(channels_first(array, source))
    detected = detect_layout(array.shape)
    layout: Layout = detected or "NCHW"  # as documented, if the shape is ambiguous
    converted = channels_first(array, source, layout)
    if detected == "NCHW" or channels_last(array.shape):
        return ArrayPart(converted)
    alternative = {"NHWC": "a tensor [N, C, H, W]", "NCHW": "transpose(0, 3, 1, 2)"}[layout]
    return ArrayPart(converted, (_axes_note(array.shape, layout, alternative),))


def _axes_note(shape: Sequence[int], layout: Layout, alternative: str) -> str:
    """A note on the axes that are assumed for an ambiguous shape."""
    names = {"NHWC": ("height", "width", "channels"), "NCHW": ("channels", "height", "width")}[layout]
    axes = ", ".join(f"{name} {length}" for length, name in zip(shape[1:], names, strict=True))
    return f"images: the axes after the first are {axes} (otherwise: give {alternative})"


def _stack_list(images: Sequence[Any], source: str) -> Any:
    """Stack a list of tensors or arrays of one shape. Raises InputError that names two of different shapes."""
    if not len(images):
        raise InputError(f"{source} holds no images; give at least one per class.")
    shapes = [tuple(np.shape(image)) for image in images]
    row = next((row for row, shape in enumerate(shapes) if shape != shapes[0]), None)
    if row is not None:
        raise InputError(
            f"Images differ in shape: image 0 of {source} is {shapes[0]} and image {row} is {shapes[row]}; bring them "
            "to one size first, or give dataset_from_torch a list of pairs and a size."
        )
    if all(isinstance(image, Tensor) for image in images):
        return torch.stack([image.detach().cpu() for image in images])
    return np.stack([np.asarray(image) for image in images])


@dataclass(frozen=True)
class ReadPart:
    """Pixels and labels of one part, its class names if any, and notes on its items; `top` is the largest
    value of the images that had 256 levels, or fractions."""

    pixels: Pixels
    top: int
    labels: list[Any]
    names: tuple[str, ...] | None
    notes: tuple[str, ...]
    source: str

    @property
    def is_text(self) -> bool | None:
        """Whether the labels are text; None if there are none."""
        return next((isinstance(label, str) for label in self.labels if label is not None), None)


@dataclass(frozen=True)
class Stream:
    """The items of one part, which can be read repeatedly: an image, as values that are not yet in 256 levels or as
    pixels, and its label."""

    part: Any
    items: Items
    count: int
    read: Callable[[], Iterable[tuple[Values | Tensor, Any]]]

    @staticmethod
    def of(part: Any, source: str, config: DataConfig, opening: Opening) -> Stream:
        """The items of a data set; those of an iterable of unknown length are cached in memory."""
        items = Items(part, source, config.image_column, config.label_column)

        def read() -> Iterator[tuple[Values | Tensor, Any]]:
            for row, (image, label) in enumerate(items):
                yield _read_image(image, f"Image {row} of {source}", source, opening), label

        if items.count is not None:
            return Stream(part, items, items.count, read)
        cached = list(read())
        return Stream(part, items, len(cached), lambda: cached)

    def pictures(self) -> Iterator[Values]:
        """The values of all images that are pictures."""
        return (image for image, _ in self.read() if isinstance(image, Values))


def _read_part(stream: Stream, config: DataConfig, levels: Levels, text: bool | None) -> ReadPart:
    """Read all items of a part. `text`: whether labels are text; None: inferred from the first label."""
    items, source, labels = stream.items, stream.items.source, []

    def images() -> Iterator[Values | Tensor]:
        is_text = text
        for row, (image, label) in enumerate(stream.read()):
            if is_text is None and not is_missing(label):
                is_text = isinstance(label, str | bytes)
            labels.append(label_of(label, row, source, bool(is_text)))
            yield image

    pixels, top = None, 0
    if stream.count:
        pixels, top = _stack_images(images(), stream.count, source, config, levels)
    if pixels is None or items.keys is None:
        raise InputError(f"{source} holds no images; give at least one per class.")
    if items.keys.rivals and len(labels) > 2 and labels == list(range(len(labels))):
        raise InputError(
            f"Entry {items.keys.label} of the items of {source} is an index of the images, not a label; name another "
            f"entry with label_column, or give pairs of an image and its label."
        )
    names = class_names_in(stream.part, source, items.keys.label)
    return ReadPart(pixels, top, labels, names, (*items.notes, *items.keys.notes), source)


def _stack_images(
    images: Iterable[Values | Tensor], count: int, source: str, config: DataConfig, levels: Levels
) -> tuple[Pixels, int]:
    """The images in 256 levels and one size, and the largest value of those that were not scaled by `levels`."""
    top = 0

    def pixels() -> Iterator[Tensor]:
        nonlocal top
        for image in images:
            scaled = levels.pixels(image) if isinstance(image, Values) else image
            if scaled.numel() and not (isinstance(image, Values) and image.kind):
                top = max(top, int(scaled.max()))
            yield resized(scaled.unsqueeze(0), config.size, config.resize)[0]

    block = stacked(pixels(), count, lambda row: f"image {row} of {source}")
    return block, top


def _renumber_by_name(
    labels: Sequence[int | None], names: tuple[str, ...], train_names: tuple[str, ...], source: str
) -> list[int | None]:
    """The labels in the numbering of the training part, which has the same names in another order, or more names."""
    numbers: dict[str, int] = {name: number for number, name in enumerate(train_names)}
    missing = None, MISSING
    for row, label in enumerate(labels):
        name = names[label] if label is not None and 0 <= label < len(names) else str(label)
        if label not in missing and name not in numbers:
            raise InputError(
                f"Image {row} of {source} is of class '{name}', which the training part does not have; take it out, or "
                "name the classes of both parts alike."
            )
    return [None if label is None or label == MISSING else numbers[names[label]] for label in labels]


def _without_empty(raw: RawData) -> RawData:
    """The set without classes that have a name but no image in any part, such as those outside a subset."""
    parts = [part for part in (raw.train, raw.test) if part is not None]
    used = torch.cat([part.labels for part in parts]).unique().tolist()
    empty = [name for number, name in enumerate(raw.classes) if number not in set(used)]
    if not empty:
        return raw
    splits = [Split(part.images, renumbered(part.labels, used).labels) for part in parts]
    classes = tuple(raw.classes[number] for number in used)
    note = f"{len(empty)} classes that have a name but no images ({', '.join(empty[:3])})"
    summary = raw.summary + Summary(left_out=(note,))
    return replace(raw, classes=classes, train=splits[0], test=splits[-1], summary=summary)


def _image_layout(image: Any) -> Layout | None:
    """The layout of an image array: HWC, as documented, also for an ambiguous shape; None if the first axis is shorter,
    which may then be the channels."""
    return None if image.ndim == 3 and image.shape[0] < min(image.shape[1:]) else "NHWC"


def _read_image(image: Any, image_name: str, source: str, opening: Opening) -> Values | Tensor:
    """The image of an item: the values of a picture, or the pixels of an array or a tensor."""
    if isinstance(image, bytes | Image.Image):
        return _picture_values(image, image_name, opening)
    if isinstance(image, Tensor):
        return from_tensor(image.unsqueeze(0), source)[0]
    if hasattr(image, "dtype"):
        return from_array(image[None], source, _image_layout(image))[0]
    raise InputError(f"{source} gives images of type {type(image).__name__}; give Pillow pictures, arrays or tensors.")


def _picture_values(image: bytes | Image.Image, name: str, opening: Opening) -> Values:
    """The values of a picture, encoded or opened. Raises InputError for one that cannot be read."""
    try:
        if isinstance(image, Image.Image):
            return picture_values(image, opening)
        with opened_picture(io.BytesIO(image)) as picture:
            return picture_values(picture, opening)
    except Exception as error:  # what Pillow and its libraries raise depends on the format
        fault, reason = "cannot", printable(str(error))[:200]
        if isinstance(image, bytes):  # the message of Pillow has a memory address
            fault, reason = "gives bytes that cannot", type(error).__name__
        raise InputError(
            f"{name} {fault} be read as a picture ({reason}); give encoded pictures, arrays or tensors, or take it out."
        ) from error
