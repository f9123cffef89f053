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
from .dataset import Source, Summary, checked_labels, class_names, whole_numbers
from .digests import FileSet

USUAL_LABELS = ("label", "labels", "fine_label")
"""Taken when several columns could be the label: CIFAR-100's 'fine_label' beside 'coarse_label'."""


@dataclass(frozen=True)
class Columns:
    """The two columns, the class names where the label column knows them, and others that could be the label."""

    image: str
    label: str
    classes: tuple[str, ...] | None
    rivals: tuple[str, ...] = ()


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
    rivals = tuple(name for name in labels if label is None and name != chosen_label)
    return Columns(chosen_image, chosen_label, _class_names(features[chosen_label]), rivals)


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


def table_source(
    name: str, splits: Mapping[str, Any], files: FileSet, image_column: str | None, label_column: str | None
) -> Source:
    """The pictures of a data set's splits, not decoded yet.

    Raises InputError for missing columns or labels that are not 0..K−1.
    """
    train = next((split for split in TRAIN_NAMES if split in splits), None)
    if train is None:
        raise InputError(
            f"{name} has no part called 'train', only {', '.join(splits)}; name another source with --data."
        )
    columns = find_columns(splits[train].features, image_column, label_column, name)
    classes = class_names(_labels(splits[train], columns), columns.classes, name)
    test = _labelled_split(splits, columns, name)
    used = {part: split for part, split in (("train", train), ("test", test)) if split is not None}
    places = {part: f"{name}, {split} part" for part, split in used.items()}
    labels = {
        part: checked_labels(_labels(splits[split], columns), len(classes), places[part])
        for part, split in used.items()
    }
    pictures = {part: _encoded_column(splits[split], columns.image) for part, split in used.items()}
    return Source(
        name,
        classes,
        labels,
        lambda part, rows: [_bytes(cell) for cell in pictures[part][list(rows)][columns.image]],
        lambda part, row: f"Image {row} of {places[part]}",
        files,
        _summary(splits, used, columns),
    )


def _labelled_split(splits: Mapping[str, Any], columns: Columns, name: str) -> str | None:
    """The split that is the test part, if there is one."""
    for split in TEST_NAMES:
        if split in splits and _has_labels(splits[split], columns, f"{name}, {split} part"):
            return split
    return None


def _encoded_column(split: Any, column: str) -> Any:
    """The pictures of a split, as bytes."""
    import datasets

    return split.select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _summary(splits: Mapping[str, Any], used: Mapping[str, str], columns: Columns) -> Summary:
    parts = (f"{'training' if part == 'train' else part} part: split {split}" for part, split in used.items())
    unused = [split for split in splits if split not in used.values()]
    rivals = f"the label is column {columns.label}, which could also be {', '.join(columns.rivals)}"
    return Summary(
        read=(*parts, f"images: column {columns.image}; labels: column {columns.label}"),
        left_out=tuple(f"split {split}, {_why_unused(split, used)}" for split in unused),
        guessed=(rivals,) * bool(columns.rivals),
    )


def _why_unused(split: str, used: Mapping[str, str]) -> str:
    """Test parts are tried in the order of their names until one has labels."""
    if split not in TEST_NAMES:
        return "which is neither the training part nor a test part"
    if "test" not in used or TEST_NAMES.index(split) < TEST_NAMES.index(used["test"]):
        return "which has no labels"
    return f"since {used['test']} is the test part"


def prepared_files(splits: Mapping[str, Any]) -> FileSet:
    """The prepared files that hold the train and test parts, none when they lie in memory."""
    parts = [name for name in (*TRAIN_NAMES, *TEST_NAMES) if name in splits]
    return FileSet([Path(file["filename"]) for name in parts for file in splits[name].cache_files])


def from_hub(repository: str) -> Mapping[str, Any]:
    """The splits of `owner/name` or `owner/name:configuration` of the Hugging Face hub, downloaded once into its own
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
    return _by_split(splits)


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
def from_parquet(folder: Path, files: FileSet, image_column: str | None, label_column: str | None) -> Iterator[Source]:
    """The pictures in a folder's parquet files, in the hub's layout, for as long as the block lasts; no network is
    used."""
    import datasets

    cache_folder().mkdir(parents=True, exist_ok=True)
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="parquet-", ignore_cleanup_errors=True) as place:
            try:
                splits = datasets.load_dataset("parquet", data_files=split_files(folder, files.files), cache_dir=place)
            except Exception as error:  # pyarrow and datasets wrap a broken file in several unrelated types
                reason = " ".join(str(error.__cause__ or error).split())[:300]
                raise InputError(
                    f"The parquet files of {folder} cannot be read ({reason}); replace the broken file."
                ) from error
            yield table_source(folder.resolve().name, _by_split(splits), files, image_column, label_column)
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


def _bytes(cell: Mapping[str, Any] | None) -> bytes:
    """The encoded picture in a cell; an empty cell gives no bytes, which are then refused with the row's name."""
    if not cell:
        return b""
    if cell.get("bytes"):
        return cell["bytes"]
    path = cell.get("path")
    return Path(path).read_bytes() if path and Path(path).exists() else b""
