"""Data that lies on this machine: folders of pictures, .npz files, and scikit-learn's digits."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from .pictures import Encoded, EncodedPart, file_bytes
from .pixels import Layout, checked_layout, from_array
from .raw import RawData, RawPart, checked_count, checked_labels, class_names
from .selection import stratified

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
    """Scikit-learn's 1,797 grey 8×8 digits, 1,437 for training and 360 for testing, divided per class by a fixed seed."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    labels = torch.as_tensor(found.target, dtype=torch.int64)
    pixels = torch.as_tensor(found.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)  # stored as 0..16
    whole = RawPart(pixels, labels)
    division = stratified(labels, 10, DIGITS_TEST, 0, "digits test part")
    return RawData("digits", tuple(map(str, range(10))), whole.rows(division.stay), whole.rows(division.held_out))


def from_picture_folder(folder: Path) -> Encoded:
    """The pictures in `train/<class>/` and `test|val/<class>/`, or in `<class>/` alone; classes in alphabetical order.

    Raises InputError for a folder without pictures, a class without any, or a test class that is not trained on.
    """
    train = _subfolder(folder, TRAIN_FOLDERS)
    test = _subfolder(folder, TEST_FOLDERS) if train else None
    root = train or folder
    classes = tuple(place.name for place in _subfolders(root))
    if not classes or not any(picture_files(root)):
        raise InputError(f"{folder} holds no pictures in class folders; expected {folder}/train/<class>/*.png, or {folder}/<class>/*.png.")
    test_part = None if test is None else _folder_part(test, classes)
    return Encoded(folder.resolve().name, classes, _folder_part(root, classes), test_part)


def picture_files(folder: Path) -> list[Path]:
    """Every picture below a folder, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and not path.name.startswith("."))


def from_npz(path: Path) -> RawData:
    """The arrays of an .npz file: x_train, y_train and, if there, x_test, y_test (or images, labels); `classes` may name the classes.

    Images are uint8, or floats in [0, 1], `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` with any number of channels, all of which are
    kept; the channels are the axis that is shorter than height and width, or where `layout` ('NHWC' or 'NCHW') in the file says.
    Nothing is unpickled.
    """
    import numpy as np

    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as an .npz file of plain arrays ({error}); write it with numpy.savez.") from error
    keys = next((keys for keys in ARRAY_KEYS if keys[0] in arrays and keys[1] in arrays), None)
    if keys is None:
        raise InputError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; it needs x_train and y_train (and x_test, y_test), or images and labels."
        )
    names = [str(name) for name in arrays["classes"].tolist()] if "classes" in arrays else None
    classes = class_names(arrays[keys[1]], names, path.name)
    layout = checked_layout(str(arrays["layout"])) if "layout" in arrays else None
    train = _array_part(arrays[keys[0]], arrays[keys[1]], len(classes), layout, f"{path.name}, {keys[0]}")
    if (keys[2] in arrays) != (keys[3] in arrays):
        raise InputError(f"{path} holds only one of {keys[2]} and {keys[3]}; write both or neither.")
    test = _array_part(arrays[keys[2]], arrays[keys[3]], len(classes), layout, f"{path.name}, {keys[2]}") if keys[2] in arrays else None
    return RawData(path.stem, classes, train, test)


def _array_part(images: Any, labels: Any, classes: int, layout: Layout | None, where: str) -> RawPart:
    return checked_count(from_array(images, where, layout), checked_labels(labels, classes, where), where)


def _folder_part(folder: Path, classes: Sequence[str]) -> EncodedPart:
    foreign = [place.name for place in _subfolders(folder) if place.name not in classes]
    if foreign:
        raise InputError(f"{folder} holds a class '{foreign[0]}' that the training part does not; rename it or take it out.")
    by_class = [picture_files(folder / name) for name in classes]
    files = [path for paths in by_class for path in paths]
    labels = torch.tensor([label for label, paths in enumerate(by_class) for _ in paths], dtype=torch.int64)
    return EncodedPart(labels, lambda rows: [file_bytes(files[row]) for row in rows], lambda row: str(files[row]))


def _subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
