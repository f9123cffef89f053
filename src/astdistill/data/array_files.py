"""Files of arrays: .npz and .npy, IDX (MNIST's own format, also gzipped), and the .mat files of SVHN and others."""

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
from .named_arrays import AS_FOUND, MNIST_TEST, NamedArrays, Wanted, role_of, set_of_arrays
from .splits import split_of

IDX = re.compile(r"[-._]idx\d?([-._]\w+)?(\.gz)?$", re.IGNORECASE)
IDX_FORMAT = re.compile(r"[-._]idx[1-4]([-._]?ubyte)?(\.gz)?$", re.IGNORECASE)
"""Names that say nothing else; what else ends in idx (class_to_idx.json, train.idx) is one where it begins so."""
IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
AT_ONCE = 1 << 24
"""Bytes of an IDX file that are read at once."""
SVHN_MAT = re.compile(r"(train|test|extra)_32x32\.mat", re.IGNORECASE)
RAW = "raw"
INSIDE = (
    "cifar-10-batches-py", "cifar-100-python", "cifar-10-batches-bin", "cifar-100-binary",
    "MNIST/raw", "FashionMNIST/raw", "KMNIST/raw", "EMNIST/raw", "QMNIST/raw", RAW,
)  # fmt: skip
"""Folders that torchvision and the published archives make inside the one that is named."""
UNREAD = {
    (".pkl", ".pickle", ".pt", ".pth", ".joblib"): "a pickle, which runs code when it is opened",
    (".h5", ".hdf5"): "an HDF5 file",
    (".tar", ".gz", ".tgz", ".rar", ".7z"): "an archive",
}
"""Files that somebody may give, and what they are."""


@dataclass(frozen=True)
class ArrayFolder:
    """Files of one folder that make a data set, and what reads them."""

    folder: Path
    read: Callable[[Wanted], RawData]


def from_array_file(path: Path, wanted: Wanted = AS_FOUND) -> RawData | None:
    """The set in an .npz, .npy, .mat or IDX file; None where it is none of these.

    Raises InputError for a file that is, but cannot be read, and for pickles, which are never opened.
    """
    name = path.name.lower()
    if name.endswith(".npz"):
        return from_npz(path, wanted)
    if name.endswith(".npy"):
        raise InputError(
            f"{path} holds one array, images or labels; give the folder that holds both (x_train.npy, y_train.npy), or "
            "an .npz file."
        )
    if name.endswith(".mat"):
        return set_of_arrays(_mat_arrays([path], path.stem, str(path)), wanted)
    if IDX.search(name):
        return _from_idx(path.parent, _idx_group(path), wanted)
    if is_cifar(path.parent) and not path.suffix:
        return _from_cifar(path.parent, wanted)
    what = next((what for endings, what in UNREAD.items() if name.endswith(endings)), None)
    if what is not None:
        raise InputError(
            f"{path} is {what}, and is not read; unpack it or store its arrays with numpy.savez, and give that."
        )
    return None


def array_folder(folder: Path, listing: Listing) -> ArrayFolder | None:
    """What reads a folder of array files; None where there are none.

    Looks at the names in the folder, then into the folders that torchvision and the published archives make, of which
    one that is called only 'raw' may be anything beside folders of pictures. Raises InputError where several of these
    are there.
    """
    reader = _reader(folder, listing)
    if reader is not None:
        return reader
    places = [folder / name for name in INSIDE if (folder / name).is_dir()]
    if folder / RAW in places and _has_folders_of_pictures(folder, listing):
        places.remove(folder / RAW)
    inside = [each for place in places if (each := _reader(place, listing)) is not None]
    if len(inside) > 1:
        several = " and ".join(str(each.folder) for each in inside)
        raise InputError(f"{folder} holds several data sets, {several}; name one of them with --data.")
    return next(iter(inside), None)


def _reader(folder: Path, listing: Listing) -> ArrayFolder | None:
    names = _file_names(folder)
    if is_cifar(folder) and (begins_as_cifar(folder) or not _has_folders_of_pictures(folder, listing)):
        return ArrayFolder(folder, lambda wanted: _from_cifar(folder, wanted))
    if idx := _idx_files(folder, names, listing):
        return ArrayFolder(folder, lambda wanted: _from_idx(folder, idx, wanted))
    if mats := _svhn_files(folder, names, listing):
        return ArrayFolder(
            folder, lambda wanted: set_of_arrays(_mat_arrays(mats, _folder_name(folder), str(folder)), wanted)
        )
    if _holds_folders(folder):
        return None
    if npys := [folder / name for name in names if name.lower().endswith(".npy")]:
        return ArrayFolder(folder, lambda wanted: set_of_arrays(_npy_arrays(npys, folder), wanted))
    if npzs := [folder / name for name in names if name.lower().endswith(".npz")]:
        return ArrayFolder(folder, lambda wanted: _from_npzs(npzs, folder, wanted))
    return None


def _has_folders_of_pictures(folder: Path, listing: Listing) -> bool:
    """Whether class folders may be meant: files beside them that are only called like arrays are none then, and
    elsewhere they are refused as damaged."""
    return any(True for _ in listing.subfolders(folder))


def _idx_files(folder: Path, names: Sequence[str], listing: Listing) -> list[str]:
    """The files of the format IDX: those that begin so, and others that are called so and no more."""
    sure = [name for name in names if IDX.search(name) and _begins_as_idx(folder / name)]
    called = [name for name in names if name not in sure and IDX_FORMAT.search(name)]
    if called and not _has_folders_of_pictures(folder, listing):
        return [name for name in names if name in sure or name in called]
    return sure


def _begins_as_idx(path: Path) -> bool:
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            head = file.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] in IDX_TYPES


def _svhn_files(folder: Path, names: Sequence[str], listing: Listing) -> list[Path]:
    """The files of SVHN; beside folders of pictures only where there are training images among them, and MATLAB wrote
    them all."""
    mats = [folder / name for name in names if SVHN_MAT.fullmatch(name)]
    whole = any(path.name.lower().startswith("train") for path in mats) and all(map(_begins_as_mat, mats))
    return mats * (whole or (bool(mats) and not _has_folders_of_pictures(folder, listing)))


def _begins_as_mat(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(HEADER)[-2:] in (b"IM", b"MI")
    except OSError:
        return False


def _from_cifar(folder: Path, wanted: Wanted) -> RawData:
    if wanted.images is not None:
        raise InputError(
            f"--data.image-column {wanted.images} names a column or an array, and {folder} holds CIFAR's batches, "
            "which have one set of images; leave it out."
        )
    return cifar_folder(folder, wanted.labels)


def _file_names(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir() if each.is_file() and not each.name.startswith("."))
    except OSError as error:
        raise InputError(
            f"{folder} cannot be read ({reason(error)}); check its permissions, or give another --data."
        ) from error


def _holds_folders(folder: Path) -> bool:
    return any(each.is_dir() and not each.name.startswith((".", "__")) for each in folder.iterdir())


def _folder_name(folder: Path) -> str:
    """The name of the folder, or of the one above where it is called 'raw'."""
    whole = folder.resolve()
    return whole.parent.name if whole.name == "raw" else whole.name


def _short(folder: Path) -> str:
    """What a sentence calls the folder, also where it is given as '.'."""
    return folder.resolve().name


# .npz and .npy


def from_npz(path: Path, wanted: Wanted = AS_FOUND) -> RawData:
    """The arrays of an .npz file: x_train, y_train and, if there, x_test, y_test (or images, labels, and other usual
    names); `classes` may name the classes.

    See `set_of_arrays`. `layout` ('NHWC' or 'NCHW') in the file says where the channels are, which else is the axis
    shorter than height and width. Only the arrays that are needed are read; nothing is unpickled.
    """
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} cannot be read as an .npz file, or is only a part of one; write it with numpy.savez.")
    with _opened_npz(path) as arrays:
        return set_of_arrays(arrays, wanted)


@contextmanager
def _opened_npz(path: Path) -> Iterator[NamedArrays]:
    with ExitStack() as stack:
        try:  # a file of our own, which is closed where numpy refuses it
            file = np.load(stack.enter_context(path.open("rb")), allow_pickle=False)
        except Exception as error:  # numpy, zipfile and zlib raise a dozen unrelated types
            raise _broken_npz(path, "", error) from error
        arrays = NamedArrays(path.stem, str(path), path.name, tuple(file.files), lambda name: _member(file, name, path))
        yield medmnist.described(arrays, path.stem)


def _member(file: Any, name: str, path: Path) -> np.ndarray:
    try:
        held = file[name]
    except Exception as error:  # as above
        raise _broken_npz(path, name, error) from error
    if not isinstance(held, np.ndarray):
        raise InputError(f"{name} in {path} is not an array; write the file with numpy.savez.")
    return held


def _broken_npz(path: Path, name: str, error: Exception) -> InputError:
    which = f", array {name}," if name else ""
    if "allow_pickle" in str(error):
        return InputError(
            f"{path}{which} cannot be read as an .npz file of plain arrays: it holds Python objects, which are never "
            f"unpickled; store numbers or text with numpy.savez."
        )
    reason = in_one_line(error)
    return InputError(
        f"{path}{which} cannot be read as an .npz file of plain arrays ({reason}); write it with numpy.savez."
    )


def _npy_arrays(paths: Sequence[Path], folder: Path) -> NamedArrays:
    by_name = {path.stem: path for path in paths}

    def read(name: str) -> np.ndarray:
        try:
            return np.load(by_name[name], allow_pickle=False)
        except Exception as error:  # as above
            raise _broken_npz(by_name[name], "", error) from error

    return NamedArrays(_folder_name(folder), str(folder), _short(folder), tuple(by_name), read)


def _from_npzs(paths: Sequence[Path], folder: Path, wanted: Wanted) -> RawData:
    """A folder with one .npz file, or with one for each part."""
    if len(paths) == 1:
        return from_npz(paths[0], wanted)
    parts = [(split_of(path.stem), role_of(path.stem)) for path in paths]
    if any(part is None for part, _ in parts) or len(set(parts)) < len(parts):
        names = ", ".join(path.name for path in paths[:3])
        raise InputError(f"{folder} holds {len(paths)} .npz files ({names}); name one of them with --data.")
    members: dict[str, Path] = {}
    for path in paths:
        if not zipfile.is_zipfile(path):
            raise _broken_npz(path, "", ValueError("not a zip archive"))
        with _opened_npz(path) as arrays:
            members |= {f"{path.stem}/{name}": path for name in arrays.names}

    def read(name: str) -> np.ndarray:
        with _opened_npz(members[name]) as arrays:
            return arrays.read(name.rpartition("/")[2])

    return set_of_arrays(NamedArrays(_folder_name(folder), str(folder), _short(folder), tuple(members), read), wanted)


# IDX


def _from_idx(folder: Path, names: Sequence[str], wanted: Wanted) -> RawData:
    """The set in the IDX files of these names. Raises InputError where they are of several sets."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_idx_set(name), []).append(name)
    if len(groups) > 1:
        firsts = ", ".join(group[0] for group in groups.values())
        raise InputError(f"{folder} holds IDX files of {len(groups)} sets; give a file of one of them: {firsts}.")
    called = next(iter(groups))
    files = _one_of_each(folder, names)
    arrays = NamedArrays(
        "-".join(filter(None, (_folder_name(folder), called))),
        str(folder),
        _short(folder),
        tuple(files),
        lambda name: read_idx(files[name]),
    )
    if called.startswith("emnist"):
        turned = "images: as stored, which in EMNIST is with rows and columns exchanged"
        arrays = replace(arrays, said=Summary(read=(turned,)))
    return set_of_arrays(arrays, wanted)


def _one_of_each(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The files by their names without .gz; of a file and its gzipped copy the file."""
    by_name: dict[str, Path] = {}
    for name in sorted(names, key=lambda name: name.lower().endswith(".gz"), reverse=True):
        by_name[re.sub(r"\.gz$", "", name, flags=re.IGNORECASE)] = folder / name
    return by_name


def _idx_group(path: Path) -> list[str]:
    """The IDX files beside one that belong to the same set."""
    wanted = _idx_set(path.name)
    names = _idx_files(path.parent, _file_names(path.parent), Listing())
    return [name for name in dict.fromkeys([*names, path.name]) if _idx_set(name) == wanted]


def _idx_set(name: str) -> str:
    """What is left of a file name without part, role and format: 'emnist-letters', or nothing."""
    plain = MNIST_TEST.sub("test", IDX.sub("", name))
    words = [word for word in re.split(r"[-._\s]+", plain) if word]
    return "-".join(word.lower() for word in words if split_of(word) is None and role_of(word) is None)


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file, gzipped or not: two zeros, a type, the number of axes, their lengths (big-endian), the
    values.

    Raises InputError for another header, and where there are fewer or more values than it says.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            return _idx_array(file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as an IDX file ({reason(error)}); download it again.") from error


def _idx_array(file: Any, path: Path) -> np.ndarray:
    head = file.read(4)
    kind = IDX_TYPES.get(head[2]) if len(head) == 4 and head[:2] == b"\0\0" else None
    if kind is None or not 1 <= head[3] <= 4:
        raise InputError(f"{path} is no IDX file: it begins with {head.hex(' ')}; download it again.")
    shape = tuple(int(length) for length in np.frombuffer(file.read(4 * head[3]).ljust(4 * head[3], b"\0"), ">u4"))
    wanted = math.prod(shape) * np.dtype(kind).itemsize
    held = _at_most(file, wanted + 1)
    if len(held) != wanted:
        more = {True: "more", False: f"{len(held)}"}[len(held) > wanted]
        raise InputError(
            f"{path} says that it holds {wanted} bytes of shape {shape}, but there are {more}; download it again."
        )
    return np.frombuffer(held, kind).reshape(shape)


def _at_most(file: Any, count: int) -> bytes:
    """The next bytes, up to so many: piece by piece, since room for what a damaged header says may not be there."""
    pieces, left = list[bytes](), count
    while left and (piece := file.read(min(left, AT_ONCE))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


# .mat


def _mat_arrays(paths: Sequence[Path], name: str, where: str) -> NamedArrays:
    """The variables of .mat files up to version 7, by file and name where there are several files.

    In those of SVHN label 10 is the digit 0, and `extra` holds half a million further images, which are not read.
    """
    svhn = all(SVHN_MAT.fullmatch(path.name) for path in paths)
    short = _short(paths[0].parent) if len(paths) > 1 else paths[0].name
    used = [path for path in paths if not (svhn and len(paths) > 1 and path.name.lower().startswith("extra"))]
    held: dict[str, np.ndarray] = {}
    for path in used:
        prefix = f"{path.stem}/" * (len(used) > 1)
        held |= {f"{prefix}{key}": value for key, value in read_mat(path).items()}
    arrays = NamedArrays(name, where, short, tuple(held), held.__getitem__)
    if not svhn:
        return arrays
    unused = [f"file {path.name}: further images" for path in paths if path not in used]
    other = paths[0].with_name(paths[0].name.lower().replace("train", "test"))
    if len(paths) == 1 and other != paths[0] and other.is_file():
        unused.append(f"file {other.name}: give the folder to use it as the test part")
    said = Summary(read=("labels: 10 is the digit 0",), left_out=tuple(unused))
    return replace(arrays, relabelled=lambda labels: np.where(labels == 10, 0, labels), said=said)
