"""Labels of any kind as class numbers 0..K−1, with the names of the classes."""

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
"""Class names that a sentence gives of many."""
LISTED = re.compile(r"\[\s*(['\"].*['\"]\s*,\s*['\"].*['\"]|[\d.]+(\s*,\s*[\d.]+)+)\s*\]")
"""A list of values, written as text."""
BETWEEN = ",;/+&"
"""What may stand between several labels in one text, besides '|' and blanks."""


class Numbered(NamedTuple):
    """Labels `[N]` int64 in 0..K−1, −1 where one is missing; the K class names; what was made of the labels, in plain
    sentences (none where they were numbers 0..K−1 already)."""

    labels: Labels
    classes: tuple[str, ...]
    words: tuple[str, ...] = ()


def numbered(labels: Any, names: Sequence[str] | None = None, where: str = "the data") -> Numbered:
    """The labels of all parts together, `[N]` or `[N, 1]`: numbers, flags, text or bytes, in an array, tensor or list.

    Whole numbers 0..K−1 stay as they are. All others are numbered in sorted order, and their own values are the names
    of the classes: no number is counted up to. None, NaN, pandas' NA and empty text are missing labels, −1; so is −1
    where `names` gives the names of 0..K−1. Text beside `names` is looked up in them. Raises InputError for several
    labels to an image, fractions, a mixture of kinds, and numbers that `names` does not reach.
    """
    values, present = _values(labels, where)
    if names is None:
        return _in_order(values, present, where)
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise InputError(f"The class name '{repeated}' is given twice; every class needs its own name.")
    return _by_names(values, present, tuple(map(str, names)), where)


def class_names(given: Any) -> tuple[str, ...] | None:
    """The names of the classes 0..K−1 as a caller gives them: in their order, by number ({0: 'cat'}), or the numbers by
    name ({'cat': 0}); None where none are given. Raises InputError for what has no order, and for other numbers."""
    if given is None:
        return None
    if isinstance(given, str | bytes):
        text = _text(given)
        raise InputError(f"The classes are the text '{text}'; give a list of their names, such as ['cat', 'dog'].")
    if isinstance(given, Mapping):
        names = names_by_number(given)
        if names is None:
            last = len(given) - 1
            raise InputError(
                f"The classes are the dictionary {str(dict(given))[:60]}, which does not number them 0..{last}; give "
                "{0: 'cat', 1: 'dog'}, {'cat': 0, 'dog': 1}, or a list of their names."
            )
        return names or None
    if isinstance(given, set | frozenset) or not isinstance(given, Iterable):
        raise InputError(
            f"The classes are {str(given)[:60]}, which has no order; give a list of their names by number, such as "
            "['cat', 'dog']."
        )
    return tuple(_text(name) if isinstance(name, bytes) else str(name) for name in given) or None


def names_by_number(given: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """The names in a dictionary of names by number, or of numbers by name, in the order of the numbers; None where
    these are not 0..K−1, each once."""
    for pairs in (given.items(), [(number, name) for name, number in given.items()]):
        # bool is a number to Python, and no class's to people
        named = {number: str(name) for number, name in pairs if _is_whole(number)}
        if len(named) == len(given) and set(named) == set(range(len(given))):
            return tuple(named[number] for number in range(len(named)))
    return None


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _by_names(values: np.ndarray, present: np.ndarray, names: tuple[str, ...], where: str) -> Numbered:
    if values.dtype.kind == "U":
        place = {name: number for number, name in enumerate(names)}
        strange = sorted(set(values.tolist()) - set(place))
        if strange:
            raise InputError(f"The label '{strange[0]}' of {where} is none of the classes {_some(names)}; name it too.")
        values = np.array([place[name] for name in values.tolist()], dtype=np.int64)
    outside = np.flatnonzero((values < MISSING) | (values >= len(names)))
    if len(outside):
        row = int(np.flatnonzero(present)[outside[0]])
        raise InputError(
            f"Label {values[outside[0]]} of {where} (image {row}) is not one of 0..{len(names) - 1}; renumber the "
            "labels or name every class."
        )
    return Numbered(_spread(values, present), names)


def _in_order(values: np.ndarray, present: np.ndarray, where: str) -> Numbered:
    kinds, codes = np.unique(values, return_inverse=True)
    if kinds.dtype.kind == "U":
        _check_single(kinds.tolist(), where)
        order = _text_order(kinds)
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        kinds, codes = kinds[order], place[codes]
    elif kinds.dtype.kind in "iu" and len(kinds) > 1 and int(kinds[0]) == MISSING and int(kinds[1]) == 0:
        raise InputError(
            f"Label -1 of {where} stands beside 0..{kinds[-1]} and may mean that there is none; take those images out, "
            "or number the classes from 0."
        )
    classes = tuple(str(kind) for kind in kinds.tolist())
    twins = (*alike(classes), *_combined(classes)) if kinds.dtype.kind == "U" else ()
    return Numbered(_spread(codes.reshape(-1), present), classes, (*_words(kinds, classes), *twins))


def _check_single(texts: Sequence[str], where: str) -> None:
    """Raise InputError for texts that are several labels each: a list of texts or numbers, or pieces between '|' that
    several texts have."""
    pieces = Counter(piece for text in texts for piece in text.split("|"))
    for text in texts:
        if LISTED.fullmatch(text) or ("|" in text and any(pieces[piece] > 1 for piece in text.split("|"))):
            raise InputError(
                f"The labels of {where} hold several to an image in one text ({text[:40]}); give each image one label, "
                "or name other labels with --data.label-column."
            )


def _combined(texts: Sequence[str]) -> tuple[str, ...]:
    """A note on texts whose pieces are all labels themselves."""
    known = set(texts)
    both = [
        text
        for text in texts
        if any(sign in text and known.issuperset(map(str.strip, text.split(sign))) for sign in BETWEEN)
        or (len(text.split()) > 1 and known.issuperset(text.split()))
    ]
    shown = ", ".join(f"'{text}'" for text in both[:SHOWN]) + ", …" * (len(both) > SHOWN)
    return (f"labels that are made of others as classes of their own: {shown}",) * bool(both)


def _words(kinds: np.ndarray, classes: tuple[str, ...]) -> tuple[str, ...]:
    """What was made of the labels."""
    last = len(classes) - 1
    if not classes or (kinds.dtype.kind in "iu" and (int(kinds[0]), int(kinds[-1])) == (0, last)):
        return ()
    kind = {"U": "text", "b": "flags"}.get(kinds.dtype.kind, "numbers other than 0..K-1")
    return (f"labels: {kind}, numbered 0..{last} in sorted order ({_some(classes)})",)


def spelling(name: str) -> str:
    """A name without regard to case, to blanks around it, and to how letters with accents are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()


def alike(names: Iterable[str]) -> tuple[str, ...]:
    """A note on names of which only the spelling differs, so that they may be meant as one class."""
    spelt = dict[str, list[str]]()
    for name in sorted(names):
        spelt.setdefault(spelling(name), []).append(name)
    twins = [" and ".join(f"'{name}'" for name in group) for group in spelt.values() if len(group) > 1]
    said = [f"{pair} as different classes, though only their spelling differs" for pair in twins[:SHOWN]]
    more = f"{len(twins) - SHOWN} further groups of classes of which only the spelling differs"
    return (*said, *((more,) * (len(twins) > SHOWN)))


def _text_order(kinds: np.ndarray) -> np.ndarray:
    """Sorted places of different texts: as numbers where all of them are whole numbers, so that '10' follows '9'."""
    texts = kinds.tolist()
    if all(text.isascii() and text.isdecimal() and str(int(text)) == text for text in texts):
        return np.argsort([int(text) for text in texts], kind="stable")
    return np.arange(len(texts))


def _some(names: Sequence[str]) -> str:
    more = f", … {names[-1]}" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _spread(codes: np.ndarray, present: np.ndarray) -> Labels:
    """The class numbers of all images, given those of the images that have a label."""
    spread = np.full(len(present), MISSING, dtype=np.int64)
    spread[present] = codes
    return torch.from_numpy(spread)


def _values(labels: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels that are there, as whole numbers, flags or text, and which images have one `[N]`."""
    array = _array(labels, where)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(
            f"The labels of {where} have shape {tuple(array.shape)}, several to an image; give one label per image "
            "(of one-hot rows, the place of the one)."
        )
    there = np.ones(len(array), dtype=bool)
    if array.dtype.kind == "O":
        array, there = _plain(array.tolist(), where)
    if array.dtype.kind == "S":
        array = np.array([_text(value) for value in array.tolist()], dtype=np.str_)
    values, present = _checked(array, where)
    there[there] = present
    return values, there


def array_of(labels: Tensor, where: str) -> np.ndarray:
    """The labels in a tensor as an array. Raises InputError for a tensor that is not plain numbers in a row."""
    plain = plain_tensor(labels, f"The labels of {where}")
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()


def _array(labels: Any, where: str) -> np.ndarray:
    if isinstance(labels, Tensor):
        return array_of(labels, where)
    if isinstance(labels, np.ndarray):
        return labels
    values = list(labels)
    kept = np.empty(len(values), dtype=object)  # numpy would make texts of a mixture of numbers and texts
    kept[:] = values
    return kept


def _checked(array: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    kind = array.dtype.kind
    if kind == "U":
        present = np.char.strip(array) != ""
        return array[present], present
    if kind == "f":
        present = ~np.isnan(array)
        return _whole(array[present], where), present
    if kind not in "biu":
        raise InputError(
            f"The labels of {where} are of type {array.dtype}; give one whole number, text or flag per image."
        )
    return array, np.ones(len(array), dtype=bool)


def _whole(values: np.ndarray, where: str) -> np.ndarray:
    """Floating-point labels as whole numbers."""
    strange = values[~np.isfinite(values) | (values != np.round(values))]
    if len(strange):
        raise InputError(
            f"The labels of {where} hold {strange[0]:g}, which is no whole number; give one class per image, not a "
            "measured value."
        )
    if len(values) and float(np.abs(values).max()) >= 2.0**63:
        raise InputError(f"The labels of {where} reach {np.abs(values).max():g}; give whole numbers below 2**63.")
    return values.astype(np.int64)


def _plain(values: list[Any], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Those objects that are there as an array of one kind, and which they are."""
    values = [_single(value) for value in values]
    present = np.array([not is_missing(value) for value in values], dtype=bool)
    there = [value for value in values if not is_missing(value)]
    several = [value for value in there if isinstance(value, list | tuple | set | dict | np.ndarray | Tensor)]
    if several:
        raise InputError(
            f"The labels of {where} hold several values to an image ({str(several[0])[:40]}); give one class per image."
        )
    if all(isinstance(value, str | bytes) for value in there):
        return np.array([_text(value) for value in there], dtype=np.str_), present
    if all(isinstance(value, bool | np.bool_) for value in there):
        return np.array(there, dtype=bool), present
    if all(isinstance(value, numbers.Integral) for value in there):
        return np.array([int(value) for value in there]), present
    if all(isinstance(value, numbers.Real) for value in there):
        return np.array(there, dtype=np.float64), present
    mixed = sorted({type(value).__name__ for value in there})
    kinds = ("of type " if len(mixed) == 1 else "a mixture of ") + " and ".join(mixed)
    raise InputError(f"The labels of {where} are {kinds}; give one kind: whole numbers, text or flags.")


def _single(value: Any) -> Any:
    """The value itself, or the only one in a list, array or tensor; a decimal as a number."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list | tuple) and len(value) == 1:
        return value[0]
    if isinstance(value, np.ndarray | np.generic | Tensor) and math.prod(value.shape) == 1:
        return value.item()
    return value


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, or pandas' NA."""
    pandas = sys.modules.get("pandas")  # which is loaded where its NA is, and need not be there
    if value is None or value is getattr(pandas, "NA", None):
        return True
    return isinstance(value, float) and math.isnan(value)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", errors="backslashreplace")
