"""Items of any torch data set: finds the image and the label entry; reads data loaders and iterable data sets."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from ..runtime.errors import InputError, unknown
from .labels import is_missing, names_by_number

IMAGE_KEYS = (
    "image", "images", "img", "pixel_values", "picture", "pixels", "x", "input", "inputs", "data", "jpg", "jpeg", "png",
)  # fmt: skip
"""Names of image entries, in order of preference."""
LABEL_KEYS = ("label", "labels", "fine_label", "target", "targets", "y", "class", "cls", "category")
DEPTH = 5
"""Maximum nesting depth of wrapped data sets in the search for class names."""


@dataclass(frozen=True)
class ItemKeys:
    """Keys of the image and the label in every item; `rivals` are other entries that could be the label, `notes` are
    for the user."""

    image: Hashable
    label: Hashable
    rivals: tuple[Hashable, ...] = ()
    notes: tuple[str, ...] = ()


class Items:
    """The items of one part of a data set, each as (image, label).

    Takes a data set with `__getitem__` and `__len__`, an iterable data set, a DataLoader, or any sequence of items.
    Items may be tuples, named tuples, dictionaries or dataclasses, all of one kind. The first item determines which
    entries are the image and the label. `source` names the part in messages.
    """

    def __init__(self, part: Any, source: str, image: str | None = None, label: str | None = None) -> None:
        self.source, self._named = source, (image, label)
        self._items, self.count, self.notes = _items_of(part, source)
        self.keys: ItemKeys | None = None

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for row, item in enumerate(self._items):
            entries = _entries(item, row, self.source)
            if self.keys is None:
                self.keys = _find_places(entries, self.source, *self._named)
            try:
                yield entries[self.keys.image], entries[self.keys.label]
            except KeyError as error:
                raise InputError(
                    f"Item {row} of {self.source} has no entry {error.args[0]!r}, which item 0 has; give all items the "
                    "same entries."
                ) from error


@dataclass(frozen=True)
class ByRow:
    """The items of a data set with `__getitem__` and `__len__`; can be iterated repeatedly."""

    dataset: Any

    def __iter__(self) -> Iterator[Any]:
        return (self.dataset[row] for row in range(len(self.dataset)))


def _items_of(part: Any, source: str) -> tuple[Iterable[Any], int | None, tuple[str, ...]]:
    """The items, their number if known, and notes for the user."""
    dataset: Any = part
    if isinstance(dataset, DataLoader):
        return _items_of_loader(dataset, source)
    by_row = hasattr(part, "__getitem__") and hasattr(part, "__len__") and not isinstance(part, IterableDataset)
    if by_row:
        if isinstance(dataset, Mapping):
            raise InputError(
                f"{source} is a {type(part).__name__} of {', '.join(map(str, dataset))}; give one of these as the "
                "training and one as the test part."
            )
        return ByRow(dataset), len(dataset), ()
    if hasattr(part, "__iter__"):
        return part, None, ()
    raise InputError(f"{source} is a {type(part).__name__}, which has no items; give a torch data set or an iterable.")


def _items_of_loader(loader: Any, source: str) -> tuple[Iterable[Any], int | None, tuple[str, ...]]:
    """The items of a DataLoader: those of its data set if the loader only batches and shuffles, else the items of its
    batches."""
    if _only_batches(loader):
        items, count, notes = _items_of(loader.dataset, source)
        dropped = loader.drop_last and len(loader.dataset) % loader.batch_size > 0
        dropped_note = ", with those that drop_last leaves out" * dropped
        return items, count, (*notes, f"{source}: the items of the loader's data set, in their own order{dropped_note}")
    if loader.batch_size is None and loader.batch_sampler is None:
        return loader, None, ()
    return _items_of_batches(loader, source), None, (f"{source}: the batches of the loader, in the order of one pass",)


def _only_batches(loader: Any) -> bool:
    """Whether a loader yields exactly the items of its data set, each once, in any order."""
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return False  # a user-defined subclass may yield anything
    sampler: Any = loader.sampler
    items: Any = loader.dataset
    batches = loader.batch_sampler
    # A loader with a custom batch sampler also has a default sampler, which it does not use.
    if loader.collate_fn is not default_collate or type(batches) is not BatchSampler or batches.sampler is not sampler:
        return False
    if type(sampler) not in (SequentialSampler, RandomSampler) or getattr(sampler, "replacement", False):
        return False
    counted = hasattr(items, "__len__") and hasattr(sampler.data_source, "__len__")
    return counted and len(items) == len(sampler.data_source) == len(sampler)


def _items_of_batches(batches: Iterable[Any], source: str) -> Iterator[Any]:
    """Splits batches, which are tuples or dictionaries of columns, into items."""
    for number, batch in enumerate(batches):
        columns = _entries(batch, number, source)
        counts = [len(column) for column in columns.values() if hasattr(column, "__len__") and np.ndim(column) != 0]
        for row in range(min(counts, default=0)):
            yield {name: column[row] for name, column in columns.items() if _is_column(column, counts[0])}


def _is_column(column: Any, count: int) -> bool:
    return not isinstance(column, str | bytes) and hasattr(column, "__getitem__") and len(column) == count


def _entries(item: Any, row: int, source: str) -> dict[Hashable, Any]:
    """The entries of an item by name or position. Raises InputError for an item of another type."""
    if isinstance(item, Mapping):
        return dict(item)
    if hasattr(item, "_asdict"):
        return dict(item._asdict())
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    if isinstance(item, tuple | list) and len(item) > 1:
        return dict(enumerate(item))
    kind = type(item).__name__
    if isinstance(item, tuple | list):
        kind = f"{kind} of {len(item)}"
    raise InputError(f"Item {row} of {source} is a {kind}; give pairs of an image and its label, or dictionaries.")


def _find_places(entries: dict[Hashable, Any], source: str, image: str | None, label: str | None) -> ItemKeys:
    """The keys of the image and the label, found from the first item. Raises InputError for a requested name that the
    item does not have."""
    for kind, name in (("image column", image), ("label column", label)):
        if name is not None and name not in entries:
            raise unknown(kind, name, map(str, entries), context=f"in the items of {source}")
    images = [name for name, value in entries.items() if is_image(value) and name != label]
    chosen = image or _first_match(IMAGE_KEYS, images) or next(iter(images), None)
    if chosen is None:
        chosen = _first_match(IMAGE_KEYS, entries) or next(iter(entries))
    notes = [
        f"{source}: the image is entry {chosen}, which could also be {_join_names(images, chosen)}"
    ] * bool(image is None and len(images) > 1)  # fmt: skip
    if label is not None:
        return ItemKeys(chosen, label, (), tuple(notes))
    names = [name for name in entries if name != chosen]
    label_like = [name for name in names if is_label(entries[name])]
    possible = [name for name in names if name in label_like or is_missing(entries[name])]
    # The first image may have no label: a missing value is a candidate by name only, not by position.
    named_label = _first_match(LABEL_KEYS, possible)
    label_key = _label_key(chosen, label_like or names, source, entries) if named_label is None else named_label
    rivals = tuple(name for name in possible if name != label_key and label_key != _first_match(LABEL_KEYS, names))
    notes += [f"{source}: the label is entry {label_key}, which could also be {_join_names(rivals)}"] * bool(rivals)
    return ItemKeys(chosen, label_key, rivals, tuple(notes))


def _label_key(image: Hashable, names: Sequence[Hashable], source: str, entries: Mapping[Hashable, Any]) -> Hashable:
    """The key of the label: by its name, else the first entry after the image. Raises InputError if several named
    entries could be the label."""
    by_name = _first_match(LABEL_KEYS, names)
    if by_name is not None:
        return by_name
    order = list(entries)
    after = [name for name in names if order.index(name) > order.index(image)]
    by_position = all(isinstance(name, int) for name in names)
    if len(names) == 1 or (by_position and names):
        return next(iter(after), names[-1])
    raise InputError(
        f"The items of {source} have the entries {_join_names(order)}, of which none is called label; name it with "
        "label_column."
    )


def _first_match(candidates: Sequence[str], names: Iterable[Hashable]) -> Hashable | None:
    lower = {name.lower(): name for name in names if isinstance(name, str)}
    return next((lower[name] for name in candidates if name in lower), None)


def _join_names(names: Iterable[Hashable], excluded: Hashable = None) -> str:
    return ", ".join(str(name) for name in names if name is not excluded)


def is_image(value: Any) -> bool:
    """Whether an entry of an item looks like an image: a PIL image, or an array or tensor of two or more axes."""
    if isinstance(value, Image.Image):
        return True
    return hasattr(value, "dtype") and len(getattr(value, "shape", ())) >= 2 and min(value.shape) > 0


def is_label(value: Any) -> bool:
    """Whether an entry of an item looks like a class label: one number, boolean or string."""
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return int(np.prod(value.shape)) == 1
    return isinstance(value, int | float | str | bytes)


def label_of(label: Any, row: int, source: str, text: bool) -> int | str | None:
    """The label of an item: an integer of any type or, with `text`, a string; None if the label is missing. Raises
    InputError with the number of the item for other values. `source` names the data set part in messages."""
    if text and isinstance(label, str | bytes | np.str_):
        return label.decode("utf-8", errors="backslashreplace") if isinstance(label, bytes) else str(label)
    try:
        value = label.item() if hasattr(label, "item") else label  # numpy and torch, also one-element arrays
        if is_missing(value):
            return None
        number = int(value)
        whole = number == value and not text
    # the error of `item` for several elements depends on the library
    except (TypeError, ValueError, OverflowError, RuntimeError):
        whole, number = False, 0
    if not whole:
        label_text = textwrap.shorten(repr(label), 60, placeholder=" …")
        expected = {
            True: "the labels before it are text, so give text",
            False: "labels are whole numbers 0..K-1, so give its class number",
        }
        raise InputError(f"The label of image {row} of {source} is {label_text}; {expected[text]}.")
    return number


def class_names_in(part: Any, source: str, label: Hashable = None, depth: int = DEPTH) -> tuple[str, ...] | None:
    """The class names of a data set or of a data set that it wraps: `classes`, or those of a Hugging Face label column.

    Raises InputError for concatenated data sets with different names, because one number would mean two classes.
    `source` names the data set part in messages.
    """
    if depth == 0:
        return None
    features = getattr(part, "features", None)
    if isinstance(features, Mapping) and type(features.get(label)).__name__ == "ClassLabel":
        return tuple(features[label].names)
    names = getattr(part, "classes", None)
    if isinstance(names, Mapping):
        names = names_by_number(names)
    if isinstance(names, Sequence | np.ndarray) and not isinstance(names, str) and len(names):
        return tuple(map(str, names))
    if isinstance(part, ConcatDataset):
        variants = {class_names_in(each, source, label, depth - 1) for each in part.datasets}
        if len(variants) > 1:
            raise InputError(
                f"{source} joins data sets of different classes, so that one number means several; give them the same "
                "classes, or labels that are text."
            )
        return variants.pop()
    inner = getattr(part, "dataset", None)
    return None if inner is None else class_names_in(inner, source, label, depth - 1)
