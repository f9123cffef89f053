"""Tables of pictures read with Hugging Face `datasets`: from the hub by name or from parquet files; which columns are
meant."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import InputError, unknown
from ..runtime.files import cache_folder
from ..runtime.progress import phase
from .dataset import checked_labels, class_names, whole_numbers
from .decoding import Encoded, EncodedPart

USUAL_LABELS = ("label", "labels", "fine_label")
"""Taken when several columns could be the label: CIFAR-100's 'fine_label' beside 'coarse_label'."""


@dataclass(frozen=True)
class Columns:
    """The two columns, and the class names where the label column knows them."""

    image: str
    label: str
    classes: tuple[str, ...] | None


def find_columns(features: Mapping[str, Any], image: str | None, label: str | None, where: str) -> Columns:
    """The columns named, or the only ones of a fitting type: an image; a class label, else an integer.

    `features` are those of a Hugging Face data set. Raises InputError listing the columns when none or several fit.
    """
    for kind, name in (("image column", image), ("label column", label)):
        if name is not None and name not in features:
            raise unknown(kind, name, features, where=f"in {where}")
    images = [name for name, feature in features.items() if _is_image(feature)]
    labels = [name for name, feature in features.items() if _class_names(feature)] or [
        name for name, feature in features.items() if _is_whole(feature)
    ]
    chosen_image = image or _only(images, features, "image", where, ())
    chosen_label = label or _only(labels, features, "label", where, USUAL_LABELS)
    return Columns(chosen_image, chosen_label, _class_names(features[chosen_label]))


def _only(fitting: list[str], features: Mapping[str, Any], kind: str, where: str, usual: tuple[str, ...]) -> str:
    if len(fitting) == 1:
        return fitting[0]
    for name in usual:
        if name in fitting:
            return name
    if not fitting:
        raise InputError(
            f"{where} has no {kind} column; it has {', '.join(features)}. Name the {kind} column with "
            f"--data.{kind}-column."
        )
    raise InputError(
        f"{where} has several columns that could be the {kind}: {', '.join(fitting)}; name one with "
        f"--data.{kind}-column."
    )


def _is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image" or (isinstance(feature, Mapping) and "bytes" in feature)


def _class_names(feature: Any) -> tuple[str, ...] | None:
    return tuple(feature.names) if type(feature).__name__ == "ClassLabel" and feature.names else None


def _is_whole(feature: Any) -> bool:
    return "int" in str(getattr(feature, "dtype", "")) and type(feature).__name__ == "Value"


TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "validation", "valid", "val")
"""The first that has labels is the test part: ImageNet's own test labels are all −1."""


@dataclass(frozen=True)
class Table:
    """The splits of a data set by name, and where to look for the two columns."""

    name: str
    splits: Mapping[str, Any]
    image_column: str | None = None
    label_column: str | None = None

    def encoded(self) -> Encoded:
        """The pictures, not decoded yet. Raises InputError for missing columns or labels that are not 0..K−1."""
        train_name = next((name for name in TRAIN_NAMES if name in self.splits), None)
        if train_name is None:
            raise InputError(
                f"{self.name} has no part called 'train', only {', '.join(self.splits)}; name another source with "
                f"--data."
            )
        train = self.splits[train_name]
        columns = find_columns(train.features, self.image_column, self.label_column, self.name)
        classes = class_names(_labels(train, columns), columns.classes, self.name)
        test_name = next(
            (
                name
                for name in TEST_NAMES
                if name in self.splits and _has_labels(self.splits[name], columns, f"{self.name}, {name} part")
            ),
            None,
        )
        test = (
            None
            if test_name is None
            else _part(self.splits[test_name], columns, len(classes), f"{self.name}, {test_name} part")
        )
        return Encoded(self.name, classes, _part(train, columns, len(classes), f"{self.name}, {train_name} part"), test)

    def files(self) -> list[Path]:
        """The prepared files that hold the train and test parts, empty when they lie in memory."""
        parts = [name for name in (*TRAIN_NAMES, *TEST_NAMES) if name in self.splits]
        return [Path(file["filename"]) for name in parts for file in self.splits[name].cache_files]


def from_hub(repository: str, name: str, image_column: str | None, label_column: str | None) -> Table:
    """The table `owner/name` or `owner/name:configuration` of the Hugging Face hub, downloaded once into its own
    cache."""
    import datasets

    path, _, configuration = repository.partition(":")
    try:
        with (
            phase(f"asking the Hugging Face hub for {path}"),
            _quiet("huggingface_hub"),
        ):  # its retries end in our one sentence
            splits = datasets.load_dataset(path, configuration or None)
    except Exception as error:  # datasets, huggingface_hub and their HTTP client raise a dozen unrelated types
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"'{repository}' cannot be read from the Hugging Face hub ({type(error).__name__}: {reason}); "
            "check the name and the network, or name a local copy of its parquet files: --data FOLDER."
        ) from error
    return Table(name, _by_split(splits), image_column, label_column)


@contextmanager
def _quiet(package: str) -> Iterator[None]:
    """No warnings of a package's log inside the block."""
    log = logging.getLogger(package)
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def from_parquet(
    folder: Path, files: Sequence[Path], image_column: str | None, label_column: str | None
) -> Iterator[Table]:
    """The table in a folder of parquet files in the hub's layout, for as long as the block lasts; no network is
    used."""
    import datasets

    cache_folder().mkdir(parents=True, exist_ok=True)
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="parquet-", ignore_cleanup_errors=True) as place:
            try:
                splits = datasets.load_dataset("parquet", data_files=split_files(folder, files), cache_dir=place)
            except Exception as error:  # pyarrow and datasets wrap a broken file in several unrelated types
                reason = " ".join(str(error.__cause__ or error).split())[:300]
                raise InputError(
                    f"The parquet files of {folder} cannot be read ({reason}); replace the broken file."
                ) from error
            yield Table(folder.resolve().name, _by_split(splits), image_column, label_column)
    finally:
        if shown:
            datasets.enable_progress_bars()


def split_files(folder: Path, files: Sequence[Path]) -> dict[str, list[str]]:
    """The files of each part by the word that begins their name or that of the folder they lie in; all are training
    files if none says so.

    Raises InputError when the training files lie in several folders, which are then several data sets.
    """
    found: dict[str, list[Path]] = {}
    for file in files:
        split = _split_of(file, folder)
        if split is not None:
            found.setdefault(split, []).append(file)
    if not found:
        found = {"train": list(files)}
    places = sorted({str(file.parent.relative_to(folder)) for file in found.get("train", [])})
    if len(places) > 1:
        raise InputError(
            f"{folder} holds training files in several folders ({', '.join(places)}); name one of them with --data."
        )
    return {split: [str(file) for file in part] for split, part in found.items()}


def _split_of(file: Path, folder: Path) -> str | None:
    for word in (file.stem, file.parent.name if file.parent != folder else ""):
        match = re.match(r"([a-z]+)(?![a-z])", word.lower())
        if match and match.group(1) in (*TRAIN_NAMES, *TEST_NAMES):
            return "train" if match.group(1) in TRAIN_NAMES else match.group(1)
    return None


def _by_split(splits: Any) -> Mapping[str, Any]:
    return splits if isinstance(splits, Mapping) else {"train": splits}


def _labels(split: Any, columns: Columns) -> np.ndarray:
    return np.asarray(split.with_format("numpy")[columns.label][:])


def _has_labels(split: Any, columns: Columns, where: str) -> bool:
    return columns.label in split.column_names and bool((whole_numbers(_labels(split, columns), where) >= 0).any())


def _part(split: Any, columns: Columns, classes: int, where: str) -> EncodedPart:
    import datasets

    labels = checked_labels(_labels(split, columns), classes, where)
    pictures = split.select_columns([columns.image]).cast_column(columns.image, datasets.Image(decode=False))

    def fetch(rows: Sequence[int]) -> list[bytes]:
        return [_bytes(cell) for cell in pictures[list(rows)][columns.image]]

    return EncodedPart(labels, fetch, lambda row: f"Image {row} of {where}")


def _bytes(cell: Mapping[str, Any] | None) -> bytes:
    """The encoded picture in a cell; an empty cell gives no bytes, which are then refused with the row's name."""
    if not cell:
        return b""
    if cell.get("bytes"):
        return cell["bytes"]
    path = cell.get("path")
    return Path(path).read_bytes() if path and Path(path).exists() else b""
