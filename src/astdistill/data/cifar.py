"""Readers for CIFAR-10 and CIFAR-100 in their published formats: pickled batches, read without executing anything in
them, or binary files."""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..runtime.errors import InputError
from ..runtime.text import in_one_line, reason
from .dataset import RawData, Split, Summary, checked_count
from .labels import numbered
from .named_arrays import plain_text, with_labels

BATCH = re.compile(r"data_batch_\d+(\.bin)?")
FINE, COARSE = "fine_labels", "coarse_labels"
LABELS = ("labels", FINE, COARSE)
KNOWN = {("airplane", "automobile", 10): "cifar10", ("apple", "aquarium_fish", 100): "cifar100"}
"""Names of the published data sets by their first two classes and number of classes."""
FOLDERS = {"cifar-10": "cifar10", "cifar-100": "cifar100"}
"""The same names by the prefix of the published folder names, for a folder without class names."""
RECORD = 3 * 32 * 32
TRAIN_BATCHES = 5
"""Training batches of the published CIFAR-10."""


@dataclass(frozen=True)
class Batch:
    """Images `[N, 3, H, W]` uint8, and the labels of each kind that the file holds."""

    images: np.ndarray
    labels: dict[str, np.ndarray]


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds the files of one of the four published layouts."""
    cifar10 = any((folder / f"data_batch_1{ending}").is_file() for ending in ("", ".bin"))
    names = [[f"{part}{ending}" for part in ("train", "test")] for ending in ("", ".bin")]
    metas = ("meta", "fine_label_names.txt")
    cifar100 = any(
        all((folder / name).is_file() for name in (*pair, meta)) for pair, meta in zip(names, metas, strict=True)
    )
    return cifar10 or cifar100


def begins_as_cifar(folder: Path) -> bool:
    """Whether the first training file starts like a pickle or holds a whole number of records: the names train and test
    alone do not identify CIFAR."""
    candidates = (folder / f"{name}{ending}" for ending in ("", ".bin") for name in ("data_batch_1", "train"))
    path = next(candidate for candidate in candidates if candidate.is_file())
    try:
        with path.open("rb") as file:
            head = file.read(1)
        length = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); check its permissions.") from error
    if path.suffix:
        return length > 0 and 0 in (length % (RECORD + 1), length % (RECORD + 2))
    return head in (b"\x80", b"(", b"}")  # a pickled dictionary, of any protocol


def cifar_folder(folder: Path, requested: str | None = None) -> RawData:
    """Read the data set in a folder of CIFAR files, with its fine labels unless `requested` names others
    (coarse_labels).

    Raises InputError for a file that is truncated, or holds anything but plain values and arrays.
    """
    trains = sorted(path for path in folder.iterdir() if BATCH.fullmatch(path.name))
    trains = trains or [path for name in ("train", "train.bin") if (path := folder / name).is_file()]
    ending = trains[0].suffix
    trains = [path for path in trains if path.suffix == ending]
    tests = [path for name in ("test_batch", "test") if (path := folder / f"{name}{ending}").is_file()]
    read: Callable[[Path], Batch] = _read_binary if ending else _read_pickled
    batches = {path.name: read(path) for path in (*trains, *tests)}
    kind = _label_kind([*batches.values()], requested, folder)
    names = _class_names(folder, kind, bool(ending))
    counts = [len(batch.images) for batch in batches.values()]
    labels = numbered(np.concatenate([batch.labels[kind] for batch in batches.values()]), names, str(folder))
    labels_by_file = dict(zip(batches, labels.labels.split(counts), strict=True))

    def part(paths: Sequence[Path]) -> Split:
        images = np.concatenate([batches[path.name].images for path in paths])
        joined = torch.cat([labels_by_file[path.name] for path in paths])
        return with_labels(checked_count(torch.from_numpy(images), joined, str(folder)), str(folder))[0]

    summary = _summary(trains, tests, kind, batches)
    test = None
    if tests:
        test = part(tests)
    return RawData(
        _dataset_name(folder, labels.classes), labels.classes, part(trains), test, summary + Summary(labels.notes)
    )


def _summary(trains: Sequence[Path], tests: Sequence[Path], kind: str, batches: dict[str, Batch]) -> Summary:
    read = [f"training part: {', '.join(path.name for path in trains)}"]
    read += [f"test part: {path.name}" for path in tests]
    missing = TRAIN_BATCHES - len(trains)
    incomplete = trains[0].name.startswith("data_batch") and missing > 0
    others = sorted({label for batch in batches.values() for label in batch.labels} - {kind})
    guessed = [f"labels: {kind}; --data.label-column {other} takes the others" for other in others]
    return Summary(
        tuple(read), (f"{missing} of {TRAIN_BATCHES} batches, which are not there",) * incomplete, tuple(guessed)
    )


def _dataset_name(folder: Path, classes: tuple[str, ...]) -> str:
    """The published name if the classes are those of CIFAR, whose statistics are then used for whitening; else the
    folder's name."""
    first, second = (*classes, "", "")[:2]
    name = folder.resolve().name
    published = FOLDERS.get("-".join(name.split("-")[:2]), name)
    if (first, second) != ("0", "1"):
        published = name
    return KNOWN.get((first, second, len(classes)), published)


def _label_kind(batches: Sequence[Batch], name: str | None, folder: Path) -> str:
    kinds = [kind for kind in LABELS if all(kind in batch.labels for batch in batches)]
    if name is None and kinds:
        return kinds[0]
    for kind in kinds:
        if name in (kind, kind.removesuffix("s")):
            return kind
    raise InputError(
        f"{folder} has no labels '{name or 'labels'}'; it has {' and '.join(kinds) or 'none that all its files hold'}."
    )


def _class_names(folder: Path, kind: str, binary: bool) -> tuple[str, ...] | None:
    """Class names from the folder's metadata file; None if it has none."""
    if binary:
        path = folder / {"labels": "batches.meta.txt"}.get(kind, f"{kind.removesuffix('s')}_names.txt")
        lines = path.read_text(encoding="utf-8", errors="backslashreplace").split("\n") if path.is_file() else []
        return tuple(line.strip() for line in lines if line.strip()) or None
    path = next((path for name in ("batches.meta", "meta") if (path := folder / name).is_file()), None)
    metadata = {} if path is None else _load_plain_pickle(path)
    key = {"labels": "label_names"}.get(kind, f"{kind.removesuffix('s')}_names")
    names = metadata.get(key, [])
    if not isinstance(names, list | np.ndarray):
        raise InputError(f"{key} of {path} is no list of names; take the published file, or delete this one.")
    return tuple(plain_text(name) for name in names) or None


def _read_binary(path: Path) -> Batch:
    """Read a binary file: per image one label (CIFAR-10) or two, coarse and fine (CIFAR-100), and 3,072 bytes of
    pixels."""
    kinds = ("labels",) if BATCH.fullmatch(path.name) or path.name == "test_batch.bin" else (COARSE, FINE)
    content = np.frombuffer(_bytes(path), np.uint8)
    length = len(kinds) + RECORD
    if not len(content) or len(content) % length:
        raise InputError(
            f"{path} holds {len(content)} bytes, no whole number of records of {length}; download it again."
        )
    rows = content.reshape(-1, length)
    images = rows[:, len(kinds) :].reshape(-1, 3, 32, 32)
    return Batch(images, {kind: rows[:, column].astype(np.int64) for column, kind in enumerate(kinds)})


def _read_pickled(path: Path) -> Batch:
    content = _load_plain_pickle(path)
    data = content.get("data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
        raise InputError(f"{path} holds no array of bytes called data; give CIFAR's own batches.")
    count = len(data)
    side = math.isqrt(data.size // max(1, 3 * count))
    if not count or data.size != count * 3 * side * side:
        raise InputError(
            f"The images of {path} have shape {data.shape}; give [N, 3·S·S], the channels one after another."
        )
    labels = {kind: _flat_labels(content[kind], path) for kind in LABELS if kind in content}
    mismatched = next((kind for kind, values in labels.items() if len(values) != count), None)
    if mismatched is not None:
        raise InputError(f"{path} has {count} images but {len(labels[mismatched])} {mismatched}; download it again.")
    return Batch(data.reshape(count, 3, side, side), labels)


def _flat_labels(labels: Any, path: Path) -> np.ndarray:
    try:
        return np.asarray(labels).reshape(-1)
    except ValueError as error:  # lists of different lengths
        raise InputError(f"The labels of {path} are no list of numbers ({error}); download it again.") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); check its permissions.") from error


def _load_plain_pickle(path: Path) -> dict[str, Any]:
    """Load the dictionary in a pickle of plain values and arrays only."""
    try:
        content = _PlainUnpickler(io.BytesIO(_bytes(path)), encoding="bytes").load()
        if isinstance(content, dict):
            return {plain_text(key): _convert_arrays(value) for key, value in content.items()}
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except Exception as error:  # a broken pickle can raise any exception
        reason = in_one_line(error)
        raise InputError(f"{path} cannot be read as one of CIFAR's batches ({reason}); download it again.") from error
    raise InputError(f"{path} holds no dictionary; give CIFAR's own batches.")


def _convert_arrays(value: Any) -> Any:
    if isinstance(value, _PickledArray):
        return value.array()
    return [_convert_arrays(item) for item in value] if isinstance(value, list) else value


class _PickledDtype:
    """Stand-in for numpy's dtype: its type string and byte order."""

    def __init__(self, text: Any, *_: Any) -> None:
        self.text, self.order = plain_text(text), "|"

    def __setstate__(self, state: Any) -> None:
        self.order = plain_text(state[1])

    def plain(self) -> np.dtype:
        """The dtype. Raises InputError for anything but numbers and byte strings."""
        if not re.fullmatch(r"[biufS]\d{1,5}", self.text) or self.order not in ("|", "<", ">", "="):
            raise InputError(f"holds values of type {self.text}; give CIFAR's own batches.")
        return np.dtype(self.text).newbyteorder({"|": "="}.get(self.order, self.order))  # pyright: ignore[reportArgumentType]


class _PickledArray:
    """Stand-in for a numpy array until it is fully read, so that no numpy code runs on unchecked content of the
    file."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = tuple(state)

    def array(self) -> np.ndarray:
        """Build the array. Raises InputError or ValueError if its bytes do not fit its shape."""
        _, shape, kind, by_column, data = self.state
        if not isinstance(kind, _PickledDtype) or not isinstance(data, bytes):
            raise InputError("holds an array of Python objects; give CIFAR's own batches.")
        return np.frombuffer(data, kind.plain()).reshape(tuple(shape), order="F" if by_column else "C")


def _array_from_buffer(data: Any, kind: Any, shape: Any, order: Any = "C") -> _PickledArray:
    array = _PickledArray()
    array.state = (1, shape, kind, plain_text(order) == "F", bytes(data))
    return array


def _scalar(kind: Any, data: Any = b"") -> Any:
    return np.frombuffer(data, kind.plain())[0].item()


def _encode_latin1(text: str, *_: Any) -> bytes:
    """Equivalent of `_codecs.encode(text, 'latin1')`, which Python 3 uses to write bytes into a pickle of an old
    protocol."""
    return text.encode("latin1")


ALLOWED: dict[str, Any] = {
    "dtype": _PickledDtype,
    "ndarray": _PickledArray,
    "_reconstruct": _PickledArray,
    "_frombuffer": _array_from_buffer,
    "scalar": _scalar,
}


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler for plain values and numpy arrays; nothing that the file names is imported or executed."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) == ("_codecs", "encode"):
            return _encode_latin1
        if module_name.partition(".")[0] == "numpy" and global_name in ALLOWED:
            return ALLOWED[global_name]
        raise InputError(
            f"refers to {module_name}.{global_name}, which is not allowed, and was not read; take the published file."
        )
