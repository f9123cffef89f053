"""CIFAR-10 and CIFAR-100 as they are published: pickled batches, read without running anything in them, or binary
files."""

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
"""The names of the published sets, by their first two classes and how many there are."""
FOLDERS = {"cifar-10": "cifar10", "cifar-100": "cifar100"}
"""The same by how the published folders begin, for one without its names of classes."""
RECORD = 3 * 32 * 32
SEVERAL = 5
"""Batches of the published CIFAR-10."""


@dataclass(frozen=True)
class Batch:
    """Some images `[N, 3, H, W]` uint8, with the labels of each kind that the file holds."""

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
    """Whether the first training file begins as a pickle does, or holds whole records: files called train and test may
    be anything."""
    places = (folder / f"{name}{ending}" for ending in ("", ".bin") for name in ("data_batch_1", "train"))
    path = next(place for place in places if place.is_file())
    try:
        with path.open("rb") as file:
            head = file.read(1)
        length = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); check its permissions.") from error
    if path.suffix:
        return length > 0 and 0 in (length % (RECORD + 1), length % (RECORD + 2))
    return head in (b"\x80", b"(", b"}")  # of pickles of any protocol that hold a dictionary


def cifar_folder(folder: Path, wanted: str | None = None) -> RawData:
    """The set in a folder of CIFAR's files, by its fine labels unless `wanted` names others (coarse_labels).

    Raises InputError for a file that is cut short, or holds anything but plain values and arrays.
    """
    trains = sorted(path for path in folder.iterdir() if BATCH.fullmatch(path.name))
    trains = trains or [path for name in ("train", "train.bin") if (path := folder / name).is_file()]
    ending = trains[0].suffix
    trains = [path for path in trains if path.suffix == ending]
    tests = [path for name in ("test_batch", "test") if (path := folder / f"{name}{ending}").is_file()]
    read: Callable[[Path], Batch] = _binary if ending else _pickled
    batches = {path.name: read(path) for path in (*trains, *tests)}
    kind = _label_kind([*batches.values()], wanted, folder)
    names = _class_names(folder, kind, bool(ending))
    counts = [len(batch.images) for batch in batches.values()]
    labels = numbered(np.concatenate([batch.labels[kind] for batch in batches.values()]), names, str(folder))
    numbers = dict(zip(batches, labels.labels.split(counts), strict=True))

    def part(paths: Sequence[Path]) -> Split:
        images = np.concatenate([batches[path.name].images for path in paths])
        joined = torch.cat([numbers[path.name] for path in paths])
        return with_labels(checked_count(torch.from_numpy(images), joined, str(folder)), str(folder))[0]

    summary = _summary(trains, tests, kind, batches)
    test = None
    if tests:
        test = part(tests)
    return RawData(_name(folder, labels.classes), labels.classes, part(trains), test, summary + Summary(labels.words))


def _summary(trains: Sequence[Path], tests: Sequence[Path], kind: str, batches: dict[str, Batch]) -> Summary:
    read = [f"training part: {', '.join(path.name for path in trains)}"]
    read += [f"test part: {path.name}" for path in tests]
    absent = SEVERAL - len(trains)
    few = trains[0].name.startswith("data_batch") and absent > 0
    others = sorted({label for batch in batches.values() for label in batch.labels} - {kind})
    guessed = [f"labels: {kind}; --data.label-column {other} takes the others" for other in others]
    return Summary(tuple(read), (f"{absent} of {SEVERAL} batches, which are not there",) * few, tuple(guessed))


def _name(folder: Path, classes: tuple[str, ...]) -> str:
    """The published name where the classes are those of CIFAR, whose statistics then whiten; else the folder's."""
    first, second = (*classes, "", "")[:2]
    name = folder.resolve().name
    published = FOLDERS.get("-".join(name.split("-")[:2]), name)
    if (first, second) != ("0", "1"):
        published = name
    return KNOWN.get((first, second, len(classes)), published)


def _label_kind(batches: Sequence[Batch], wanted: str | None, folder: Path) -> str:
    held = [kind for kind in LABELS if all(kind in batch.labels for batch in batches)]
    if wanted is None and held:
        return held[0]
    for kind in held:
        if wanted in (kind, kind.removesuffix("s")):
            return kind
    raise InputError(
        f"{folder} has no labels '{wanted or 'labels'}'; it has {' and '.join(held) or 'none that all its files hold'}."
    )


def _class_names(folder: Path, kind: str, binary: bool) -> tuple[str, ...] | None:
    """The names that the folder gives the classes; None where it gives none."""
    if binary:
        path = folder / {"labels": "batches.meta.txt"}.get(kind, f"{kind.removesuffix('s')}_names.txt")
        lines = path.read_text(encoding="utf-8", errors="backslashreplace").split("\n") if path.is_file() else []
        return tuple(line.strip() for line in lines if line.strip()) or None
    path = next((path for name in ("batches.meta", "meta") if (path := folder / name).is_file()), None)
    held = {} if path is None else _plain_pickle(path)
    key = {"labels": "label_names"}.get(kind, f"{kind.removesuffix('s')}_names")
    names = held.get(key, [])
    if not isinstance(names, list | np.ndarray):
        raise InputError(f"{key} of {path} is no list of names; take the published file, or delete this one.")
    return tuple(plain_text(name) for name in names) or None


def _binary(path: Path) -> Batch:
    """A binary file: per image one label (CIFAR-10) or two, the coarse and the fine (CIFAR-100), and 3,072 bytes."""
    kinds = ("labels",) if BATCH.fullmatch(path.name) or path.name == "test_batch.bin" else (COARSE, FINE)
    held = np.frombuffer(_bytes(path), np.uint8)
    length = len(kinds) + RECORD
    if not len(held) or len(held) % length:
        raise InputError(f"{path} holds {len(held)} bytes, no whole number of records of {length}; download it again.")
    rows = held.reshape(-1, length)
    images = rows[:, len(kinds) :].reshape(-1, 3, 32, 32)
    return Batch(images, {kind: rows[:, place].astype(np.int64) for place, kind in enumerate(kinds)})


def _pickled(path: Path) -> Batch:
    held = _plain_pickle(path)
    data = held.get("data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
        raise InputError(f"{path} holds no array of bytes called data; give CIFAR's own batches.")
    count = len(data)
    side = math.isqrt(data.size // max(1, 3 * count))
    if not count or data.size != count * 3 * side * side:
        raise InputError(
            f"The images of {path} have shape {data.shape}; give [N, 3·S·S], the channels one after another."
        )
    labels = {kind: _flat(held[kind], path) for kind in LABELS if kind in held}
    wrong = next((kind for kind, values in labels.items() if len(values) != count), None)
    if wrong is not None:
        raise InputError(f"{path} has {count} images but {len(labels[wrong])} {wrong}; download it again.")
    return Batch(data.reshape(count, 3, side, side), labels)


def _flat(labels: Any, path: Path) -> np.ndarray:
    try:
        return np.asarray(labels).reshape(-1)
    except ValueError as error:  # lists of several lengths
        raise InputError(f"The labels of {path} are no list of numbers ({error}); download it again.") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); check its permissions.") from error


def _plain_pickle(path: Path) -> dict[str, Any]:
    """The dictionary that a pickle holds, of plain values and arrays alone."""
    try:
        held = _PlainUnpickler(io.BytesIO(_bytes(path)), encoding="bytes").load()
        if isinstance(held, dict):
            return {plain_text(key): _arrays(value) for key, value in held.items()}
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except Exception as error:  # a broken pickle raises whatever its bytes happen to ask for
        reason = in_one_line(error)
        raise InputError(f"{path} cannot be read as one of CIFAR's batches ({reason}); download it again.") from error
    raise InputError(f"{path} holds no dictionary; give CIFAR's own batches.")


def _arrays(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.array()
    return [_arrays(item) for item in value] if isinstance(value, list) else value


class _Type:
    """What stands for numpy's dtype: its text and its byte order."""

    def __init__(self, text: Any, *_: Any) -> None:
        self.text, self.order = plain_text(text), "|"

    def __setstate__(self, state: Any) -> None:
        self.order = plain_text(state[1])

    def plain(self) -> np.dtype:
        """The type. Raises InputError for any that is not a number or a byte string."""
        if not re.fullmatch(r"[biufS]\d{1,5}", self.text) or self.order not in ("|", "<", ">", "="):
            raise InputError(f"holds values of type {self.text}; give CIFAR's own batches.")
        return np.dtype(self.text).newbyteorder({"|": "="}.get(self.order, self.order))  # pyright: ignore[reportArgumentType]


class _Array:
    """What stands for a numpy array until all of it is read; no code of numpy runs on what the file says."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = tuple(state)

    def array(self) -> np.ndarray:
        """The array. Raises InputError or ValueError where its bytes do not fit its shape."""
        _, shape, kind, by_column, data = self.state
        if not isinstance(kind, _Type) or not isinstance(data, bytes):
            raise InputError("holds an array of Python objects; give CIFAR's own batches.")
        return np.frombuffer(data, kind.plain()).reshape(tuple(shape), order="F" if by_column else "C")


def _array_of_buffer(data: Any, kind: Any, shape: Any, order: Any = "C") -> _Array:
    array = _Array()
    array.state = (1, shape, kind, plain_text(order) == "F", bytes(data))
    return array


def _scalar(kind: Any, data: Any = b"") -> Any:
    return np.frombuffer(data, kind.plain())[0].item()


def _latin(text: str, *_: Any) -> bytes:
    """What `_codecs.encode(text, 'latin1')` gives, which is how Python 3 writes bytes into an old pickle."""
    return text.encode("latin1")


ALLOWED: dict[str, Any] = {
    "dtype": _Type,
    "ndarray": _Array,
    "_reconstruct": _Array,
    "_frombuffer": _array_of_buffer,
    "scalar": _scalar,
}


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain values and numpy arrays; nothing that the file names is imported or run."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) == ("_codecs", "encode"):
            return _latin
        if module_name.partition(".")[0] == "numpy" and global_name in ALLOWED:
            return ALLOWED[global_name]
        raise InputError(
            f"asks for {module_name}.{global_name}, which data have no use for, and was not read; take the published "
            "file."
        )
