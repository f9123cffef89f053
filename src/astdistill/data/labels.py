"""Converts labels of any kind to class numbers 0..K−1 with class names."""

from __future__ import annotations

import math
import numbers
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..runtime.errors import InputError
from ..runtime.shapes import Labels
from .arrays import plain_tensor

MISSING = -1
"""The class number of an image without a label."""
SHOWN = 3
"""Maximum number of class names listed in a message."""
LISTED = re.compile(r"\[\s*(['\"].*['\"]\s*,\s*['\"].*['\"]|[\d.]+(\s*,\s*[\d.]+)+)\s*\]")
"""A list of values written as one string."""
BETWEEN = ",;/+&"
"""Possible separators between several labels in one string, besides '|' and spaces."""


class Numbered(NamedTuple):
    """Labels `[N]` int64 in 0..K−1, −1 for a missing label; the K class names; notes on how the labels were converted
    (none if they already were numbers 0..K−1)."""

    labels: Labels
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def numbered(labels: Any, names: Sequence[str] | None = None, source: str = "the data") -> Numbered:
    """The labels of all parts together, `[N]` or `[N, 1]`: numbers, booleans, text or bytes, in an array, tensor or
    list.

    Integers 0..K−1 stay as they are. All other labels are numbered in sorted order, and their values become the class
    names; gaps between numbers do not create classes. None, NaN, pandas' NA and empty text are missing labels, −1; so
    is −1 if `names` gives the names of 0..K−1. With `names`, text labels are looked up in them. `source` names the data
    in messages. Raises InputError for several labels per image, fractions, mixed types, and numbers beyond `names`.
    """
    values, present = _values(labels, source)
    if names is None:
        return _in_order(values, present, source)
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise InputError(f"The class name '{repeated}' is given twice; every class needs its own name.")
    return _by_names(values, present, tuple(map(str, names)), source)


def class_names(classes: Any) -> tuple[str, ...] | None:
    """The names of the classes 0..K−1 from a sequence of names, a dictionary of names by number ({0: 'cat'}), or a
    dictionary of numbers by name ({'cat': 0}); None if there are none. Raises InputError for a type without order, and
    for other numbers."""
    if classes is None:
        return None
    if isinstance(classes, str | bytes):
        text = _decode(classes)
        raise InputError(f"The classes are the text '{text}'; give a list of their names, such as ['cat', 'dog'].")
    if isinstance(classes, Mapping):
        names = names_by_number(classes)
        if names is None:
            last = len(classes) - 1
            raise InputError(
                f"The classes are the dictionary {str(dict(classes))[:60]}, which does not number them 0..{last}; give "
                "{0: 'cat', 1: 'dog'}, {'cat': 0, 'dog': 1}, or a list of their names."
            )
        return names or None
    if isinstance(classes, set | frozenset) or not isinstance(classes, Iterable):
        raise InputError(
            f"The classes are {str(classes)[:60]}, which has no order; give a list of their names by number, such as "
            "['cat', 'dog']."
        )
    return tuple(_decode(name) if isinstance(name, bytes) else str(name) for name in classes) or None


def names_by_number(mapping: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """The names in a dictionary of names by number, or of numbers by name, in the order of the numbers; None if the
    numbers are not 0..K−1, each once."""
    for pairs in (mapping.items(), [(number, name) for name, number in mapping.items()]):
        # bool is an Integral in Python, but not a class number
        named = {number: str(name) for number, name in pairs if _is_integer(number)}
        if len(named) == len(mapping) and set(named) == set(range(len(mapping))):
            return tuple(named[number] for number in range(len(named)))
    return None


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _by_names(values: np.ndarray, present: np.ndarray, names: tuple[str, ...], source: str) -> Numbered:
    if values.dtype.kind == "U":
        number_of = {name: number for number, name in enumerate(names)}
        unknown = sorted(set(values.tolist()) - set(number_of))
        if unknown:
            raise InputError(
                f"The label '{unknown[0]}' of {source} is none of the classes {_first_names(names)}; name it too."
            )
        values = np.array([number_of[name] for name in values.tolist()], dtype=np.int64)
    outside = np.flatnonzero((values < MISSING) | (values >= len(names)))
    if len(outside):
        row = int(np.flatnonzero(present)[outside[0]])
        raise InputError(
            f"Label {values[outside[0]]} of {source} (image {row}) is not one of 0..{len(names) - 1}; renumber the "
            "labels or name every class."
        )
    return Numbered(_fill_missing(values, present), names)


def _in_order(values: np.ndarray, present: np.ndarray, source: str) -> Numbered:
    kinds, codes = np.unique(values, return_inverse=True)
    if kinds.dtype.kind == "U":
        _check_single(kinds.tolist(), source)
        order = _text_order(kinds)
        positions = np.empty(len(order), dtype=np.int64)
        positions[order] = np.arange(len(order))
        kinds, codes = kinds[order], positions[codes]
    elif kinds.dtype.kind in "iu" and len(kinds) > 1 and int(kinds[0]) == MISSING and int(kinds[1]) == 0:
        raise InputError(
            f"Label -1 of {source} occurs with 0..{kinds[-1]} and may mean that there is no label; remove those "
            "images, or number the classes from 0."
        )
    classes = tuple(str(kind) for kind in kinds.tolist())
    spelling_notes = (*alike(classes), *_note_on_combined(classes)) if kinds.dtype.kind == "U" else ()
    return Numbered(
        _fill_missing(codes.reshape(-1), present), classes, (*_note_on_numbering(kinds, classes), *spelling_notes)
    )


def _check_single(texts: Sequence[str], source: str) -> None:
    """Raise InputError for texts that contain several labels each: a list of texts or numbers, or pieces between '|'
    that occur in several texts."""
    pieces = Counter(piece for text in texts for piece in text.split("|"))
    for text in texts:
        if LISTED.fullmatch(text) or ("|" in text and any(pieces[piece] > 1 for piece in text.split("|"))):
            raise InputError(
                f"The labels of {source} hold several per image in one text ({text[:40]}); give each image one "
                "label, or name other labels with --data.label-column."
            )


def _note_on_combined(texts: Sequence[str]) -> tuple[str, ...]:
    """A note on labels whose parts are all labels themselves."""
    labels = set(texts)
    combined = [
        text
        for text in texts
        if any(sign in text and labels.issuperset(map(str.strip, text.split(sign))) for sign in BETWEEN)
        or (len(text.split()) > 1 and labels.issuperset(text.split()))
    ]
    examples = ", ".join(f"'{text}'" for text in combined[:SHOWN]) + ", …" * (len(combined) > SHOWN)
    return (f"labels composed of other labels as separate classes: {examples}",) * bool(combined)


def _note_on_numbering(kinds: np.ndarray, classes: tuple[str, ...]) -> tuple[str, ...]:
    """A note on how labels other than 0..K−1 were numbered."""
    last = len(classes) - 1
    if not classes or (kinds.dtype.kind in "iu" and (int(kinds[0]), int(kinds[-1])) == (0, last)):
        return ()
    kind = {"U": "text", "b": "flags"}.get(kinds.dtype.kind, "numbers other than 0..K-1")
    return (f"labels: {kind}, numbered 0..{last} in sorted order ({_first_names(classes)})",)


def spelling(name: str) -> str:
    """A name normalized for comparison: case-folded, stripped, in Unicode normalization form C."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()


def alike(names: Iterable[str]) -> tuple[str, ...]:
    """Notes on names that differ in spelling only, so that they may denote one class."""
    groups = dict[str, list[str]]()
    for name in sorted(names):
        groups.setdefault(spelling(name), []).append(name)
    duplicates = [" and ".join(f"'{name}'" for name in group) for group in groups.values() if len(group) > 1]
    notes = [f"{pair} as different classes, though only their spelling differs" for pair in duplicates[:SHOWN]]
    more = f"{len(duplicates) - SHOWN} further groups of classes of which only the spelling differs"
    return (*notes, *((more,) * (len(duplicates) > SHOWN)))


def _text_order(kinds: np.ndarray) -> np.ndarray:
    """Indices that sort distinct texts: as numbers if all of them are integers, so that '10' follows '9'."""
    texts = kinds.tolist()
    if all(text.isascii() and text.isdecimal() and str(int(text)) == text for text in texts):
        return np.argsort([int(text) for text in texts], kind="stable")
    return np.arange(len(texts))


def _first_names(names: Sequence[str]) -> str:
    more = f", … {names[-1]}" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _fill_missing(codes: np.ndarray, present: np.ndarray) -> Labels:
    """The class numbers of all images `[N]`, −1 for those without a label, from the numbers of those with a label."""
    filled = np.full(len(present), MISSING, dtype=np.int64)
    filled[present] = codes
    return torch.from_numpy(filled)


def _values(labels: Any, source: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels that are not missing, as integers, booleans or text, and a mask of the images with a label `[N]`."""
    array = _array(labels, source)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(
            f"The labels of {source} have shape {tuple(array.shape)}, several per image; give one label per image "
            "(of one-hot rows, the index of the one)."
        )
    has_label = np.ones(len(array), dtype=bool)
    if array.dtype.kind == "O":
        array, has_label = _array_of_objects(array.tolist(), source)
    if array.dtype.kind == "S":
        array = np.array([_decode(value) for value in array.tolist()], dtype=np.str_)
    values, present = _checked(array, source)
    has_label[has_label] = present
    return values, has_label


def array_of(labels: Tensor, source: str) -> np.ndarray:
    """The labels in a tensor as an array. Raises InputError for a tensor that cannot become a plain array. `source`
    names the data in messages."""
    plain = plain_tensor(labels, f"The labels of {source}")
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()


def _array(labels: Any, source: str) -> np.ndarray:
    if isinstance(labels, Tensor):
        return array_of(labels, source)
    if isinstance(labels, np.ndarray):
        return labels
    values = list(labels)
    objects = np.empty(len(values), dtype=object)  # np.array would convert mixed numbers and strings to strings
    objects[:] = values
    return objects


def _checked(array: np.ndarray, source: str) -> tuple[np.ndarray, np.ndarray]:
    kind = array.dtype.kind
    if kind == "U":
        present = np.char.strip(array) != ""
        return array[present], present
    if kind == "f":
        present = ~np.isnan(array)
        return _to_integers(array[present], source), present
    if kind not in "biu":
        raise InputError(
            f"The labels of {source} are of type {array.dtype}; give one whole number, text or flag per image."
        )
    return array, np.ones(len(array), dtype=bool)


def _to_integers(values: np.ndarray, source: str) -> np.ndarray:
    """Floating-point labels as int64. Raises InputError for fractions, infinite values and values of 2**63 or more."""
    invalid = values[~np.isfinite(values) | (values != np.round(values))]
    if len(invalid):
        raise InputError(
            f"The labels of {source} hold {invalid[0]:g}, which is no whole number; give one class per image, not a "
            "measured value."
        )
    if len(values) and float(np.abs(values).max()) >= 2.0**63:
        raise InputError(f"The labels of {source} reach {np.abs(values).max():g}; give whole numbers below 2**63.")
    return values.astype(np.int64)


def _array_of_objects(values: list[Any], source: str) -> tuple[np.ndarray, np.ndarray]:
    """The objects that are not missing as an array of one type, and a mask of their positions."""
    values = [_unwrap(value) for value in values]
    present = np.array([not is_missing(value) for value in values], dtype=bool)
    existing = [value for value in values if not is_missing(value)]
    nested = [value for value in existing if isinstance(value, list | tuple | set | dict | np.ndarray | Tensor)]
    if nested:
        raise InputError(
            f"The labels of {source} hold several values to an image ({str(nested[0])[:40]}); give one class per image."
        )
    if all(isinstance(value, str | bytes) for value in existing):
        return np.array([_decode(value) for value in existing], dtype=np.str_), present
    if all(isinstance(value, bool | np.bool_) for value in existing):
        return np.array(existing, dtype=bool), present
    if all(isinstance(value, numbers.Integral) for value in existing):
        return np.array([int(value) for value in existing]), present
    if all(isinstance(value, numbers.Real) for value in existing):
        return np.array(existing, dtype=np.float64), present
    type_names = sorted({type(value).__name__ for value in existing})
    kinds = ("of type " if len(type_names) == 1 else "a mixture of ") + " and ".join(type_names)
    raise InputError(f"The labels of {source} are {kinds}; give one kind: whole numbers, text or flags.")


def _unwrap(value: Any) -> Any:
    """The value, or the only element of a list, array or tensor; a decimal as int or float."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list | tuple) and len(value) == 1:
        return value[0]
    if isinstance(value, np.ndarray | np.generic | Tensor) and math.prod(value.shape) == 1:
        return value.item()
    return value


def is_missing(value: Any) -> bool:
    """Whether a value is missing: None, NaN, or pandas' NA."""
    pandas = sys.modules.get("pandas")  # loaded if any value is its NA; may not be installed
    if value is None or value is getattr(pandas, "NA", None):
        return True
    return isinstance(value, float) and math.isnan(value)


def _decode(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", errors="backslashreplace")
