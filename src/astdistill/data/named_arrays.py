"""Named arrays of one source (an .npz file, IDX files, a .mat file) as a labelled image set: which is which, by their
names, else by their shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..runtime.errors import InputError
from .arrays import Layout, channels_first, checked_layout, joint_levels
from .dataset import RawData, Split, Summary, checked_count
from .labels import MISSING, numbered
from .splits import BOUNDARY, split_of

Role = Literal["images", "labels"]
NAME_KEYS = ("classes", "class_names", "label_names", "target_names", "list_classes", "names")
"""Arrays that name the classes."""
ROLES: dict[str, Role] = {
    **dict.fromkeys(("x", "image", "images", "img", "imgs", "data", "pixels", "pictures", "features"), "images"),
    **dict.fromkeys(("y", "label", "labels", "target", "targets", "lbl", "lbls"), "labels"),
}
SHORT_PARTS = {"tr": "train", "te": "test", "ts": "test", "va": "validation"}
FIRST_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("images", "labels", "test_images", "test_labels"),
)
"""Names that decide where further arrays could be meant too."""
NEEDED = "it needs x_train and y_train (and x_test, y_test), or images and labels"
NAMED = 3
"""Arrays that a summary names of those that were left out."""


@dataclass(frozen=True)
class NamedArrays:
    """Arrays by name, read when they are asked for.

    `where` names the source in a sentence, `short` in the name of a part. `classes` are known beforehand, `layout` too.
    `relabelled` changes labels before they are numbered. `said` goes first into the summary.
    """

    name: str
    where: str
    short: str
    names: tuple[str, ...]
    read: Callable[[str], Any]
    classes: tuple[str, ...] | None = None
    relabelled: Callable[[np.ndarray], np.ndarray] = field(default=lambda labels: labels)
    said: Summary = field(default_factory=Summary)


@dataclass(frozen=True)
class Pair:
    """The names of the images and of the labels of one part."""

    images: str
    labels: str


@dataclass(frozen=True)
class Parts:
    """Which arrays are the parts, how that was seen, and what was not used."""

    train: Pair
    test: Pair | None
    guessed: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def set_of_arrays(arrays: NamedArrays, white: float | None = None) -> RawData:
    """The set that these arrays hold: training images and labels and, if there, those of a test part.

    Images are `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` of bytes, whole numbers or fractions; labels are whole
    numbers, text or flags, `[N]`, `[N, 1]` or one-hot `[N, K]`. `white` is the value that is white, where it was given.
    Raises InputError naming the arrays where any of it does not fit.
    """
    parts = found_parts(arrays)
    pairs = {part: pair for part, pair in (("train", parts.train), ("test", parts.test)) if pair is not None}
    classes = arrays.classes or _class_names(arrays)
    whole = {
        part: one_each(arrays.relabelled(np.asarray(arrays.read(pair.labels))), f"{arrays.short}, {pair.labels}")
        for part, pair in pairs.items()
    }
    labels = numbered(_joined(list(whole.values())), classes, f"{arrays.short}, {parts.train.labels}")
    layout = checked_layout(str(np.asarray(arrays.read("layout")))) if "layout" in arrays.names else None
    images = {part: _images(arrays, pair, len(whole[part]), layout) for part, pair in pairs.items()}
    levels = joint_levels(list(images.values()), arrays.short, white)
    counts = [len(part) for part in whole.values()]
    numbers = dict(zip(whole, labels.labels.split(counts), strict=True))
    splits, without = {}, []
    for part, pair in pairs.items():
        pixels = levels.pixels(images.pop(part))
        split = checked_count(pixels, numbers[part], f"{arrays.short}, {pair.images}")
        splits[part], missing = with_labels(split, f"{arrays.short}, {pair.labels}")
        without += [f"{missing} images of {pair.images}, which have no label"] * bool(missing)
    read = tuple(name for pair in pairs.values() for name in (pair.images, pair.labels))
    summary = Summary(
        (f"arrays {', '.join(read)}", *arrays.said.read, *levels.read, *labels.words),
        (*without, *parts.unused, *arrays.said.left_out),
        (*parts.guessed, *levels.guessed, *arrays.said.guessed),
    )
    return RawData(arrays.name, labels.classes, splits["train"], splits.get("test"), summary)


def with_labels(split: Split, where: str) -> tuple[Split, int]:
    """The images that have a label, and how many have none. Raises InputError where that is all of them."""
    rows = (split.labels != MISSING).nonzero().squeeze(1)
    if len(rows) == len(split):
        return split, 0
    if not len(rows):
        raise InputError(f"{where} holds no labels, only missing ones; give one class per image.")
    return split.select(rows), len(split) - len(rows)


def found_parts(arrays: NamedArrays) -> Parts:
    """Which arrays are images and labels of which part. Raises InputError naming all arrays where that cannot be seen,
    or could be seen in two ways."""
    held = [name for name in arrays.names if name not in (*NAME_KEYS, "layout")]
    by_name = _by_name(arrays, held)
    if by_name is None:
        return _by_shape(arrays, held)
    pairs = {part: Pair(*names) for part, names in by_name.items()}
    train = pairs.pop("train")
    test_part = next((part for part in ("test", "validation") if part in pairs), None)
    test = None
    said: tuple[str, ...] = ()
    if test_part is not None:
        test = pairs.pop(test_part)
    if test_part == "validation":
        said = (f"the test part is {' and '.join(by_name['validation'])}, as there is no other",)
    unused = [
        f"validation part {pair.images}, {pair.labels}: not used; --data.validation holds out training images"
        for pair in pairs.values()
    ]
    used = {name for names in by_name.values() for name in names}
    others = [name for name in held if name not in used]
    return Parts(train, test, said, (*unused, *_unknown(others)))


def _unknown(names: Sequence[str]) -> tuple[str, ...]:
    if len(names) <= NAMED:
        return tuple(f"array {name}, which has no known name" for name in names)
    return (f"{len(names)} arrays that have no known name ({', '.join(names[:NAMED])}, …)",)


Names = tuple[str, str]


def _by_name(arrays: NamedArrays, held: Sequence[str]) -> dict[str, Names] | None:
    """The names of images and labels of every part that has both; None where the training part has not."""
    for train_x, train_y, test_x, test_y in FIRST_KEYS:
        if train_x in held and train_y in held:
            first = {"train": (train_x, train_y)}
            _check_both(arrays, test_x, test_y)
            others = [name for name in held if name not in (train_x, train_y, "images", "labels")]
            return _roles(arrays, others) | first
    roles = _roles(arrays, held)
    if "train" not in roles and "" in roles:
        roles["train"] = roles[""]
    roles.pop("", None)
    return roles if "train" in roles else None


def _check_both(arrays: NamedArrays, images: str, labels: str) -> None:
    if (images in arrays.names) != (labels in arrays.names):
        raise InputError(f"{arrays.where} holds only one of {images} and {labels}; write both or neither.")


def _roles(arrays: NamedArrays, names: Sequence[str]) -> dict[str, Names]:
    """Images and labels by the part that their names speak of; '' where they speak of none."""
    roles: dict[tuple[str, Role], list[str]] = {}
    for name in names:
        role = role_of(name)
        if role is not None:
            roles.setdefault((part_of(name), role), []).append(name)
    parts = {part for part, _ in roles}
    for part in parts - {""}:  # 'train' beside 'train_labels'
        bare = [name for name in names if role_of(name) is None and part_of(name) == part and name.isalpha()]
        if bare and (part, "images") not in roles:
            roles[(part, "images")] = bare
    paired = [part for part in ("train", "test", "validation", "") if part in parts]
    result = {}
    for part in paired:
        images, labels = roles.get((part, "images"), []), roles.get((part, "labels"), [])
        if images and labels:
            result[part] = (_only(arrays, images), _only(arrays, labels))
        elif part == "test":
            one = (images or labels)[0]
            missing = "labels" if images else "images"
            raise InputError(f"{arrays.where} holds {one}, but no {missing} of the test part; write both or neither.")
    return result


def _only(arrays: NamedArrays, names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    raise InputError(
        f"{arrays.where} holds {' and '.join(names)}, which could be the same thing; keep one of them in the file."
    )


def part_of(name: str) -> str:
    """The part that a name speaks of, also in two letters (X_tr, X_te); '' where it speaks of none."""
    short = (SHORT_PARTS.get(word.lower(), "") for word in BOUNDARY.split(name) if word)
    return split_of(name) or next(filter(None, short), "")


def role_of(name: str) -> Role | None:
    """Whether a name speaks of images or of labels; names of identifiers and of classes speak of neither."""
    words = [word.lower() for word in BOUNDARY.split(name) if word]
    if {"id", "ids", "names", "name", "mean", "path", "paths", "mask", "masks"} & set(words):
        return None
    roles: list[Role] = [ROLES[word] for word in words if word in ROLES]
    if "labels" in roles:
        return "labels"
    return next(iter(roles), None)


def _by_shape(arrays: NamedArrays, held: Sequence[str]) -> Parts:
    """One array of images beside one of labels, or two of each in that order, whatever they are called."""
    read = {name: np.asarray(arrays.read(name)) for name in held}
    images = [name for name, array in read.items() if array.ndim in (3, 4) and array.dtype.kind in "uif"]
    labels = [name for name, array in read.items() if _like_labels(array)]
    pairs = [Pair(*pair) for pair in zip(images, labels, strict=False)]
    fitting = all(len(read[pair.images]) == len(read[pair.labels]) for pair in pairs)
    if not pairs or len(pairs) > 2 or len(images) != len(labels) or not fitting:
        shown = ", ".join(f"{name} {_shape(array)}" for name, array in read.items())
        raise InputError(f"{arrays.where} holds {shown or 'nothing'}; {NEEDED}.")
    test = pairs[1] if len(pairs) == 2 else None
    words = [f"{pair.images} are images and {pair.labels} their labels, by their shapes" for pair in pairs]
    words += [f"{test.images} are those of the test part, by their order"] if test else []
    others = [name for name in held if name not in (*images, *labels)]
    return Parts(pairs[0], test, tuple(words), _unknown(others))


def _like_labels(array: np.ndarray) -> bool:
    flat = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    return flat and array.dtype.kind in "uibUS"


def _shape(array: np.ndarray) -> str:
    return f"({'×'.join(map(str, array.shape))}, {array.dtype})"


def _class_names(arrays: NamedArrays) -> tuple[str, ...] | None:
    """The names that the source gives its classes: text or bytes, also in a column or a row."""
    key = next((key for key in NAME_KEYS if key in arrays.names), None)
    if key is None:
        return None
    held = np.asarray(arrays.read(key))
    if held.dtype.kind not in "USOiu" or held.ndim > 2 or (held.ndim == 2 and 1 not in held.shape):
        raise InputError(
            f"The class names {key} of {arrays.where} are {held.dtype} of shape {held.shape}; give one text per class."
        )
    return tuple(plain_text(value) for value in held.reshape(-1).tolist())


def plain_text(value: Any) -> str:
    """A name that is text, bytes, a number, or one of these in an array of its own."""
    while isinstance(value, np.ndarray | list) and len(value) == 1:
        value = value[0]
    return value.decode("utf-8", errors="backslashreplace") if isinstance(value, bytes) else str(value)


def one_each(labels: np.ndarray, where: str) -> np.ndarray:
    """Labels `[N]`: a column or row as it is, one-hot rows by the place of the one."""
    if not labels.ndim:
        raise InputError(f"The labels of {where} are a single value; give one class per image.")
    if labels.ndim == 2 and 1 in labels.shape:
        return labels.reshape(-1)
    if labels.ndim != 2 or labels.dtype.kind not in "uifb":
        return labels
    values = labels.astype(np.float64)
    if bool(np.isin(values, (0, 1)).all()) and bool((values.sum(axis=1) == 1).all()):
        return values.argmax(axis=1)
    raise InputError(
        f"The labels of {where} have shape {labels.shape}, several to an image (multi-label); give one class per image."
    )


def _joined(labels: Sequence[np.ndarray]) -> np.ndarray:
    """The labels of all parts in a row; text and numbers are not mixed into text."""
    if len({array.dtype.kind in "US" for array in labels}) == 1:
        return np.concatenate(list(labels))
    return np.array([value for array in labels for value in array.tolist()], dtype=object)


def _images(arrays: NamedArrays, pair: Pair, count: int, layout: Layout | None) -> np.ndarray:
    """The images of a part `[N, C, H, W]`; where N is the last axis, as MATLAB stores it, it is moved to the front."""
    held, where = np.asarray(arrays.read(pair.images)), f"{arrays.short}, {pair.images}"
    if held.ndim >= 3 and len(held) != count and held.shape[-1] == count:
        held = np.moveaxis(held, -1, 0)
    return channels_first(held, where, layout)
