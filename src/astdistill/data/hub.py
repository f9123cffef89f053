"""Image tables in the form of Hugging Face `datasets`, from the hub by name or from parquet files, and their rows as
images and labels."""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from ..runtime.errors import InputError, unknown
from ..runtime.files import cache_folder
from ..runtime.progress import phase
from ..runtime.text import in_one_line, many
from .columns import SURE, Columns, find_columns, image_columns, kind_of, rank_of
from .dataset import Source, Summary
from .decoding import file_bytes
from .digests import FileSet
from .labels import MISSING, Numbered, numbered
from .listing import text_of
from .parquet import copied, find_picture_files, split_files
from .splits import BOUNDARY, PLAIN, WORDS, split_of

PART_COLUMNS = ("split", "subset", "partition", "part", "set", "usage", "phase", "fold")
"""Names of columns that may give the part of each row, if all rows are in one table."""
MOST_PARTS = 20
"""A column with more distinct values does not give parts."""
MOST_NUMBERS = 10
"""A column with more distinct numbers gives neither parts nor folds."""
EXTRA_WORDS = ("is", "in", "for", "use", "used", "data", "image", "images", "img", "cv", "k")
"""Other words allowed in the name of a column that gives parts by letters, numbers or flags."""
FLAGS = frozenset(("true", "false", "yes", "no", "y", "n", "t", "f", "0", "1", "0.0", "1.0"))
"""Flags written as text."""
SHORT = re.compile(r"[a-z]{1,2}|(fold)?[-_ ]*\d+(\.0)?")
"""Parts abbreviated to one or two letters, and folds."""
NO_VALUE = "no value"
"""Name of an empty cell in a message."""
AT_ONCE = 100
"""Rows of a column that are read at once."""
NAMED = 3
"""Most rows and files that a summary names."""
Opened = Callable[[str], bytes]
"""Function that returns the bytes of the image file named in a cell."""


def table_source(
    name: str,
    splits: Mapping[str, Any],
    files: FileSet,
    image_column: str | None,
    label_column: str | None,
    opened: Mapping[str, Opened] | None = None,
) -> Source:
    """The images of a data set's splits, not decoded yet; rows without a label are left out.

    `opened` maps a split to the function that reads the image files named in its cells; without it any regular file is
    read, which suits a table made by the caller. Raises InputError for missing columns, for labels that are not
    classes, and for an image that may not be read.
    """
    splits, opened, division_notes = _divide_by_parts(splits, opened or {}, image_column, label_column)
    ranked = _rank_splits(splits)
    train = _train_split(name, splits, ranked["train"])
    columns = find_columns(
        splits[train].features, image_column, label_column, name, lambda column: _column_values(splits[train], column)
    )
    test = next((split for split in ranked["test"] if _has_labels(splits[split], columns)), None)
    used = {part: split for part, split in (("train", train), ("test", test)) if split is not None}
    for split in used.values():
        if columns.image not in splits[split].column_names:
            raise unknown("image column", columns.image, splits[split].column_names, context=f"in {name}, {split} part")
    numbered = _number_labels({part: splits[split] for part, split in used.items()}, columns, name)
    labels = numbered.labels.split([len(splits[split]) for split in used.values()])
    rows = {part: (part_labels != MISSING).nonzero().squeeze(1) for part, part_labels in zip(used, labels, strict=True)}
    valid_labels = {part: part_labels[rows[part]] for part, part_labels in zip(used, labels, strict=True)}
    if not len(valid_labels["train"]):
        raise InputError(f"Column {columns.label} of {name}, {train} part, holds no labels; name another.")
    locations = {part: f"{name}, {split} part" for part, split in used.items()}
    readers = {part: opened.get(split, any_file) for part, split in used.items()}
    pictures = {part: _Pictures(splits[split], columns.image, readers[part]) for part, split in used.items()}
    return Source(
        name,
        numbered.classes,
        valid_labels,
        lambda part, chosen: pictures[part].read(rows[part][list(chosen)].tolist()),
        lambda part, row: f"Image {int(rows[part][row])} of {locations[part]}",
        files,
        _summary(used, columns, numbered, _left_out(splits, ranked, used, rows, columns))
        + (division_notes or Summary(guessed=_notes_on_part_columns(splits[train], columns, len(splits) == 1))),
    )


def tells_parts(table: Any, image: str | None, label: str | None) -> bool:
    """Whether a column of a table, or the folders of its images, tell the part of each row."""
    return bool(_parts_from_column(table, (image, label)) or _parts_from_folders(table, image, label))


def _divide_by_parts(
    splits: Mapping[str, Any], opened: Mapping[str, Opened], image: str | None, label: str | None
) -> tuple[Mapping[str, Any], Mapping[str, Opened], Summary | None]:
    """Divide a single table into its parts, if a column or the folders of its images give them, and return notes on
    this; otherwise return everything unchanged, and None. Rows that belong to no part are left out."""
    if len(splits) != 1:
        return splits, opened, None
    ((split, table),) = splits.items()
    assignment = _parts_from_column(table, (image, label)) or _parts_from_folders(table, image, label)
    if assignment is None:
        return splits, opened, None
    rows: dict[str, list[int]] = {}
    for row, part in enumerate(assignment.parts):
        rows.setdefault(part or "", []).append(row)
    unassigned = [
        NO_VALUE if assignment.values[row] is None else f"'{assignment.values[row]}'" for row in rows.pop("", [])
    ]
    examples = ", ".join(list(dict.fromkeys(unassigned))[:NAMED]) + ", …" * (len(set(unassigned)) > NAMED)
    note = f"{many(len(unassigned), 'row')} of no part, where {assignment.how} has {examples}"
    readers = {part: opened[split] for part in rows if split in opened}
    summary = Summary((f"parts: {assignment.how}",), (note,) * bool(unassigned))
    return {part: table.select(indices) for part, indices in rows.items()}, readers, summary


@dataclass(frozen=True)
class _PartAssignment:
    """The part of every row (None if it belongs to no part), the values that give it, and a description of where these
    are."""

    parts: Sequence[str | None]
    values: Sequence[Any]
    how: str


def _parts_from_column(table: Any, excluded: Sequence[str | None]) -> _PartAssignment | None:
    """The parts from a column such as 'split', if some rows are training images and some are not."""
    for column in table.column_names:
        if column.lower() not in PART_COLUMNS or column in excluded:
            continue
        names = _class_names(table.features[column])
        values = _numbers_to_names(list(_column_values(table, column)), names)
        parts = [split_of(value) if isinstance(value, str) else None for value in values]
        if "train" in parts and len(set(parts)) > 1:
            return _PartAssignment(parts, values, f"column {column}")
    return None


def _numbers_to_names(values: list[Any], names: Sequence[str]) -> list[Any]:
    """The names of the given numbers; without `names`, the values unchanged."""
    names_by_number = dict(enumerate(names))
    return [names_by_number.get(value) for value in values] if names else values


def _parts_from_folders(table: Any, image: str | None, label: str | None) -> _PartAssignment | None:
    """The parts from the outermost folder of the images that is named exactly like a part, if a text column holds paths
    such as 'test/cat/1.png', and there are training and other images."""
    columns = (
        [image] if image is not None else image_columns(table.features, label, lambda name: _column_values(table, name))
    )
    if len(columns) != 1 or kind_of(table.features.get(columns[0])) != "text":
        return None
    values = list(_column_values(table, columns[0]))
    folders = [() if value is None else PurePosixPath(value.replace("\\", "/")).parts[:-1] for value in values]
    # Folders shared by all images give no parts.
    shared = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False)))
    part_folders = [[name for name in levels[shared:] if PLAIN.fullmatch(name.lower())] for levels in folders]
    parts = [next(filter(None, map(split_of, levels)), None) for levels in part_folders]
    if "train" not in parts or not {"test", "validation"} & set(parts):
        return None
    displayed = ["/".join(levels[: shared + 1]) or None for levels in folders]
    return _PartAssignment(parts, displayed, f"the folders in column {columns[0]}")


def _notes_on_part_columns(table: Any, columns: Columns, single: bool) -> tuple[str, ...]:
    """A note on every column of the training part that looks as if it gave parts, but is not used to divide it. If the
    table is not the only split, folds are not reported, and only words such as train and val count."""
    used = (columns.image, columns.label, columns.names)
    values = {name: _part_values(table, name) for name in table.column_names if name not in used}
    found = {
        name: cells
        for name, cells in values.items()
        if cells and (single or len({*map(split_of, map(str, cells))}) > 1)
    }
    return tuple(
        f"all rows as one part, though column {name} ({', '.join(map(str, cells[:NAMED]))}"
        f"{', …' * (len(cells) > NAMED)}) could tell training from test images (to divide by it, write a column called "
        "split with train and test)"
        for name, cells in found.items()
    )


def _part_values(table: Any, column: str) -> list[Any]:
    """The distinct values of a column that looks as if it gave parts; empty for any other."""
    feature, words = table.features[column], {word.lower() for word in BOUNDARY.split(column) if word}
    named = any(word in PART_COLUMNS or word.endswith("fold") for word in words)
    suitable = named or split_of(column) is not None
    part_words_only = suitable and all(
        word in (*PART_COLUMNS, *WORDS, *EXTRA_WORDS) or word.endswith("fold") for word in words
    )
    explicit = split_of(column) is not None and part_words_only
    kind = kind_of(feature)
    if not {"text": True, "class": True}.get(kind, (named or explicit) and kind in ("int", "flag", "float")):
        return []
    values = _numbers_to_names(_distinct_values(table, column), _class_names(feature))
    present = [value for value in values if value is not None]
    if kind in ("text", "class"):
        return values * (
            len(values) > 1 and _are_parts([str(value).lower() for value in present], named, part_words_only)
        )
    integral = all(value == round(value) for value in present if math.isfinite(value))
    return values * (1 < len(values) <= MOST_NUMBERS and integral and (named or set(present) <= {0, 1}))


def _are_parts(texts: Sequence[str], named: bool, part_words_only: bool) -> bool:
    """Whether texts give parts, in a column whose name contains a word for parts (`named`) or consists of such words
    only (`part_words_only`)."""
    parts = set(map(split_of, texts)) - {None}
    short = all(SHORT.fullmatch(text) or text in FLAGS for text in texts)
    return len(parts) > 1 or (named and len(parts) == 1) or (part_words_only and short and len(texts) <= MOST_NUMBERS)


def _distinct_values(table: Any, column: str) -> list[Any]:
    """The distinct values of a column, sorted; empty if there are more than `MOST_PARTS`."""
    seen: dict[Any, None] = {}
    for batch in table.select_columns([column]).with_format("arrow").iter(batch_size=10 * AT_ONCE):
        seen |= dict.fromkeys(batch.column(0).unique().to_pylist())
        if len(seen) > MOST_PARTS:
            return []
    return sorted(seen, key=lambda value: (value is None, str(value)))


def _rank_splits(splits: Mapping[str, Any]) -> dict[str, list[str]]:
    """The splits that could be the training part and the test part; those with exactly such a name come first.

    The first test candidate with labels is the test part: in ImageNet, all labels of the test split are −1.
    """
    order = {
        "train": ("train", "training"),
        "test": ("test", "testing"),
        "validation": ("validation", "valid", "val"),
    }
    ranked = {
        part: sorted(
            (split for split in splits if split_of(split) == part),
            key=lambda split, usual=usual: (split not in usual, usual.index(split) if split in usual else 0),
        )
        for part, usual in order.items()
    }
    return {"train": ranked["train"], "test": ranked["test"] + ranked["validation"]}


def _train_split(name: str, splits: Mapping[str, Any], ranked: Sequence[str]) -> str:
    if not ranked:
        raise InputError(
            f"{name} has no part called 'train', only {', '.join(splits)}; name another source with --data."
        )
    if len(ranked) > 1 and ranked[0] not in ("train", "training"):
        raise InputError(
            f"{name} has several parts that could be the training part: {', '.join(ranked)}; name another source with "
            "--data."
        )
    return ranked[0]


def _number_labels(parts: Mapping[str, Any], columns: Columns, name: str) -> Numbered:
    """The labels of all parts together, numbered consistently; if parts number the same class names differently, they
    are mapped by name."""
    feature = next(iter(parts.values())).features[columns.label]
    names = _class_names(feature)
    label_arrays = [_read_labels(split, columns.label) for split in parts.values()]
    if names or kind_of(feature) == "text":
        label_arrays = [
            _labels_to_names(labels, own_names)
            if (own_names := _class_names(split.features[columns.label])) != names
            else labels
            for labels, split in zip(label_arrays, parts.values(), strict=True)
        ]
    location = f"{name}, column {columns.label}"
    if names:
        numbered_labels = Numbered(
            torch.cat([numbered(labels, names, location).labels for labels in label_arrays]), names
        )
    else:
        numbered_labels = numbered(_concatenate(label_arrays), None, location)
    return numbered_labels if columns.names is None else _name_classes(numbered_labels, parts, columns.names)


def _class_names(feature: Any) -> tuple[str, ...]:
    """The class names of a column of class labels; empty for any other column."""
    return tuple(feature.names or ()) if kind_of(feature) == "class" else ()


def _labels_to_names(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The class names of numeric labels; without `names`, the labels unchanged."""
    if not names:
        return labels
    texts = [names[label] if label is not None and 0 <= label < len(names) else None for label in labels.tolist()]
    return np.array(texts, dtype=object)


def _concatenate(parts: Sequence[np.ndarray]) -> Any:
    """All labels in one sequence, without converting numbers to text."""
    if len({labels.dtype.kind for labels in parts}) == 1:
        return np.concatenate(parts)
    return [label for labels in parts for label in labels.tolist()]


def _name_classes(numbered: Numbered, parts: Mapping[str, Any], column: str) -> Numbered:
    """The same labels, with classes named by a text column. Raises InputError if that gives one class two names, as
    happens if parts are numbered independently."""
    texts = [text for split in parts.values() if column in split.column_names for text in _column_values(split, column)]
    names: dict[int, str] = {}
    for label, text in zip(numbered.labels.tolist(), texts, strict=False):
        if label == MISSING or text is None:
            continue
        if names.setdefault(label, str(text)) != str(text):
            raise InputError(
                f"Column {column} calls class {numbered.classes[label]} '{names[label]}' in one part of the data and "
                f"'{text}' in another; number the parts alike, or take the names for the labels: --data.label-column "
                f"{column}."
            )
    classes = tuple(names.get(label, name) for label, name in enumerate(numbered.classes))
    return Numbered(numbered.labels, classes, (*numbered.notes, f"class names: column {column}"))


def _read_labels(split: Any, column: str) -> np.ndarray:
    """The labels of a split: numbers or flags where none is missing, otherwise objects."""
    table = split.select_columns([column]).with_format("arrow")[:]
    values = table.column(0)
    if values.null_count == 0 and kind_of(split.features[column]) in ("class", "int", "flag", "float"):
        return values.to_numpy()
    objects = np.empty(len(values), dtype=object)
    objects[:] = values.to_pylist()
    return objects


def _column_values(split: Any, column: str) -> Iterator[Any]:
    for table in split.select_columns([column]).with_format("arrow").iter(batch_size=AT_ONCE):
        yield from table.column(0).to_pylist()


def _has_labels(split: Any, columns: Columns) -> bool:
    """Whether any row has a label; −1 means no label."""
    if columns.label not in split.column_names:
        return False
    labels = _read_labels(split, columns.label)
    if labels.dtype.kind in "iuf":
        return bool((labels >= 0).any())
    return any(label not in (None, "", MISSING) for label in labels.tolist())


def _left_out(
    splits: Mapping[str, Any],
    ranked: Mapping[str, Sequence[str]],
    used: Mapping[str, str],
    rows: Mapping[str, torch.Tensor],
    columns: Columns,
) -> tuple[str, ...]:
    """Notes on what was not read, and why."""
    unused = [split for split in splits if split not in used.values()]
    notes = [
        f"split {split}, {_why_unused(split, splits[split].column_names, ranked, used, columns)}" for split in unused
    ]
    for part, split in used.items():
        unlabelled = torch.ones(len(splits[split]), dtype=torch.bool)
        unlabelled[rows[part]] = False
        if bool(unlabelled.any()):
            examples = ", ".join(map(str, unlabelled.nonzero().squeeze(1)[:NAMED].tolist()))
            notes.append(f"{int(unlabelled.sum())} images of split {split} without a label (such as rows {examples})")
    return tuple(notes)


def _why_unused(
    split: str,
    names: Sequence[str],
    ranked: Mapping[str, Sequence[str]],
    used: Mapping[str, str],
    columns: Columns,
) -> str:
    """Reason why a split is not used. Test parts are tried in their order until one has labels."""
    if split in ranked["train"]:
        return f"since {used['train']} is the training part"
    if split not in ranked["test"]:
        return "which is neither the training part nor a test part"
    if "test" not in used or ranked["test"].index(split) < ranked["test"].index(used["test"]):
        others = [name for name in names if rank_of(name) == SURE]
        if columns.label not in names and others:
            return f"which has no column {columns.label}, but {', '.join(others)}"
        return "which has no labels"
    return f"since {used['test']} is the test part"


def _summary(used: Mapping[str, str], columns: Columns, numbered: Numbered, left_out: tuple[str, ...]) -> Summary:
    parts = (f"{'training' if part == 'train' else part} part: split {split}" for part, split in used.items())
    flag = "otherwise: --data.label-column"
    rivals = f"the label is column {columns.label}, which could also be {', '.join(columns.rivals)} ({flag})"
    by_kind = f"the label is column {columns.label}, since no column is called a label ({flag})"
    return Summary(
        read=(*parts, f"images: column {columns.image}; labels: column {columns.label}", *numbered.notes),
        left_out=left_out,
        guessed=(*((rivals,) * bool(columns.rivals)), *((by_kind,) * (not columns.certain))),
    )


@dataclass(frozen=True)
class _Pictures:
    """The image column of a split."""

    split: Any
    column: str
    opened: Opened

    def read(self, rows: list[int]) -> list[bytes | np.ndarray]:
        """The images of some rows, as encoded bytes or as an array of nested lists. An empty cell gives empty bytes,
        which are later rejected with the row's name."""
        cells = self.split.select_columns([self.column]).with_format("arrow")[rows].column(0)
        return [self._picture(cell) for cell in cells]

    def _picture(self, cell: Any) -> bytes | np.ndarray:
        import pyarrow

        value = cell.value if isinstance(cell, pyarrow.ExtensionScalar) else cell
        if isinstance(value, pyarrow.ListScalar):
            return b"" if value.values is None else _nested_lists_to_array(value.values)
        content = value.as_py()
        if isinstance(content, Mapping):
            content = content.get("bytes") or content.get("path")
        return self.opened(content) if isinstance(content, str) else content or b""


def _nested_lists_to_array(values: Any) -> np.ndarray:
    """Convert nested lists to an array. Lists that are ragged or have missing values give an empty array, which is
    later rejected for its shape."""
    import pyarrow

    shape = [len(values)]
    while isinstance(values, pyarrow.ListArray | pyarrow.LargeListArray | pyarrow.FixedSizeListArray):
        lengths = values.value_lengths().unique() if not isinstance(values, pyarrow.FixedSizeListArray) else None
        if values.null_count or (lengths is not None and len(lengths) != 1):
            return np.empty((0, 0, 0, 0))
        values = values.flatten()
        shape.append(len(values) // max(1, int(np.prod(shape))))
    return np.array(values.to_numpy(zero_copy_only=False)).reshape(shape)


def any_file(path: str) -> bytes:
    """Read an image file at any path. Raises InputError if it is not a regular file."""
    if not os.path.isfile(path):
        raise InputError(f"A cell names the picture '{path}', which is no file; check the path.")
    return file_bytes(Path(path))


def hub_file(path: str) -> bytes:
    """Read an image file in the caches of the hub's libraries. Raises InputError for any other file."""
    from datasets import config
    from huggingface_hub import constants

    roots = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE)
    real = os.path.realpath(path)
    if not any(Path(real).is_relative_to(os.path.realpath(root)) for root in roots) or not os.path.isfile(real):
        raise InputError(
            f"A cell names the picture '{path}', which is no file of the Hugging Face caches, and no other is read; "
            "give a data set that holds the bytes of its pictures."
        )
    return file_bytes(Path(real))


def picture_reader(folder: Path, allowed: Mapping[str, Path]) -> Opened:
    """A function that reads the image files named in a parquet file in `folder`, but only those in `allowed`, a mapping
    by real path."""

    def opened(path: str) -> bytes:
        for name in (path, path.replace("\\", "/")):
            candidate = folder / name
            known_file = allowed.get(os.path.realpath(candidate)) if "\0" not in name else None
            if known_file is not None:
                return file_bytes(known_file)
        raise InputError(
            f"A cell names the picture '{path}', which is no file in {folder} or below it; paths in a table are looked "
            "for beside it and nowhere else."
        )

    return opened


def prepared_files(splits: Mapping[str, Any]) -> FileSet:
    """The prepared files that hold the train and test parts; empty if these are in memory."""
    parts = [split for ranked in _rank_splits(splits).values() for split in ranked]
    return FileSet([Path(file["filename"]) for name in parts for file in splits[name].cache_files])


def from_hub(repository: str) -> Mapping[str, Any]:
    """Load the splits of `owner/name` or `owner/name:configuration` from the Hugging Face hub, downloaded once into its
    cache."""
    import datasets

    path, _, configuration = repository.partition(":")
    try:
        with (
            phase(f"asking the Hugging Face hub for {path}"),
            _quiet("huggingface_hub"),
        ):  # after its retries, the error below is raised
            splits = datasets.load_dataset(path, configuration or None)
    except Exception as error:  # datasets, huggingface_hub and their HTTP client raise a dozen unrelated types
        reason = in_one_line(error, 300)
        raise InputError(
            f"'{repository}' cannot be read from the Hugging Face hub ({type(error).__name__}: {reason}); "
            "check the name and the network, or name a local copy of its parquet files: --data FOLDER."
        ) from error
    return _as_splits(splits)


@contextmanager
def _quiet(package: str) -> Iterator[None]:
    """Suppress the warnings of a package's log inside the block."""
    log = logging.getLogger(package)
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


@dataclass(frozen=True)
class ParquetFolder:
    """The parquet files of a folder by part, and the image files in it that their cells may name, by real path."""

    name: str
    folder: Path
    parts: Mapping[str, Sequence[Path]]
    pictures: Mapping[str, Path]
    unread: Sequence[Path]
    """Parquet files that are hidden, or belong to no part."""

    def files(self) -> FileSet:
        """All files that determine what is read."""
        tables = [path for paths in self.parts.values() for path in paths]
        return FileSet(sorted({*tables, *self.pictures.values()}), self.folder)


def parquet_folder(folder: Path, paths: Sequence[Path], image_column: str | None = None) -> ParquetFolder:
    """What to read from a folder that holds these parquet files. Raises InputError as `split_files` does, and if none
    of the files can be used."""
    regular = [path for path in paths if path.is_file()]
    if not regular:
        raise InputError(f"{paths[0]} is no regular file, so {folder} holds no parquet files; name another folder.")
    parts = split_files(folder, regular)
    if not parts:
        raise InputError(f"All parquet files of {folder} are hidden ({paths[0].relative_to(folder)}); rename them.")
    tables = [path for files in parts.values() for path in files]
    unread = [path for path in paths if path not in set(tables)]
    return ParquetFolder(
        text_of(folder.resolve().name), folder, parts, find_picture_files(tables, image_column), unread
    )


def parquet_file(path: Path, image_column: str | None = None) -> ParquetFolder:
    """A single table, regardless of its name; a column of part names may divide it."""
    pictures = find_picture_files([path], image_column)
    return ParquetFolder(text_of(path.stem), path.parent, {"train": [path]}, pictures, ())


@contextmanager
def from_parquet(folder: ParquetFolder, image_column: str | None, label_column: str | None) -> Iterator[Source]:
    """The images in a folder's parquet files, in the hub's layout, for the duration of the block; no network is
    used."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="parquet-", ignore_cleanup_errors=True) as temporary:
        splits = {part: copied(files, Path(temporary) / f"{part}.arrow") for part, files in folder.parts.items()}
        readers = {part: picture_reader(files[0].parent, folder.pictures) for part, files in folder.parts.items()}
        source = table_source(folder.name, splits, folder.files(), image_column, label_column, readers)
        note = (f"parquet files that belong to no part: {some_of(folder.unread, folder.folder)}",) * bool(folder.unread)
        summary = with_files(source.summary, folder.parts, folder.folder)
        yield replace(source, summary=summary + Summary(left_out=note))


def with_files(summary: Summary, parts: Mapping[str, Sequence[Path]], folder: Path) -> Summary:
    """The summary of the splits, extended by the files that are read."""
    text = " ".join(summary.read)
    used = {part: paths for part, paths in parts.items() if f"part: split {part}" in text}
    return summary + Summary(tuple(f"split {part}: {some_of(paths, folder)}" for part, paths in used.items()))


def some_of(paths: Sequence[Path], folder: Path) -> str:
    """The first few paths, relative to the folder, for a summary."""
    listed = ", ".join(path.relative_to(folder).as_posix() for path in paths[:NAMED])
    return listed + f" and {len(paths) - NAMED} more" * (len(paths) > NAMED)


def _as_splits(splits: Any) -> Mapping[str, Any]:
    return splits if isinstance(splits, Mapping) else {"train": splits}
