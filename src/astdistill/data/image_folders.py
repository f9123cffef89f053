"""Data that lies on this machine: folders of pictures, .npz files, and scikit-learn's digits."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..runtime.errors import InputError
from .dataset import Split
from .decoding import Encoded, EncodedPart, Layout, checked_layout, file_bytes, from_array
from .imagenet import named_by_wnid, words_in, words_of
from .raw import RawData, checked_count, checked_labels, class_names, rows_of
from .selection import ClassChoice, kept_labels, stratified

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
ARRAY_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("images", "labels", "test_images", "test_labels"),
)
DIGITS_TEST = 360


def digits() -> RawData:
    """Scikit-learn's 1,797 grey 8×8 digits, 1,437 for training and 360 for testing, divided per class by a fixed
    seed."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    labels = torch.as_tensor(found.target, dtype=torch.int64)
    pixels = torch.as_tensor(found.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)  # stored as 0..16
    whole = Split(pixels, labels)
    division = stratified(labels, 10, DIGITS_TEST, 0, "digits test part")
    return RawData(
        "digits", tuple(map(str, range(10))), rows_of(whole, division.stay), rows_of(whole, division.held_out)
    )


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder, not decoded yet; the files of the chosen classes; class names that do not come from
    folders."""

    encoded: Encoded
    files: list[Path]
    words: tuple[str, ...]


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the class folders in `train/`, or in the folder itself where it has no training part; in
    alphabetical order."""
    return tuple(place.name for place in _subfolders(_subfolder(folder, TRAIN_FOLDERS) or folder))


def from_picture_folder(folder: Path, choice: ClassChoice) -> PictureFolder:
    """The pictures in `train/<class>/` and `test|val/<class>/`, or in `<class>/` alone; classes in alphabetical order.

    Only the folders of the chosen classes are looked into. Classes named by WordNet identifiers get words where
    words.txt lies beside `train/`. Raises InputError for a folder without pictures, a class without any, or a test
    class that is not trained on.
    """
    train = _subfolder(folder, TRAIN_FOLDERS)
    root, folders = train or folder, class_folders(folder)
    text = words_in(folder) if named_by_wnid(folders) else None
    words = () if text is None else words_of(folders, text)
    chosen = set(kept_labels(words or folders, choice)) if folders else set[int]()
    files = [picture_files(root / name) if label in chosen else [] for label, name in enumerate(folders)]
    if not any(files):
        raise InputError(
            f"{folder} holds no pictures in class folders; expected {folder}/train/<class>/*.png, or "
            f"{folder}/<class>/*.png."
        )
    test = None if train is None else _test_folder(folder, folders)
    tested = (
        []
        if test is None
        else [picture_files(test / name) if label in chosen else [] for label, name in enumerate(folders)]
    )
    encoded = Encoded(
        folder.resolve().name, words or folders, _folder_part(files), None if test is None else _folder_part(tested)
    )
    return PictureFolder(encoded, sorted(path for paths in (*files, *tested) for path in paths), words)


def picture_files(folder: Path) -> list[Path]:
    """Every picture below a folder, sorted by path."""
    return sorted(path for path in folder.rglob("*") if is_picture(path.name))


def has_pictures(folder: Path) -> bool:
    """Whether there is any picture below a folder."""
    return any(is_picture(path.name) for path in folder.rglob("*"))


def is_picture(name: str) -> bool:
    """Whether a file name ends as a picture's does; hidden files are none."""
    return name.lower().endswith(PICTURES) and not name.startswith(".")


def from_npz(path: Path) -> RawData:
    """The arrays of an .npz file: x_train, y_train and, if there, x_test, y_test (or images, labels); `classes` may
    name the classes.

    Images are uint8, or floats in [0, 1], `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` with any number of channels,
    all of which are kept; the channels are the axis that is shorter than height and width, or where `layout` ('NHWC' or
    'NCHW') in the file says. Nothing is unpickled.
    """
    import numpy as np

    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} cannot be read as an .npz file, or is only a part of one; write it with numpy.savez.")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read as an .npz file of plain arrays ({error}); write it with numpy.savez."
        ) from error
    keys = next((keys for keys in ARRAY_KEYS if keys[0] in arrays and keys[1] in arrays), None)
    if keys is None:
        raise InputError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; it needs x_train and y_train (and x_test, y_test), or "
            f"images and labels."
        )
    names = [str(name) for name in arrays["classes"].tolist()] if "classes" in arrays else None
    classes = class_names(arrays[keys[1]], names, path.name)
    layout = checked_layout(str(arrays["layout"])) if "layout" in arrays else None
    train = _array_part(arrays[keys[0]], arrays[keys[1]], len(classes), layout, f"{path.name}, {keys[0]}")
    if (keys[2] in arrays) != (keys[3] in arrays):
        raise InputError(f"{path} holds only one of {keys[2]} and {keys[3]}; write both or neither.")
    test = (
        _array_part(arrays[keys[2]], arrays[keys[3]], len(classes), layout, f"{path.name}, {keys[2]}")
        if keys[2] in arrays
        else None
    )
    return RawData(path.stem, classes, train, test)


def _array_part(images: Any, labels: Any, classes: int, layout: Layout | None, where: str) -> Split:
    return checked_count(from_array(images, where, layout), checked_labels(labels, classes, where), where)


def _test_folder(folder: Path, classes: Sequence[str]) -> Path | None:
    """The first test part with class folders: ImageNet's own `test/` has none."""
    parts = [folder / name for name in TEST_FOLDERS if (folder / name).is_dir()]
    for part in parts:
        names = [place.name for place in _subfolders(part)]
        foreign = [name for name in names if name not in classes]
        if foreign:
            raise InputError(
                f"{part} holds a class '{foreign[0]}' that the training part does not; rename it or take it out."
            )
        if names:
            return part
    return parts[0] if parts else None


def _folder_part(by_class: Sequence[Sequence[Path]]) -> EncodedPart:
    files = [path for paths in by_class for path in paths]
    labels = torch.tensor([label for label, paths in enumerate(by_class) for _ in paths], dtype=torch.int64)
    return EncodedPart(labels, lambda rows: [file_bytes(files[row]) for row in rows], lambda row: str(files[row]))


def _subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
