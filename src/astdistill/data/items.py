"""Items of any torch data set: which entry is the image and which the label; loaders and iterable sets as items."""

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
"""Names of the image, the most telling first."""
LABEL_KEYS = ("label", "labels", "fine_label", "target", "targets", "y", "class", "cls", "category")
DEPTH = 5
"""Data sets within one another that are looked through for class names."""


@dataclass(frozen=True)
class Places:
    """Where image and label lie in every item, and what else the label could be."""

    image: Hashable
    label: Hashable
    rivals: tuple[Hashable, ...] = ()
    said: tuple[str, ...] = ()


class Items:
    """The items of one part of a data set, each as (image, label).

    Takes a data set with `__getitem__` and `__len__`, an iterable one, a DataLoader, or any sequence of items. Items
    may be tuples, named tuples, dictionaries or dataclasses, all of one kind. The first item decides.
    """

    def __init__(self, part: Any, where: str, image: str | None = None, label: str | None = None) -> None:
        self.where, self._named = where, (image, label)
        self._items, self.count, self.said = _items_of(part, where)
        self.places: Places | None = None

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for row, item in enumerate(self._items):
            held = _entries(item, row, self.where)
            if self.places is None:
                self.places = _places(held, self.where, *self._named)
            try:
                yield held[self.places.image], held[self.places.label]
            except KeyError as error:
                raise InputError(
                    f"Item {row} of {self.where} has no entry {error.args[0]!r}, which item 0 has; give all items the "
                    "same entries."
                ) from error


@dataclass(frozen=True)
class ByRow:
    """The items of a data set with `__getitem__` and `__len__`, as often as they are asked for."""

    held: Any

    def __iter__(self) -> Iterator[Any]:
        return (self.held[row] for row in range(len(self.held)))


def _items_of(part: Any, where: str) -> tuple[Iterable[Any], int | None, tuple[str, ...]]:
    """The items, how many there are if that is known, and what is to be said of it."""
    held: Any = part
    if isinstance(held, DataLoader):
        return _loaded(held, where)
    by_row = hasattr(part, "__getitem__") and hasattr(part, "__len__") and not isinstance(part, IterableDataset)
    if by_row:
        if isinstance(held, Mapping):
            raise InputError(
                f"{where} is a {type(part).__name__} of {', '.join(map(str, held))}; give one of these as the training "
                "and one as the test part."
            )
        return ByRow(held), len(held), ()
    if hasattr(part, "__iter__"):
        return part, None, ()
    raise InputError(f"{where} is a {type(part).__name__}, which has no items; give a torch data set or an iterable.")


def _loaded(loader: Any, where: str) -> tuple[Iterable[Any], int | None, tuple[str, ...]]:
    """The items behind a DataLoader: those of its data set where it only batches and shuffles, else its batches taken
    apart."""
    if _only_batches(loader):
        items, count, said = _items_of(loader.dataset, where)
        dropped = loader.drop_last and len(loader.dataset) % loader.batch_size > 0
        also = ", with those that drop_last leaves out" * dropped
        return items, count, (*said, f"{where}: the items of the loader's data set, in their own order{also}")
    if loader.batch_size is None and loader.batch_sampler is None:
        return loader, None, ()
    return _apart(loader, where), None, (f"{where}: the batches of the loader, in the order of one pass",)


def _only_batches(loader: Any) -> bool:
    """Whether a loader gives just the items of its data set, each once, in some order."""
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return False  # a class of the user's own may give anything
    sampler: Any = loader.sampler
    items: Any = loader.dataset
    batches = loader.batch_sampler
    # Given a sampler of batches, a loader has a sampler of its own beside it, which it does not ask.
    if loader.collate_fn is not default_collate or type(batches) is not BatchSampler or batches.sampler is not sampler:
        return False
    if type(sampler) not in (SequentialSampler, RandomSampler) or getattr(sampler, "replacement", False):
        return False
    counted = hasattr(items, "__len__") and hasattr(sampler.data_source, "__len__")
    return counted and len(items) == len(sampler.data_source) == len(sampler)


def _apart(batches: Iterable[Any], where: str) -> Iterator[Any]:
    """The items of batches that are tuples or dictionaries of columns."""
    for number, batch in enumerate(batches):
        columns = _entries(batch, number, where)
        counts = [len(column) for column in columns.values() if hasattr(column, "__len__") and np.ndim(column) != 0]
        for row in range(min(counts, default=0)):
            yield {name: column[row] for name, column in columns.items() if _is_column(column, counts[0])}


def _is_column(column: Any, count: int) -> bool:
    return not isinstance(column, str | bytes) and hasattr(column, "__getitem__") and len(column) == count


def _entries(item: Any, row: int, where: str) -> dict[Hashable, Any]:
    """The entries of an item by name, or by place."""
    if isinstance(item, Mapping):
        return dict(item)
    if hasattr(item, "_asdict"):
        return dict(item._asdict())
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    if isinstance(item, tuple | list) and len(item) > 1:
        return dict(enumerate(item))
    given = type(item).__name__
    if isinstance(item, tuple | list):
        given = f"{given} of {len(item)}"
    raise InputError(f"Item {row} of {where} is a {given}; give pairs of an image and its label, or dictionaries.")


def _places(held: dict[Hashable, Any], where: str, image: str | None, label: str | None) -> Places:
    """Where the image and the label are, as the first item shows it."""
    for kind, name in (("image column", image), ("label column", label)):
        if name is not None and name not in held:
            raise unknown(kind, name, map(str, held), where=f"in the items of {where}")
    pictures = [name for name, value in held.items() if is_image(value) and name != label]
    chosen = image or _first_of(IMAGE_KEYS, pictures) or next(iter(pictures), None)
    if chosen is None:
        chosen = _first_of(IMAGE_KEYS, held) or next(iter(held))
    said = [
        f"{where}: the image is entry {chosen}, which could also be {_listed(pictures, chosen)}"
    ] * bool(image is None and len(pictures) > 1)  # fmt: skip
    if label is not None:
        return Places(chosen, label, (), tuple(said))
    names = [name for name in held if name != chosen]
    fitting = [name for name in names if is_label(held[name])]
    possible = [name for name in names if name in fitting or is_missing(held[name])]
    # An image without a label may come first; without names, what is none tells nothing.
    called = _first_of(LABEL_KEYS, possible)
    label_place = _label_place(chosen, fitting or names, where, held) if called is None else called
    rivals = tuple(name for name in possible if name != label_place and label_place != _first_of(LABEL_KEYS, names))
    said += [f"{where}: the label is entry {label_place}, which could also be {_listed(rivals)}"] * bool(rivals)
    return Places(chosen, label_place, rivals, tuple(said))


def _label_place(image: Hashable, names: Sequence[Hashable], where: str, held: Mapping[Hashable, Any]) -> Hashable:
    """The entry that is the label: by its name, else the first behind the image."""
    by_name = _first_of(LABEL_KEYS, names)
    if by_name is not None:
        return by_name
    order = list(held)
    behind = [name for name in names if order.index(name) > order.index(image)]
    by_place = all(isinstance(name, int) for name in names)
    if len(names) == 1 or (by_place and names):
        return next(iter(behind), names[-1])
    raise InputError(
        f"The items of {where} have the entries {_listed(order)}, of which none is called label; name it with "
        "label_column."
    )


def _first_of(wanted: Sequence[str], names: Iterable[Hashable]) -> Hashable | None:
    lower = {name.lower(): name for name in names if isinstance(name, str)}
    return next((lower[name] for name in wanted if name in lower), None)


def _listed(names: Iterable[Hashable], leaving: Hashable = None) -> str:
    return ", ".join(str(name) for name in names if name is not leaving)


def is_image(value: Any) -> bool:
    """Whether an entry of an item looks like an image: a picture, or an array or tensor of two or more axes."""
    if isinstance(value, Image.Image):
        return True
    return hasattr(value, "dtype") and len(getattr(value, "shape", ())) >= 2 and min(value.shape) > 0


def is_label(value: Any) -> bool:
    """Whether an entry of an item looks like a class: one number, flag or text."""
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return int(np.prod(value.shape)) == 1
    return isinstance(value, int | float | str | bytes)


def label_of(label: Any, row: int, where: str, text: bool) -> int | str | None:
    """The label of an item: a whole number of any type, or, with `text`, a text; None where it has none. Raises
    InputError naming the item."""
    if text and isinstance(label, str | bytes | np.str_):
        return label.decode("utf-8", errors="backslashreplace") if isinstance(label, bytes) else str(label)
    try:
        value = label.item() if hasattr(label, "item") else label  # numpy and torch, also one-element arrays
        if is_missing(value):
            return None
        number = int(value)
        whole = number == value and not text
    # what `item` raises for several elements depends on the library
    except (TypeError, ValueError, OverflowError, RuntimeError):
        whole, number = False, 0
    if not whole:
        given = textwrap.shorten(repr(label), 60, placeholder=" …")
        wanted = {
            True: "the labels before it are text, so give text",
            False: "labels are whole numbers 0..K-1, so give its class number",
        }
        raise InputError(f"The label of image {row} of {where} is {given}; {wanted[text]}.")
    return number


def class_names_in(part: Any, where: str, label: Hashable = None, depth: int = DEPTH) -> tuple[str, ...] | None:
    """The class names that a data set, or one inside it, knows: `classes`, or those of a Hugging Face label column.

    Raises InputError where data sets are joined whose names differ, because one number would mean two classes.
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
        every = {class_names_in(each, where, label, depth - 1) for each in part.datasets}
        if len(every) > 1:
            raise InputError(
                f"{where} joins data sets of different classes, so that one number means several; give them the same "
                "classes, or labels that are text."
            )
        return every.pop()
    inner = getattr(part, "dataset", None)
    return None if inner is None else class_names_in(inner, where, label, depth - 1)
