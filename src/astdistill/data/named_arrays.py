"""Named arrays of one source (an .npz file, IDX files, a .mat file) as a labelled image set: which is which, by their
names, else by their shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..runtime.errors import InputError, unknown
from .arrays import Layout, channels_first, checked_layout, joint_levels
from .dataset import RawData, Split, Summary, checked_count
from .labels import MISSING, numbered
from .splits import BOUNDARY, WORDS, PartName, split_of

Role = Literal["images", "labels"]
NAME_KEYS = ("classes", "class_names", "label_names", "target_names", "list_classes", "names")
"""Arrays that name the classes."""
LOOSE_KEY = "names"
"""The one of these that may just as well hold a name for every image."""
ROLES: dict[str, Role] = {
    **dict.fromkeys(("x", "image", "images", "img", "imgs", "data", "pixels", "pictures", "features"), "images"),
    **dict.fromkeys(("y", "label", "labels", "target", "targets", "lbl", "lbls"), "labels"),
}
SHORT_PARTS: dict[str, PartName] = {"tr": "train", "te": "test", "ts": "test", "va": "validation"}
MNIST_TEST = re.compile("t10k", re.IGNORECASE)
"""What the files of MNIST call the test part."""
TEST_HINT = re.compile(r"test|tst|t10k|eval|te$", re.IGNORECASE)
TRAIN_HINT = re.compile(r"train|trn|tr$", re.IGNORECASE)
"""What may speak of a part inside a word that is not understood as a whole."""
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
class Wanted:
    """What is asked for of arrays: the names of the images and of the labels where there is a choice, and the value
    that is white."""

    images: str | None = None
    labels: str | None = None
    white: float | None = None


AS_FOUND = Wanted()


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


def set_of_arrays(arrays: NamedArrays, wanted: Wanted = AS_FOUND) -> RawData:
    """The set that these arrays hold: training images and labels and, if there, those of a test part.

    Images are `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` of bytes, whole numbers or fractions; labels are whole
    numbers, text or flags, `[N]`, `[N, 1]` or one-hot `[N, K]`. Raises InputError naming the arrays where any of it
    does not fit.
    """
    parts = found_parts(arrays, wanted)
    pairs = {part: pair for part, pair in (("train", parts.train), ("test", parts.test)) if pair is not None}
    whole = {
        part: one_each(arrays.relabelled(np.asarray(arrays.read(pair.labels))), f"{arrays.short}, {pair.labels}")
        for part, pair in pairs.items()
    }
    classes, unnamed = _class_names(arrays, parts, whole)
    labels = numbered(_joined(list(whole.values())), classes, f"{arrays.short}, {parts.train.labels}")
    layout = checked_layout(str(np.asarray(arrays.read("layout")))) if "layout" in arrays.names else None
    seen = {part: _images(arrays, pair, len(whole[part]), layout) for part, pair in pairs.items()}
    images = {part: held for part, (held, _) in seen.items()}
    levels = joint_levels(list(images.values()), arrays.short, wanted.white)
    counts = [len(part) for part in whole.values()]
    numbers = dict(zip(whole, labels.labels.split(counts), strict=True))
    splits, without = {}, []
    for part, pair in pairs.items():
        pixels = levels.pixels(images.pop(part))
        split = checked_count(pixels, numbers[part], f"{arrays.short}, {pair.images}")
        splits[part], missing = with_labels(split, f"{arrays.short}, {pair.labels}")
        without += [f"{missing} images of {pair.images}, which have no label"] * bool(missing)
    read = tuple(name for pair in pairs.values() for name in (pair.images, pair.labels))
    turned = (word for _, words in seen.values() for word in words)
    summary = Summary(
        (f"arrays {', '.join(read)}", *arrays.said.read, *levels.read, *labels.words),
        (*without, *parts.unused, *unnamed, *arrays.said.left_out),
        (*parts.guessed, *turned, *levels.guessed, *arrays.said.guessed),
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


def found_parts(arrays: NamedArrays, wanted: Wanted = AS_FOUND) -> Parts:
    """Which arrays are images and labels of which part. Raises InputError naming all arrays where that cannot be seen,
    or could be seen in two ways, and for a wanted name that no array has."""
    candidates = _candidates(arrays, wanted)
    by_name = _by_name(arrays, candidates)
    if by_name is None:
        return _by_shape(arrays, candidates)
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
    others = [name for name in candidates.held if name not in used]
    return Parts(train, test, said, (*unused, *_unknown(others), *candidates.unused))


@dataclass(frozen=True)
class Candidates:
    """The arrays that may be images or labels, in their order; `chosen` are the roles of those that were asked for, and
    `unused` says which others are not taken in their place."""

    held: tuple[str, ...]
    chosen: Mapping[str, Role] = field(default_factory=dict[str, Role])
    unused: tuple[str, ...] = ()

    def role(self, name: str) -> Role | None:
        """Whether an array is images or labels: as it was asked for, else as its name says."""
        role = self.chosen.get(name) or role_of(name)
        return role if name in self.chosen or role not in self.chosen.values() else None


def _candidates(arrays: NamedArrays, wanted: Wanted) -> Candidates:
    """All arrays but those that name classes; of images and labels only those that are asked for, where any are."""
    chosen: dict[str, Role] = {}
    asked: dict[Role, str] = {}
    if wanted.images is not None:
        asked["images"] = wanted.images
        chosen |= dict.fromkeys(_called(arrays, wanted.images, "image"), "images")
    if wanted.labels is not None:
        asked["labels"] = wanted.labels
        chosen |= dict.fromkeys(_called(arrays, wanted.labels, "label"), "labels")
    held = [name for name in arrays.names if name in chosen or name not in (*NAME_KEYS, "layout")]
    others = ((name, role_of(name)) for name in held if name not in chosen)
    passed: dict[str, Role] = {name: role for name, role in others if role is not None and role in asked}
    unused = (
        f"array {name}, since --data.{role.removesuffix('s')}-column {asked[role]} was asked for"
        for name, role in passed.items()
    )
    return Candidates(tuple(name for name in held if name not in passed), chosen, tuple(unused))


def _called(arrays: NamedArrays, name: str, kind: str) -> list[str]:
    """The array of that name, and those of other parts that are called alike but for the part."""
    wanted, part = _without_part(name), part_of(name)
    others = [each for each in arrays.names if _without_part(each) == wanted and part_of(each) != part]
    found = [each for each in arrays.names if each == name or each in others]
    if not found:
        raise unknown(f"{kind} array", name, arrays.names, where=f"in {arrays.where}")
    return found


def _without_part(name: str) -> tuple[str, ...]:
    """The words of a name that do not speak of a part."""
    return tuple(word for word in _words(MNIST_TEST.sub("test", name)) if word not in (*WORDS, *SHORT_PARTS))


def _unknown(names: Sequence[str]) -> tuple[str, ...]:
    if len(names) <= NAMED:
        return tuple(f"array {name}, which has no known name" for name in names)
    return (f"{len(names)} arrays that have no known name ({', '.join(names[:NAMED])}, …)",)


Names = tuple[str, str]


def _by_name(arrays: NamedArrays, candidates: Candidates) -> dict[str, Names] | None:
    """The names of images and labels of every part that has both; None where the training part has not."""
    held = candidates.held
    for train_x, train_y, test_x, test_y in FIRST_KEYS:
        if train_x in held and train_y in held:
            first = {"train": (train_x, train_y)}
            if (test_x in held) != (test_y in held):
                raise InputError(f"{arrays.where} holds only one of {test_x} and {test_y}; write both or neither.")
            others = [name for name in held if name not in (train_x, train_y, "images", "labels")]
            return _roles(arrays, others, candidates.role) | first
    roles = _roles(arrays, held, candidates.role)
    if "train" not in roles and "" in roles:
        roles["train"] = roles[""]
    roles.pop("", None)
    return roles if "train" in roles else None


def _roles(arrays: NamedArrays, names: Sequence[str], role_in: Callable[[str], Role | None]) -> dict[str, Names]:
    """Images and labels by the part that their names speak of; '' where they speak of none."""
    told: dict[str, Role | None] = {name: role_in(name) for name in names}
    roles: dict[tuple[str, Role], list[str]] = {}
    for name, role in told.items():
        if role is not None:
            roles.setdefault((part_of(name), role), []).append(name)
    parts = {part for part, _ in roles}
    for part in parts - {""}:  # 'train' beside 'train_labels'
        bare = [name for name in names if told[name] is None and part_of(name) == part and name.isalpha()]
        if bare and (part, "images") not in roles:
            roles[(part, "images")] = bare
    paired = [part for part in ("train", "test", "validation", "") if part in parts]
    result = {}
    for part in paired:
        images, labels = roles.get((part, "images"), []), roles.get((part, "labels"), [])
        if images and labels:
            result[part] = (_only(arrays, images, "image"), _only(arrays, labels, "label"))
        elif part == "test":
            one = (images or labels)[0]
            missing = "labels" if images else "images"
            raise InputError(f"{arrays.where} holds {one}, but no {missing} of the test part; write both or neither.")
    return result


def _only(arrays: NamedArrays, names: Sequence[str], kind: str) -> str:
    if len(names) == 1:
        return names[0]
    raise InputError(
        f"{arrays.where} holds {' and '.join(names)}, which could be the same thing; name one of them with "
        f"--data.{kind}-column, or keep one of them in the file."
    )


def part_of(name: str) -> str:
    """The part that a name speaks of, also in two letters (X_tr, X_te); '' where it speaks of none."""
    plain = MNIST_TEST.sub("test", name)
    short = (SHORT_PARTS.get(word, "") for word in _words(plain))
    return split_of(" ".join(_words(plain))) or split_of(plain) or next(filter(None, short), "")


def role_of(name: str) -> Role | None:
    """Whether a name speaks of images or of labels; names of identifiers and of classes speak of neither."""
    words = _words(name)
    if {"id", "ids", "names", "name", "mean", "path", "paths", "mask", "masks"} & set(words):
        return None
    roles: list[Role] = [ROLES[word] for word in words if word in ROLES]
    if "labels" in roles:
        return "labels"
    return next(iter(roles), None)


def _words(name: str) -> list[str]:
    """The words of a name, in lower case; what is written in one, as Xtrain, trainx and yte are, counts as two."""
    return [part for word in BOUNDARY.split(name) if word for part in _unglued(word.lower())]


def _unglued(word: str) -> Iterator[str]:
    parts = (*WORDS, *SHORT_PARTS)
    pairs = ((word[:cut], word[cut:]) for cut in range(1, len(word)))
    yield from next(
        (pair for pair in pairs if (pair[0] in ROLES and pair[1] in parts) or (pair[0] in parts and pair[1] in ROLES)),
        (word,),
    )


def _by_shape(arrays: NamedArrays, candidates: Candidates) -> Parts:
    """One array of images beside one of labels, or two of each, whatever they are called: the test part is the pair
    whose names may speak of it, else the second."""
    read = {name: np.asarray(arrays.read(name)) for name in candidates.held}
    images = [name for name, array in read.items() if array.ndim in (3, 4) and array.dtype.kind in "uif"]
    labels = [name for name, array in read.items() if _like_labels(array)]
    images, labels = (
        [name for name, its in candidates.chosen.items() if its == role] or found
        for role, found in (("images", images), ("labels", labels))
    )
    pairs, how = _in_parts(arrays, images, labels)
    fitting = all(len(read[pair.images]) == len(read[pair.labels]) for pair in pairs)
    if not pairs or len(pairs) > 2 or len(images) != len(labels) or not fitting:
        shown = ", ".join(f"{name} {_shape(array)}" for name, array in read.items())
        raise InputError(f"{arrays.where} holds {shown or 'nothing'}; {NEEDED}.")
    test = pairs[1] if len(pairs) == 2 else None
    words = [f"{pair.images} are images and {pair.labels} their labels, by their shapes" for pair in pairs]
    words += [f"{test.images} are those of the test part, by their {how}"] if test else []
    others = [name for name in candidates.held if name not in (*images, *labels)]
    return Parts(pairs[0], test, tuple(words), (*_unknown(others), *candidates.unused))


def _in_parts(arrays: NamedArrays, images: Sequence[str], labels: Sequence[str]) -> tuple[list[Pair], str]:
    """Images with their labels, of two pairs that of the test part last, and what told it: names or order. Raises
    InputError where both speak of testing: no order makes training images of these."""
    hints = [[_part_hint(name) for name in names] for names in (images, labels)]
    if len(images) != 2 or len(labels) != 2 or not any(map(any, hints)):
        return [Pair(*pair) for pair in zip(images, labels, strict=False)], "order"
    if ["test", "test"] in hints:
        raise InputError(
            f"{arrays.where} holds {' and '.join(images)} with {' and '.join(labels)}, which all seem to be of a test "
            "part; call the arrays x_train, y_train, x_test and y_test."
        )
    # Names that speak of no part keep the order that the others have.
    turned = [each[0] == "test" or each[1] == "train" for each in hints]
    turned = [turned[not number] if not any(each) else turned[number] for number, each in enumerate(hints)]
    ordered = [names[::-1] if turn else names for names, turn in zip((images, labels), turned, strict=True)]
    return [Pair(*pair) for pair in zip(*ordered, strict=True)], "names"


def _part_hint(name: str) -> str:
    """The part of which some letters of a name may speak; '' where there are none, or of both."""
    hints = [part for part, hint in (("train", TRAIN_HINT), ("test", TEST_HINT)) if hint.search(name)]
    return hints[0] if len(hints) == 1 else ""


def _like_labels(array: np.ndarray) -> bool:
    flat = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    return flat and array.dtype.kind in "uibUS"


def _shape(array: np.ndarray) -> str:
    return f"({'×'.join(map(str, array.shape))}, {array.dtype})"


def _class_names(
    arrays: NamedArrays, parts: Parts, labels: Mapping[str, np.ndarray]
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The names that the source gives its classes, text or bytes, also in a column or a row; and a word on what looks
    like them and is a name for every image."""
    if arrays.classes is not None:
        return arrays.classes, ()
    used = (parts.train.labels, parts.test and parts.test.labels)
    key = next((key for key in NAME_KEYS if key in arrays.names and key not in used), None)
    if key is None:
        return None, ()
    held = np.asarray(arrays.read(key))
    if held.dtype.kind not in "USOiu" or held.ndim > 2 or (held.ndim == 2 and 1 not in held.shape):
        raise InputError(
            f"The class names {key} of {arrays.where} are {held.dtype} of shape {held.shape}; give one text per class."
        )
    if key == LOOSE_KEY and _of_images(held.size, labels):
        return None, (f"array {key}, which has a name for every image, not for every class",)
    return tuple(plain_text(value) for value in held.reshape(-1).tolist()), ()


def _of_images(count: int, labels: Mapping[str, np.ndarray]) -> bool:
    """Whether so many names are those of the images rather than of the classes."""
    of_all, of_training = sum(map(len, labels.values())), len(labels["train"])
    return count in (of_all, of_training) and len(set(labels["train"].tolist())) != count


def plain_text(value: Any) -> str:
    """A name that is text, bytes, a number, or one of these in an array of its own."""
    while isinstance(value, np.ndarray | list) and len(value) == 1:
        value = value[0]
    return value.decode("utf-8", errors="backslashreplace") if isinstance(value, bytes) else str(value)


def one_each(labels: np.ndarray, where: str) -> np.ndarray:
    """Labels `[N]`: a column or row as it is, one-hot rows by the place of the one."""
    if not labels.ndim:
        raise InputError(f"The labels of {where} are a single value; give one class per image.")
    if labels.ndim == 2 and not labels.size:
        raise InputError(f"The labels of {where} are empty; give one class per image.")
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


def _images(arrays: NamedArrays, pair: Pair, count: int, layout: Layout | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """The images of a part `[N, C, H, W]`, and a word where the axis of the images could be another; where N is the
    last axis, as MATLAB stores it, it is moved to the front."""
    held, where = np.asarray(arrays.read(pair.images)), f"{arrays.short}, {pair.images}"
    last = held.ndim >= 3 and held.shape[-1] == count
    words = ()
    if last and len(held) != count:
        held = np.moveaxis(held, -1, 0)
    elif last and held.ndim == 3:
        words = (
            f"{pair.images} as [N, H, W], which by its shape {held.shape} could be [H, W, N] (otherwise: store it with "
            "numpy.moveaxis(images, -1, 0))",
        )
    return channels_first(held, where, layout), words
