"""Readers for array files: .npz and .npy, IDX (the format of MNIST, also gzipped), and .mat files (SVHN and others)."""

from __future__ import annotations

import gzip
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import InputError
from ..runtime.text import in_one_line, reason
from . import medmnist
from .cifar import begins_as_cifar, cifar_folder, is_cifar
from .dataset import RawData, Summary
from .listing import Listing
from .mat_files import HEADER, read_mat
from .named_arrays import AS_FOUND, MNIST_TEST, ArrayChoice, NamedArrays, part_of, role_of, set_of_arrays
from .splits import split_of

IDX = re.compile(r"[-._]idx\d?([-._]\w+)?(\.gz)?$", re.IGNORECASE)
IDX_FORMAT = re.compile(r"[-._]idx[1-4]([-._]?ubyte)?(\.gz)?$", re.IGNORECASE)
"""File names that can only mean IDX. Other names that IDX matches (class_to_idx.json, train.idx) count only if the file
has an IDX header."""
IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
AT_ONCE = 1 << 24
"""Bytes of an IDX file that are read at once."""
SVHN_MAT = re.compile(r"(train|test|extra)_32x32\.mat", re.IGNORECASE)
RAW = "raw"
KNOWN_SUBFOLDERS = (
    "cifar-10-batches-py", "cifar-100-python", "cifar-10-batches-bin", "cifar-100-binary",
    "MNIST/raw", "FashionMNIST/raw", "KMNIST/raw", "EMNIST/raw", "QMNIST/raw", RAW,
)  # fmt: skip
"""Subfolders that torchvision and the published archives create inside the folder that the user names."""
UNSUPPORTED = {
    (".pkl", ".pickle", ".pt", ".pth", ".joblib"): "a pickle, which runs code when it is opened",
    (".h5", ".hdf5"): "an HDF5 file",
    (".tar", ".gz", ".tgz", ".rar", ".7z"): "an archive",
}
"""Endings of files that are not supported, and what the error message calls them."""


@dataclass(frozen=True)
class ArrayFolder:
    """A folder of array files that form one data set, and the function that reads them."""

    folder: Path
    read: Callable[[ArrayChoice], RawData]


def from_array_file(path: Path, choice: ArrayChoice = AS_FOUND) -> RawData | None:
    """Read the data set in an .npz, .npy, .mat or IDX file; return None for any other file.

    Raises InputError if such a file cannot be read, and for pickles and other unsupported files, which are never
    opened.
    """
    name = path.name.lower()
    if name.endswith(".npz"):
        return from_npz(path, choice)
    if name.endswith(".npy"):
        raise InputError(
            f"{path} holds one array, images or labels; give the folder that holds both (x_train.npy, y_train.npy), or "
            "an .npz file."
        )
    if name.endswith(".mat"):
        return set_of_arrays(_mat_arrays([path], path.stem, str(path)), choice)
    if IDX.search(name):
        return _from_idx(path.parent, _idx_group(path), choice)
    if is_cifar(path.parent) and not path.suffix:
        return _from_cifar(path.parent, choice)
    description = next((description for endings, description in UNSUPPORTED.items() if name.endswith(endings)), None)
    if description is not None:
        raise InputError(
            f"{path} is {description}, and is not read; unpack it or store its arrays with numpy.savez, and give that."
        )
    return None


def array_folder(folder: Path, listing: Listing) -> ArrayFolder | None:
    """Find the reader for a folder of array files; return None if the folder holds none.

    Checks the files in the folder, then the subfolders that torchvision and the published archives create. A subfolder
    called just 'raw' is ignored if the folder also has subfolders of images. Raises InputError if several subfolders
    hold a data set.
    """
    reader = _find_reader(folder, listing)
    if reader is not None:
        return reader
    subfolders = [folder / name for name in KNOWN_SUBFOLDERS if (folder / name).is_dir()]
    if folder / RAW in subfolders and _has_folders_of_pictures(folder, listing):
        subfolders.remove(folder / RAW)
    readers = [each for subfolder in subfolders if (each := _find_reader(subfolder, listing)) is not None]
    if len(readers) > 1:
        found = " and ".join(str(each.folder) for each in readers)
        raise InputError(f"{folder} holds several data sets, {found}; name one of them with --data.")
    return next(iter(readers), None)


def _find_reader(folder: Path, listing: Listing) -> ArrayFolder | None:
    names = _file_names(folder)
    if is_cifar(folder) and (begins_as_cifar(folder) or not _has_folders_of_pictures(folder, listing)):
        return ArrayFolder(folder, lambda choice: _from_cifar(folder, choice))
    if idx_names := _idx_files(folder, names, listing):
        return ArrayFolder(folder, lambda choice: _from_idx(folder, idx_names, choice))
    if mats := _svhn_files(folder, names, listing):
        return ArrayFolder(folder, lambda choice: _from_svhn(mats, folder, choice))
    if _has_subfolders(folder):
        return None
    if npys := [folder / name for name in names if name.lower().endswith(".npy")]:
        return ArrayFolder(folder, lambda choice: set_of_arrays(_npy_arrays(npys, folder), choice))
    if npzs := [folder / name for name in names if name.lower().endswith(".npz")]:
        return ArrayFolder(folder, lambda choice: _from_npzs(npzs, folder, choice))
    return None


def _has_folders_of_pictures(folder: Path, listing: Listing) -> bool:
    """Whether the folder has subfolders of images, which may be the classes. Files that are only named like arrays are
    then ignored; without such subfolders they are rejected as damaged."""
    return any(True for _ in listing.subfolders(folder))


def _idx_files(folder: Path, names: Sequence[str], listing: Listing) -> list[str]:
    """Names of the IDX files: those with an IDX header and, if there are no folders of images, those whose name can
    only mean IDX."""
    confirmed = [name for name in names if IDX.search(name) and _has_idx_header(folder / name)]
    candidates = [name for name in names if name not in confirmed and IDX_FORMAT.search(name)]
    if candidates and not _has_folders_of_pictures(folder, listing):
        return [name for name in names if name in confirmed or name in candidates]
    return confirmed


def _has_idx_header(path: Path) -> bool:
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            head = file.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] in IDX_TYPES


def _svhn_files(folder: Path, names: Sequence[str], listing: Listing) -> list[Path]:
    """Paths of the SVHN files. If there are also folders of images, the files count only if they include training
    images and all have a MATLAB header."""
    mats = [folder / name for name in names if SVHN_MAT.fullmatch(name)]
    confirmed = any(path.name.lower().startswith("train") for path in mats) and all(map(_has_mat_header, mats))
    return mats * (confirmed or (bool(mats) and not _has_folders_of_pictures(folder, listing)))


def _has_mat_header(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(HEADER)[-2:] in (b"IM", b"MI")
    except OSError:
        return False


def _from_cifar(folder: Path, choice: ArrayChoice) -> RawData:
    if choice.images is not None:
        raise InputError(
            f"--data.image-column {choice.images} names a column or an array, and {folder} holds CIFAR's batches, "
            "which have one set of images; leave it out."
        )
    return cifar_folder(folder, choice.labels)


def _file_names(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir() if each.is_file() and not each.name.startswith("."))
    except OSError as error:
        raise InputError(
            f"{folder} cannot be read ({reason(error)}); check its permissions, or give another --data."
        ) from error


def _has_subfolders(folder: Path) -> bool:
    return any(each.is_dir() and not each.name.startswith((".", "__")) for each in folder.iterdir())


def _folder_name(folder: Path) -> str:
    """Name of the folder, or of its parent if the folder is called 'raw'."""
    resolved = folder.resolve()
    return resolved.parent.name if resolved.name == "raw" else resolved.name


def _display_name(folder: Path) -> str:
    """Name of the folder in messages, also if the folder is given as '.'."""
    return folder.resolve().name


# .npz and .npy


def from_npz(path: Path, choice: ArrayChoice = AS_FOUND) -> RawData:
    """Read the data set in an .npz file: x_train, y_train and, if present, x_test, y_test (or images, labels, and other
    usual names); an array `classes` may name the classes.

    See `set_of_arrays`. An array `layout` ('NHWC' or 'NCHW') gives the position of the channels, which otherwise are
    the axis shorter than height and width. Only the arrays that are needed are read; nothing is unpickled.
    """
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} cannot be read as an .npz file, or is only a part of one; write it with numpy.savez.")
    with _open_npz(path) as arrays:
        return set_of_arrays(arrays, choice)


@contextmanager
def _open_npz(path: Path) -> Iterator[NamedArrays]:
    with ExitStack() as stack:
        try:  # opened here, so that it is closed if numpy rejects it
            file = np.load(stack.enter_context(path.open("rb")), allow_pickle=False)
        except Exception as error:  # numpy, zipfile and zlib raise a dozen unrelated types
            raise _npz_error(path, "", error) from error
        arrays = NamedArrays(
            path.stem, str(path), path.name, tuple(file.files), lambda name: _read_member(file, name, path)
        )
        yield medmnist.described(arrays, path.stem)


def _read_member(file: Any, name: str, path: Path) -> np.ndarray:
    try:
        array = file[name]
    except Exception as error:  # as above
        raise _npz_error(path, name, error) from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{name} in {path} is not an array; write the file with numpy.savez.")
    return array


def _npz_error(path: Path, name: str, error: Exception) -> InputError:
    member = f", array {name}," if name else ""
    if "allow_pickle" in str(error):
        return InputError(
            f"{path}{member} cannot be read as an .npz file of plain arrays: it holds Python objects, which are never "
            f"unpickled; store numbers or text with numpy.savez."
        )
    reason = in_one_line(error)
    return InputError(
        f"{path}{member} cannot be read as an .npz file of plain arrays ({reason}); write it with numpy.savez."
    )


def _npy_arrays(paths: Sequence[Path], folder: Path) -> NamedArrays:
    by_name = {path.stem: path for path in paths}

    def read(name: str) -> np.ndarray:
        try:
            return np.load(by_name[name], allow_pickle=False)
        except Exception as error:  # as above
            raise _npz_error(by_name[name], "", error) from error

    return NamedArrays(_folder_name(folder), str(folder), _display_name(folder), tuple(by_name), read)


def _from_npzs(paths: Sequence[Path], folder: Path, choice: ArrayChoice) -> RawData:
    """Read a folder with one .npz file, or with one file per part."""
    if len(paths) == 1:
        _check_training_file(paths[0], folder)
        return from_npz(paths[0], choice)
    parts = [(split_of(path.stem), role_of(path.stem)) for path in paths]
    if any(part is None for part, _ in parts) or len(set(parts)) < len(parts):
        names = ", ".join(path.name for path in paths[:3])
        raise InputError(f"{folder} holds {len(paths)} .npz files ({names}); name one of them with --data.")
    members: dict[str, Path] = {}
    for path in paths:
        if not zipfile.is_zipfile(path):
            raise _npz_error(path, "", ValueError("not a zip archive"))
        with _open_npz(path) as arrays:
            members |= {f"{path.stem}/{name}": path for name in arrays.names}

    def read(name: str) -> np.ndarray:
        with _open_npz(members[name]) as arrays:
            return arrays.read(name.rpartition("/")[2])

    return set_of_arrays(
        NamedArrays(_folder_name(folder), str(folder), _display_name(folder), tuple(members), read), choice
    )


def _check_training_file(path: Path, folder: Path) -> None:
    """Raise InputError if the only file of a folder is named as a test or validation part and holds no training
    part."""
    if split_of(path.stem) not in ("test", "validation") or not zipfile.is_zipfile(path):
        return
    with _open_npz(path) as arrays:
        if any(part_of(name) == "train" for name in arrays.names):
            return
    raise InputError(
        f"{folder} holds only the test part ({path.name}); add a file of training images, or take this one for "
        f"training with --data {path}."
    )


# IDX


def _from_idx(folder: Path, names: Sequence[str], choice: ArrayChoice) -> RawData:
    """Read the data set in the IDX files of these names. Raises InputError if they belong to several data sets."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_idx_set_name(name), []).append(name)
    if len(groups) > 1:
        firsts = ", ".join(group[0] for group in groups.values())
        raise InputError(f"{folder} holds IDX files of {len(groups)} sets; give a file of one of them: {firsts}.")
    set_name = next(iter(groups))
    files = _without_gzipped_copies(folder, names)
    arrays = NamedArrays(
        "-".join(filter(None, (_folder_name(folder), set_name))),
        str(folder),
        _display_name(folder),
        tuple(files),
        lambda name: read_idx(files[name]),
    )
    if set_name.startswith("emnist"):
        note = "images: as stored, which in EMNIST is with rows and columns exchanged"
        arrays = replace(arrays, summary=Summary(read=(note,)))
    return set_of_arrays(arrays, choice)


def _without_gzipped_copies(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Paths by file name without .gz. If a file exists both plain and gzipped, the plain one is used."""
    by_name: dict[str, Path] = {}
    for name in sorted(names, key=lambda name: name.lower().endswith(".gz"), reverse=True):
        by_name[re.sub(r"\.gz$", "", name, flags=re.IGNORECASE)] = folder / name
    return by_name


def _idx_group(path: Path) -> list[str]:
    """Names of the IDX files in the folder of `path` that belong to the same data set."""
    set_name = _idx_set_name(path.name)
    names = _idx_files(path.parent, _file_names(path.parent), Listing())
    return [name for name in dict.fromkeys([*names, path.name]) if _idx_set_name(name) == set_name]


def _idx_set_name(name: str) -> str:
    """The file name without part, role and format, such as 'emnist-letters'; may be empty."""
    plain = MNIST_TEST.sub("test", IDX.sub("", name))
    words = [word for word in re.split(r"[-._\s]+", plain) if word]
    return "-".join(word.lower() for word in words if split_of(word) is None and role_of(word) is None)


def read_idx(path: Path) -> np.ndarray:
    """Read the array in an IDX file, gzipped or not: two zero bytes, a type, the number of axes, their lengths
    (big-endian), the values.

    Raises InputError for any other header, and if the number of values differs from the header.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            return _read_idx_array(file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as an IDX file ({reason(error)}); download it again.") from error


def _read_idx_array(file: Any, path: Path) -> np.ndarray:
    head = file.read(4)
    kind = IDX_TYPES.get(head[2]) if len(head) == 4 and head[:2] == b"\0\0" else None
    if kind is None or not 1 <= head[3] <= 4:
        raise InputError(f"{path} is no IDX file: it begins with {head.hex(' ')}; download it again.")
    shape = tuple(int(length) for length in np.frombuffer(file.read(4 * head[3]).ljust(4 * head[3], b"\0"), ">u4"))
    expected = math.prod(shape) * np.dtype(kind).itemsize
    content = _read_at_most(file, expected + 1)
    if len(content) != expected:
        found = {True: "more", False: f"{len(content)}"}[len(content) > expected]
        raise InputError(
            f"{path} says that it holds {expected} bytes of shape {shape}, but there are {found}; download it again."
        )
    return np.frombuffer(content, kind).reshape(shape)


def _read_at_most(file: Any, count: int) -> bytes:
    """Read up to `count` bytes in pieces: the size in a damaged header may exceed the memory."""
    pieces, remaining = list[bytes](), count
    while remaining and (piece := file.read(min(remaining, AT_ONCE))):
        pieces.append(piece)
        remaining -= len(piece)
    return b"".join(pieces)


# .mat


def _from_svhn(paths: Sequence[Path], folder: Path, choice: ArrayChoice) -> RawData:
    """Read a folder of SVHN's files. Raises InputError if it has the test part and not the training part."""
    parts = [split_of(path.stem) for path in paths]
    if "test" in parts and "train" not in parts:
        missing = paths[parts.index("test")].name.lower().replace("test", "train")
        raise InputError(
            f"{folder} holds no training part, only {' and '.join(path.name for path in paths)}; add {missing}, or "
            f"take a file for training with --data {paths[0]}."
        )
    return set_of_arrays(_mat_arrays(paths, _folder_name(folder), str(folder)), choice)


def _mat_arrays(paths: Sequence[Path], name: str, location: str) -> NamedArrays:
    """The variables of .mat files up to version 7, named by file and variable if there are several files. Fields of
    structures are not among them.

    In SVHN, label 10 is the digit 0, and `extra` holds half a million further images, which are not read.
    """
    svhn = all(SVHN_MAT.fullmatch(path.name) for path in paths)
    display_name = _display_name(paths[0].parent) if len(paths) > 1 else paths[0].name
    used = [path for path in paths if not (svhn and len(paths) > 1 and path.name.lower().startswith("extra"))]
    variables: dict[str, np.ndarray] = {}
    for path in used:
        prefix = f"{path.stem}/" * (len(used) > 1)
        variables |= {f"{prefix}{key}": value for key, value in read_mat(path).items() if "." not in key}
    arrays = NamedArrays(name, location, display_name, tuple(variables), variables.__getitem__)
    if not svhn:
        return arrays
    unused = [f"file {path.name}: further images" for path in paths if path not in used]
    test_path = paths[0].with_name(paths[0].name.lower().replace("train", "test"))
    if len(paths) == 1 and test_path != paths[0] and test_path.is_file():
        unused.append(f"file {test_path.name}: give the folder to use it as the test part")
    summary = Summary(read=("labels: 10 is the digit 0",), left_out=tuple(unused))
    return replace(arrays, relabelled=lambda labels: np.where(labels == 10, 0, labels), summary=summary)
