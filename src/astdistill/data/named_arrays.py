"""Reads named arrays of one source (an .npz file, IDX files, a .mat file) as a labelled image set. Images and labels
are identified by the names of the arrays, else by their shapes."""

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
"""Names of arrays with class names."""
LOOSE_KEY = "names"
"""The one of these that may instead contain a name for every image."""
ROLES: dict[str, Role] = {
    **dict.fromkeys(("x", "image", "images", "img", "imgs", "data", "pixels", "pictures", "features"), "images"),
    **dict.fromkeys(("y", "label", "labels", "target", "targets", "lbl", "lbls"), "labels"),
}
SHORT_PARTS: dict[str, PartName] = {"tr": "train", "te": "test", "ts": "test", "va": "validation"}
MNIST_TEST = re.compile("t10k", re.IGNORECASE)
"""The name of the test part in the files of MNIST."""
TEST_HINT = re.compile(r"test|tst|t10k|eval|te$", re.IGNORECASE)
TRAIN_HINT = re.compile(r"train|trn|tr$", re.IGNORECASE)
"""Letters inside an unknown word that may denote a part."""
FIRST_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("images", "labels", "test_images", "test_labels"),
)
"""Names that take precedence if there are other candidates."""
NEEDED = "it needs x_train and y_train (and x_test, y_test), or images and labels"
NAMED = 3
"""Maximum number of left out arrays that a summary names."""


@dataclass(frozen=True)
class NamedArrays:
    """Arrays by name, read lazily by `read`.

    `source` names the arrays in messages, `short` is the short form in the name of a part. `classes` are the class
    names, if known in advance. `relabelled` transforms labels before they are numbered. `summary` is added to that of
    the data set.
    """

    name: str
    source: str
    short: str
    names: tuple[str, ...]
    read: Callable[[str], Any]
    classes: tuple[str, ...] | None = None
    relabelled: Callable[[np.ndarray], np.ndarray] = field(default=lambda labels: labels)
    summary: Summary = field(default_factory=Summary)


@dataclass(frozen=True)
class ArrayChoice:
    """User settings for reading arrays: the names of the image and label arrays, and the value of white."""

    images: str | None = None
    labels: str | None = None
    white: float | None = None


AS_FOUND = ArrayChoice()


@dataclass(frozen=True)
class Pair:
    """The names of the images and of the labels of one part."""

    images: str
    labels: str


@dataclass(frozen=True)
class Parts:
    """The arrays of each part, notes on guesses, and notes on unused arrays."""

    train: Pair
    test: Pair | None
    guessed: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def set_of_arrays(arrays: NamedArrays, choice: ArrayChoice = AS_FOUND) -> RawData:
    """The data set in these arrays: training images and labels and, if present, those of a test part.

    Images are `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` of bytes, integers or fractions; labels are integers, text
    or booleans, `[N]`, `[N, 1]` or one-hot `[N, K]`. Raises InputError with the names of the arrays if they do not fit.
    """
    parts = find_parts(arrays, choice)
    pairs = {part: pair for part, pair in (("train", parts.train), ("test", parts.test)) if pair is not None}
    raw_labels = {
        part: one_each(arrays.relabelled(np.asarray(arrays.read(pair.labels))), f"{arrays.short}, {pair.labels}")
        for part, pair in pairs.items()
    }
    classes, unnamed = _class_names(arrays, parts, raw_labels)
    labels = numbered(_concatenate(list(raw_labels.values())), classes, f"{arrays.short}, {parts.train.labels}")
    layout = checked_layout(str(np.asarray(arrays.read("layout")))) if "layout" in arrays.names else None
    read_images = {part: _read_images(arrays, pair, len(raw_labels[part]), layout) for part, pair in pairs.items()}
    images = {part: array for part, (array, _) in read_images.items()}
    levels = joint_levels(list(images.values()), arrays.short, choice.white)
    counts = [len(part) for part in raw_labels.values()]
    numbers = dict(zip(raw_labels, labels.labels.split(counts), strict=True))
    splits, unlabelled = {}, []
    for part, pair in pairs.items():
        pixels = levels.pixels(images.pop(part))
        split = checked_count(pixels, numbers[part], f"{arrays.short}, {pair.images}")
        splits[part], missing = with_labels(split, f"{arrays.short}, {pair.labels}")
        unlabelled += [f"{missing} images of {pair.images}, which have no label"] * bool(missing)
    used = tuple(name for pair in pairs.values() for name in (pair.images, pair.labels))
    axis_notes = (note for _, notes in read_images.values() for note in notes)
    summary = Summary(
        (f"arrays {', '.join(used)}", *arrays.summary.read, *levels.read, *labels.notes),
        (*unlabelled, *parts.unused, *unnamed, *arrays.summary.left_out),
        (*parts.guessed, *axis_notes, *levels.guessed, *arrays.summary.guessed),
    )
    return RawData(arrays.name, labels.classes, splits["train"], splits.get("test"), summary)


def with_labels(split: Split, source: str) -> tuple[Split, int]:
    """The images with a label, and the number without. Raises InputError if no image has a label. `source` names the
    labels in messages."""
    rows = (split.labels != MISSING).nonzero().squeeze(1)
    if len(rows) == len(split):
        return split, 0
    if not len(rows):
        raise InputError(f"{source} holds no labels, only missing ones; give one class per image.")
    return split.select(rows), len(split) - len(rows)


def find_parts(arrays: NamedArrays, choice: ArrayChoice = AS_FOUND) -> Parts:
    """The arrays that are images and labels of each part. Raises InputError with the names of the arrays if the
    assignment is unknown or ambiguous, and if no array has a requested name."""
    candidates = _candidates(arrays, choice)
    by_name = _parts_by_name(arrays, candidates)
    if by_name is None:
        return _parts_by_shape(arrays, candidates)
    pairs = {part: Pair(*names) for part, names in by_name.items()}
    train = pairs.pop("train")
    test_part = next((part for part in ("test", "validation") if part in pairs), None)
    test = None
    notes: tuple[str, ...] = ()
    if test_part is not None:
        test = pairs.pop(test_part)
    if test_part == "validation":
        notes = (f"the test part is {' and '.join(by_name['validation'])}, as there is no other",)
    unused = [
        f"validation part {pair.images}, {pair.labels}: not used; --data.validation holds out training images"
        for pair in pairs.values()
    ]
    used = {name for names in by_name.values() for name in names}
    others = [name for name in candidates.names if name not in used]
    return Parts(train, test, notes, (*unused, *_notes_on_unused(others), *candidates.unused))


@dataclass(frozen=True)
class Candidates:
    """The arrays that may be images or labels, in their order; `chosen` are the roles of the arrays requested by the
    user, and `unused` are notes on arrays with the same role that are ignored."""

    names: tuple[str, ...]
    chosen: Mapping[str, Role] = field(default_factory=dict[str, Role])
    unused: tuple[str, ...] = ()

    def role(self, name: str) -> Role | None:
        """The role of an array: as requested by the user, else by its name; None if unknown."""
        role = self.chosen.get(name) or role_of(name)
        return role if name in self.chosen or role not in self.chosen.values() else None


def _candidates(arrays: NamedArrays, choice: ArrayChoice) -> Candidates:
    """All arrays except those with class names; of images and labels only the requested ones, if any are requested."""
    chosen: dict[str, Role] = {}
    requested: dict[Role, str] = {}
    if choice.images is not None:
        requested["images"] = choice.images
        chosen |= dict.fromkeys(_arrays_named(arrays, choice.images, "image"), "images")
    if choice.labels is not None:
        requested["labels"] = choice.labels
        chosen |= dict.fromkeys(_arrays_named(arrays, choice.labels, "label"), "labels")
    names = [name for name in arrays.names if name in chosen or name not in (*NAME_KEYS, "layout")]
    others = ((name, role_of(name)) for name in names if name not in chosen)
    skipped: dict[str, Role] = {name: role for name, role in others if role is not None and role in requested}
    unused = (
        f"array {name}, since --data.{role.removesuffix('s')}-column {requested[role]} was asked for"
        for name, role in skipped.items()
    )
    return Candidates(tuple(name for name in names if name not in skipped), chosen, tuple(unused))


def _arrays_named(arrays: NamedArrays, name: str, kind: str) -> list[str]:
    """The array with this name, and arrays whose name differs in the data set part only."""
    words, part = _words_without_part(name), part_of(name)
    others = [each for each in arrays.names if _words_without_part(each) == words and part_of(each) != part]
    found = [each for each in arrays.names if each == name or each in others]
    if not found:
        raise unknown(f"{kind} array", name, arrays.names, context=f"in {arrays.source}")
    return found


def _words_without_part(name: str) -> tuple[str, ...]:
    """The words of a name that do not denote a part."""
    return tuple(word for word in _words(MNIST_TEST.sub("test", name)) if word not in (*WORDS, *SHORT_PARTS))


def _notes_on_unused(names: Sequence[str]) -> tuple[str, ...]:
    if len(names) <= NAMED:
        return tuple(f"array {name}, which has no known name" for name in names)
    return (f"{len(names)} arrays that have no known name ({', '.join(names[:NAMED])}, …)",)


Names = tuple[str, str]


def _parts_by_name(arrays: NamedArrays, candidates: Candidates) -> dict[str, Names] | None:
    """The names of images and labels of every part that has both; None if the training part does not."""
    names = candidates.names
    for train_x, train_y, test_x, test_y in FIRST_KEYS:
        if train_x in names and train_y in names:
            first = {"train": (train_x, train_y)}
            if (test_x in names) != (test_y in names):
                raise InputError(f"{arrays.source} holds only one of {test_x} and {test_y}; write both or neither.")
            others = [name for name in names if name not in (train_x, train_y, "images", "labels")]
            return _pair_by_part(arrays, others, candidates.role) | first
    roles = _pair_by_part(arrays, names, candidates.role)
    if "train" not in roles and "" in roles:
        roles["train"] = roles[""]
    roles.pop("", None)
    return roles if "train" in roles else None


def _pair_by_part(arrays: NamedArrays, names: Sequence[str], role_in: Callable[[str], Role | None]) -> dict[str, Names]:
    """The names of images and labels by the part in their names; '' for names without a part."""
    role_of_name: dict[str, Role | None] = {name: role_in(name) for name in names}
    roles: dict[tuple[str, Role], list[str]] = {}
    for name, role in role_of_name.items():
        if role is not None:
            roles.setdefault((part_of(name), role), []).append(name)
    parts = {part for part, _ in roles}
    for part in parts - {""}:  # 'train' next to 'train_labels'
        plain_names = [
            name for name in names if role_of_name[name] is None and part_of(name) == part and name.isalpha()
        ]
        if plain_names and (part, "images") not in roles:
            roles[(part, "images")] = plain_names
    paired = [part for part in ("train", "test", "validation", "") if part in parts]
    result = {}
    for part in paired:
        images, labels = roles.get((part, "images"), []), roles.get((part, "labels"), [])
        if images and labels:
            result[part] = (_single_name(arrays, images, "image"), _single_name(arrays, labels, "label"))
        elif part == "test":
            found = (images or labels)[0]
            missing = "labels" if images else "images"
            raise InputError(
                f"{arrays.source} holds {found}, but no {missing} of the test part; write both or neither."
            )
    return result


def _single_name(arrays: NamedArrays, names: Sequence[str], kind: str) -> str:
    if len(names) == 1:
        return names[0]
    raise InputError(
        f"{arrays.source} holds {' and '.join(names)}, which could be the same thing; name one of them with "
        f"--data.{kind}-column, or keep one of them in the file."
    )


def part_of(name: str) -> str:
    """The part in a name, also in two-letter form (X_tr, X_te); '' if there is none."""
    plain = MNIST_TEST.sub("test", name)
    short = (SHORT_PARTS.get(word, "") for word in _words(plain))
    return split_of(" ".join(_words(plain))) or split_of(plain) or next(filter(None, short), "")


def role_of(name: str) -> Role | None:
    """The role that a name implies, 'images' or 'labels'; None for names of identifiers, of classes, and for others."""
    words = _words(name)
    if {"id", "ids", "names", "name", "mean", "path", "paths", "mask", "masks"} & set(words):
        return None
    roles: list[Role] = [ROLES[word] for word in words if word in ROLES]
    if "labels" in roles:
        return "labels"
    return next(iter(roles), None)


def _words(name: str) -> list[str]:
    """The words of a name, in lower case; compounds such as Xtrain, trainx and yte are split into two."""
    return [part for word in BOUNDARY.split(name) if word for part in _split_compound(word.lower())]


def _split_compound(word: str) -> Iterator[str]:
    parts = (*WORDS, *SHORT_PARTS)
    pairs = ((word[:cut], word[cut:]) for cut in range(1, len(word)))
    yield from next(
        (pair for pair in pairs if (pair[0] in ROLES and pair[1] in parts) or (pair[0] in parts and pair[1] in ROLES)),
        (word,),
    )


def _parts_by_shape(arrays: NamedArrays, candidates: Candidates) -> Parts:
    """One array of images and one of labels, or two of each, regardless of their names: the test part is the pair whose
    names may denote it, else the second."""
    read = {name: np.asarray(arrays.read(name)) for name in candidates.names}
    images = [name for name, array in read.items() if array.ndim in (3, 4) and array.dtype.kind in "uif"]
    labels = [name for name, array in read.items() if _is_label_like(array)]
    images, labels = (
        [name for name, chosen in candidates.chosen.items() if chosen == role] or found
        for role, found in (("images", images), ("labels", labels))
    )
    pairs, basis = _assign_pairs(arrays, images, labels)
    fitting = all(len(read[pair.images]) == len(read[pair.labels]) for pair in pairs)
    if not pairs or len(pairs) > 2 or len(images) != len(labels) or not fitting:
        descriptions = ", ".join(f"{name} {_describe_shape(array)}" for name, array in read.items())
        raise InputError(f"{arrays.source} holds {descriptions or 'nothing'}; {NEEDED}.")
    _check_training_part(arrays, candidates, pairs)
    test = pairs[1] if len(pairs) == 2 else None
    notes = [f"{pair.images} are images and {pair.labels} their labels, by their shapes" for pair in pairs]
    notes += [f"{test.images} are those of the test part, by their {basis}"] if test else []
    others = [name for name in candidates.names if name not in (*images, *labels)]
    return Parts(pairs[0], test, tuple(notes), (*_notes_on_unused(others), *candidates.unused))


def _check_training_part(arrays: NamedArrays, candidates: Candidates, pairs: Sequence[Pair]) -> None:
    """Raise InputError if the names of all arrays are those of a test or validation part, unless the user chose
    them."""
    names = [name for pair in pairs for name in (pair.images, pair.labels)]
    if not candidates.chosen and all(part_of(name) in ("test", "validation") for name in names):
        raise InputError(
            f"{arrays.source} holds only the test part ({', '.join(names)}); add x_train and y_train, or take these "
            f"for training with --data.image-column {names[0]} --data.label-column {names[1]}."
        )


def _assign_pairs(arrays: NamedArrays, images: Sequence[str], labels: Sequence[str]) -> tuple[list[Pair], str]:
    """Pairs of images and labels, the test part last, and how it was identified: 'names' or 'order'. Raises InputError
    if both names denote the test part, because no order can then give a training part."""
    hints = [[_part_hint(name) for name in names] for names in (images, labels)]
    if len(images) != 2 or len(labels) != 2 or not any(map(any, hints)):
        return [Pair(*pair) for pair in zip(images, labels, strict=False)], "order"
    if ["test", "test"] in hints:
        raise InputError(
            f"{arrays.source} holds {' and '.join(images)} with {' and '.join(labels)}, which all seem to be of a test "
            "part; call the arrays x_train, y_train, x_test and y_test."
        )
    # If only the images or only the labels have hints in their names, the others are ordered like them.
    reverse = [each[0] == "test" or each[1] == "train" for each in hints]
    reverse = [reverse[not number] if not any(each) else reverse[number] for number, each in enumerate(hints)]
    ordered = [names[::-1] if flip else names for names, flip in zip((images, labels), reverse, strict=True)]
    return [Pair(*pair) for pair in zip(*ordered, strict=True)], "names"


def _part_hint(name: str) -> str:
    """The part that letters in a name may denote; '' for none or both."""
    hints = [part for part, hint in (("train", TRAIN_HINT), ("test", TEST_HINT)) if hint.search(name)]
    return hints[0] if len(hints) == 1 else ""


def _is_label_like(array: np.ndarray) -> bool:
    flat = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    return flat and array.dtype.kind in "uibUS"


def _describe_shape(array: np.ndarray) -> str:
    return f"({'×'.join(map(str, array.shape))}, {array.dtype})"


def _class_names(
    arrays: NamedArrays, parts: Parts, labels: Mapping[str, np.ndarray]
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The class names in the source, text or bytes, also as a column or a row, or None; and a note on an array that has
    such a name but contains a name for every image."""
    if arrays.classes is not None:
        return arrays.classes, ()
    used = (parts.train.labels, parts.test and parts.test.labels)
    key = next((key for key in NAME_KEYS if key in arrays.names and key not in used), None)
    if key is None:
        return None, ()
    array = np.asarray(arrays.read(key))
    if array.dtype.kind not in "USOiu" or array.ndim > 2 or (array.ndim == 2 and 1 not in array.shape):
        raise InputError(
            f"The class names {key} of {arrays.source} are {array.dtype} of shape {array.shape}; give one text per "
            "class."
        )
    if key == LOOSE_KEY and _matches_images(array.size, labels):
        return None, (f"array {key}, which has a name for every image, not for every class",)
    return tuple(plain_text(value) for value in array.reshape(-1).tolist()), ()


def _matches_images(count: int, labels: Mapping[str, np.ndarray]) -> bool:
    """Whether `count` names belong to the images rather than to the classes."""
    of_all, of_training = sum(map(len, labels.values())), len(labels["train"])
    return count in (of_all, of_training) and len(set(labels["train"].tolist())) != count


def plain_text(value: Any) -> str:
    """A name as text, from text, bytes, a number, or an array that contains one of these."""
    while isinstance(value, np.ndarray | list) and len(value) == 1:
        value = value[0]
    return value.decode("utf-8", errors="backslashreplace") if isinstance(value, bytes) else str(value)


def one_each(labels: np.ndarray, source: str) -> np.ndarray:
    """Labels `[N]` from a column, a row or one-hot rows (argmax); others are returned unchanged. Raises InputError
    for a single value, an empty matrix and multi-label rows. `source` names the labels in messages."""
    if not labels.ndim:
        raise InputError(f"The labels of {source} are a single value; give one class per image.")
    if labels.ndim == 2 and not labels.size:
        raise InputError(f"The labels of {source} are empty; give one class per image.")
    if labels.ndim == 2 and 1 in labels.shape:
        return labels.reshape(-1)
    if labels.ndim != 2 or labels.dtype.kind not in "uifb":
        return labels
    values = labels.astype(np.float64)
    if bool(np.isin(values, (0, 1)).all()) and bool((values.sum(axis=1) == 1).all()):
        return values.argmax(axis=1)
    raise InputError(
        f"The labels of {source} have shape {labels.shape}, several per image (multi-label); give one class per image."
    )


def _concatenate(labels: Sequence[np.ndarray]) -> np.ndarray:
    """The concatenated labels of all parts; a mixture of text and numbers stays an object array."""
    if len({array.dtype.kind in "US" for array in labels}) == 1:
        return np.concatenate(list(labels))
    return np.array([value for array in labels for value in array.tolist()], dtype=object)


def _read_images(
    arrays: NamedArrays, pair: Pair, count: int, layout: Layout | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The images of a part `[N, C, H, W]`, and a note if the image axis is ambiguous. If N is the last axis, as in
    MATLAB files, it is moved to the front."""
    array, source = np.asarray(arrays.read(pair.images)), f"{arrays.short}, {pair.images}"
    count_is_last = array.ndim >= 3 and array.shape[-1] == count
    notes = ()
    if count_is_last and len(array) != count:
        array = np.moveaxis(array, -1, 0)
    elif count_is_last and array.ndim == 3:
        notes = (
            f"{pair.images} as [N, H, W], which by its shape {array.shape} could be [H, W, N] (otherwise: store it "
            "with numpy.moveaxis(images, -1, 0))",
        )
    return channels_first(array, source, layout), notes
