"""Tables of pictures as Hugging Face `datasets` holds them: from the hub by name or from parquet files; their rows as
pictures and labels."""

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
from .parquet import copied, pictures_beside, split_files
from .splits import BOUNDARY, PLAIN, WORDS, split_of

PART_COLUMNS = ("split", "subset", "partition", "part", "set", "usage", "phase", "fold")
"""Names of columns that may say which part a row belongs to, where all rows lie in one table."""
MOST_PARTS = 20
"""A column of more different values tells no parts."""
MOST_NUMBERS = 10
"""A column of more different numbers tells no parts and no folds."""
ASKED = ("is", "in", "for", "use", "used", "data", "cv", "k")
"""What else may stand in the name of a column that tells parts by letters, numbers or flags."""
FLAGS = frozenset(("true", "false", "yes", "no", "y", "n", "t", "f", "0", "1", "0.0", "1.0"))
"""How flags are written as text."""
SHORT = re.compile(r"[a-z]{1,2}|(fold)?[-_ ]*\d+(\.0)?")
"""Parts in one or two letters, and folds."""
LEFT = "no value"
"""What an empty cell is called."""
AT_ONCE = 100
"""Rows of a column that are looked at together."""
NAMED = 3
"""Rows and files that a summary names of many."""
Opened = Callable[[str], bytes]
"""The bytes of the picture file that a cell names."""


def table_source(
    name: str,
    splits: Mapping[str, Any],
    files: FileSet,
    image_column: str | None,
    label_column: str | None,
    opened: Mapping[str, Opened] | None = None,
) -> Source:
    """The pictures of a data set's splits, not decoded yet; rows without a label are left out.

    `opened` reads the pictures that cells of a split name by a path; without it any regular file is, as befits a table
    that the caller made. Raises InputError for missing columns, for labels that are no classes, and for a picture that
    may not be read.
    """
    splits, opened, divided = _divided(splits, opened or {}, image_column, label_column)
    ranked = _parts_of(splits)
    train = _train_split(name, splits, ranked["train"])
    columns = find_columns(
        splits[train].features, image_column, label_column, name, lambda column: _values(splits[train], column)
    )
    test = next((split for split in ranked["test"] if _has_labels(splits[split], columns)), None)
    used = {part: split for part, split in (("train", train), ("test", test)) if split is not None}
    for split in used.values():
        if columns.image not in splits[split].column_names:
            raise unknown("image column", columns.image, splits[split].column_names, where=f"in {name}, {split} part")
    numbered = _numbered({part: splits[split] for part, split in used.items()}, columns, name)
    labels = numbered.labels.split([len(splits[split]) for split in used.values()])
    rows = {part: (its != MISSING).nonzero().squeeze(1) for part, its in zip(used, labels, strict=True)}
    kept = {part: its[rows[part]] for part, its in zip(used, labels, strict=True)}
    if not len(kept["train"]):
        raise InputError(f"Column {columns.label} of {name}, {train} part, holds no labels; name another.")
    places = {part: f"{name}, {split} part" for part, split in used.items()}
    readers = {part: opened.get(split, any_file) for part, split in used.items()}
    pictures = {part: _Pictures(splits[split], columns.image, readers[part]) for part, split in used.items()}
    return Source(
        name,
        numbered.classes,
        kept,
        lambda part, chosen: pictures[part].read(rows[part][list(chosen)].tolist()),
        lambda part, row: f"Image {int(rows[part][row])} of {places[part]}",
        files,
        _summary(used, columns, numbered, _left_out(splits, ranked, used, rows, columns))
        + (divided or Summary(guessed=_like_parts(splits[train], columns, len(splits) == 1))),
    )


def _divided(
    splits: Mapping[str, Any], opened: Mapping[str, Opened], image: str | None, label: str | None
) -> tuple[Mapping[str, Any], Mapping[str, Opened], Summary | None]:
    """One table divided into its parts, with the words for it, where a column or the folders of its pictures tell them;
    else all as it is, and None. Rows that belong to no part are left out."""
    if len(splits) != 1:
        return splits, opened, None
    ((only, table),) = splits.items()
    told = _told_by_column(table, (image, label)) or _told_by_folder(table, image, label)
    if told is None:
        return splits, opened, None
    rows: dict[str, list[int]] = {}
    for row, part in enumerate(told.parts):
        rows.setdefault(part or "", []).append(row)
    rest = [LEFT if told.values[row] is None else f"'{told.values[row]}'" for row in rows.pop("", [])]
    named = ", ".join(list(dict.fromkeys(rest))[:NAMED]) + ", …" * (len(set(rest)) > NAMED)
    unread = f"{many(len(rest), 'row')} of no part, where {told.how} has {named}"
    readers = {part: opened[only] for part in rows if only in opened}
    said = Summary((f"parts: {told.how}",), (unread,) * bool(rest))
    return {part: table.select(its) for part, its in rows.items()}, readers, said


@dataclass(frozen=True)
class _Told:
    """The part of every row, None where it belongs to none; the values that tell it, and where these stand."""

    parts: Sequence[str | None]
    values: Sequence[Any]
    how: str


def _told_by_column(table: Any, others: Sequence[str | None]) -> _Told | None:
    """The parts by a column such as 'split', where some rows are training images and some are not."""
    for column in table.column_names:
        if column.lower() not in PART_COLUMNS or column in others:
            continue
        names = _names_of(table.features[column])
        told = _as_names(list(_values(table, column)), names)
        parts = [split_of(value) if isinstance(value, str) else None for value in told]
        if "train" in parts and len(set(parts)) > 1:
            return _Told(parts, told, f"column {column}")
    return None


def _as_names(values: list[Any], names: Sequence[str]) -> list[Any]:
    """The names that numbers stand for; other values as they are."""
    known = dict(enumerate(names))
    return [known.get(value) for value in values] if names else values


def _told_by_folder(table: Any, image: str | None, label: str | None) -> _Told | None:
    """The parts by the outermost folder of the pictures that is called like one and no more, where a column of paths
    such as 'test/cat/1.png' names them, and there are training and other images."""
    fitting = [image] if image is not None else image_columns(table.features, label, lambda name: _values(table, name))
    if len(fitting) != 1 or kind_of(table.features.get(fitting[0])) != "text":
        return None
    values = list(_values(table, fitting[0]))
    folders = [() if value is None else PurePosixPath(value.replace("\\", "/")).parts[:-1] for value in values]
    # What all lie in tells no parts.
    shared = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False)))
    plain = [[name for name in its[shared:] if PLAIN.fullmatch(name.lower())] for its in folders]
    parts = [next(filter(None, map(split_of, its)), None) for its in plain]
    if "train" not in parts or not {"test", "validation"} & set(parts):
        return None
    shown = ["/".join(its[: shared + 1]) or None for its in folders]
    return _Told(parts, shown, f"the folders in column {fitting[0]}")


def _like_parts(table: Any, columns: Columns, alone: bool) -> tuple[str, ...]:
    """A word on every column of the training part that looks as if it told parts, and does not divide it; beside other
    parts folds are none, and only words such as train and val are meant."""
    used = (columns.image, columns.label, columns.names)
    values = {name: _part_values(table, name) for name in table.column_names if name not in used}
    found = {name: its for name, its in values.items() if its and (alone or len({*map(split_of, map(str, its))}) > 1)}
    return tuple(
        f"all rows as one part, though column {name} ({', '.join(map(str, its[:NAMED]))}{', …' * (len(its) > NAMED)}) "
        "could tell training from test images (to divide by it, write a column called split with train and test)"
        for name, its in found.items()
    )


def _part_values(table: Any, column: str) -> list[Any]:
    """The different values of a column that looks as if it told parts; none for any other."""
    feature, words = table.features[column], {word.lower() for word in BOUNDARY.split(column) if word}
    called = any(word in PART_COLUMNS or word.endswith("fold") for word in words)
    told = called or split_of(column) is not None
    plain = told and all(word in (*PART_COLUMNS, *WORDS, *ASKED) or word.endswith("fold") for word in words)
    spoken = split_of(column) is not None and plain
    kind = kind_of(feature)
    if not {"text": True, "class": True}.get(kind, (called or spoken) and kind in ("int", "flag", "float")):
        return []
    values = _as_names(_different(table, column), _names_of(feature))
    there = [value for value in values if value is not None]
    if kind in ("text", "class"):
        return values * (len(values) > 1 and _are_parts([str(value).lower() for value in there], called, plain))
    whole = all(value == round(value) for value in there if math.isfinite(value))
    return values * (1 < len(values) <= MOST_NUMBERS and whole and (called or set(there) <= {0, 1}))


def _are_parts(texts: Sequence[str], called: bool, plain: bool) -> bool:
    """Whether texts tell parts, in a column that is `called` as such ones are, or by nothing but such words."""
    parts = set(map(split_of, texts)) - {None}
    short = all(SHORT.fullmatch(text) or text in FLAGS for text in texts)
    return len(parts) > 1 or (called and len(parts) == 1) or (plain and short and len(texts) <= MOST_NUMBERS)


def _different(table: Any, column: str) -> list[Any]:
    """The different values of a column, in their order; none where there are many."""
    seen: dict[Any, None] = {}
    for batch in table.select_columns([column]).with_format("arrow").iter(batch_size=10 * AT_ONCE):
        seen |= dict.fromkeys(batch.column(0).unique().to_pylist())
        if len(seen) > MOST_PARTS:
            return []
    return sorted(seen, key=lambda value: (value is None, str(value)))


def _parts_of(splits: Mapping[str, Any]) -> dict[str, list[str]]:
    """The splits that could be the training part and the test part, those first that are called so and no more.

    The first that has labels is the test part: ImageNet's own test labels are all −1.
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


def _numbered(parts: Mapping[str, Any], columns: Columns, name: str) -> Numbered:
    """The labels of all parts together, numbered alike; those of parts that number the same class names otherwise are
    mapped by name."""
    train = next(iter(parts.values())).features[columns.label]
    names = _names_of(train)
    given = [_labels(split, columns.label) for split in parts.values()]
    if names or kind_of(train) == "text":
        given = [
            _as_text(labels, own) if (own := _names_of(split.features[columns.label])) != names else labels
            for labels, split in zip(given, parts.values(), strict=True)
        ]
    where = f"{name}, column {columns.label}"
    if names:
        numbered_labels = Numbered(torch.cat([numbered(labels, names, where).labels for labels in given]), names)
    else:
        numbered_labels = numbered(_joined(given), None, where)
    return numbered_labels if columns.names is None else _named_by(numbered_labels, parts, columns.names)


def _names_of(feature: Any) -> tuple[str, ...]:
    """The class names of a column of class labels; none for any other."""
    return tuple(feature.names or ()) if kind_of(feature) == "class" else ()


def _as_text(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The class names that numbers stand for; other labels as they are."""
    if not names:
        return labels
    told = [names[label] if label is not None and 0 <= label < len(names) else None for label in labels.tolist()]
    return np.array(told, dtype=object)


def _joined(parts: Sequence[np.ndarray]) -> Any:
    """All labels in a row, without making text of numbers."""
    if len({labels.dtype.kind for labels in parts}) == 1:
        return np.concatenate(parts)
    return [label for labels in parts for label in labels.tolist()]


def _named_by(numbered: Numbered, parts: Mapping[str, Any], column: str) -> Numbered:
    """The same labels, their classes named by the column of text beside them. Raises InputError where that gives one
    class two names, as parts do that were numbered each by itself."""
    texts = [text for split in parts.values() if column in split.column_names for text in _values(split, column)]
    told: dict[int, str] = {}
    for label, text in zip(numbered.labels.tolist(), texts, strict=False):
        if label == MISSING or text is None:
            continue
        if told.setdefault(label, str(text)) != str(text):
            raise InputError(
                f"Column {column} calls class {numbered.classes[label]} '{told[label]}' in one part of the data and "
                f"'{text}' in another; number the parts alike, or take the names for the labels: --data.label-column "
                f"{column}."
            )
    classes = tuple(told.get(label, name) for label, name in enumerate(numbered.classes))
    return Numbered(numbered.labels, classes, (*numbered.words, f"class names: column {column}"))


def _labels(split: Any, column: str) -> np.ndarray:
    """The labels of a split: numbers or flags where none is missing, otherwise objects."""
    table = split.select_columns([column]).with_format("arrow")[:]
    values = table.column(0)
    if values.null_count == 0 and kind_of(split.features[column]) in ("class", "int", "flag", "float"):
        return values.to_numpy()
    kept = np.empty(len(values), dtype=object)
    kept[:] = values.to_pylist()
    return kept


def _values(split: Any, column: str) -> Iterator[Any]:
    for table in split.select_columns([column]).with_format("arrow").iter(batch_size=AT_ONCE):
        yield from table.column(0).to_pylist()


def _has_labels(split: Any, columns: Columns) -> bool:
    """Whether any row has a label; −1 is none."""
    if columns.label not in split.column_names:
        return False
    labels = _labels(split, columns.label)
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
    """What was not read, and why."""
    unused = [split for split in splits if split not in used.values()]
    words = [
        f"split {split}, {_why_unused(split, splits[split].column_names, ranked, used, columns)}" for split in unused
    ]
    for part, split in used.items():
        without = torch.ones(len(splits[split]), dtype=torch.bool)
        without[rows[part]] = False
        if bool(without.any()):
            named = ", ".join(map(str, without.nonzero().squeeze(1)[:NAMED].tolist()))
            words.append(f"{int(without.sum())} images of split {split} without a label (such as rows {named})")
    return tuple(words)


def _why_unused(
    split: str,
    names: Sequence[str],
    ranked: Mapping[str, Sequence[str]],
    used: Mapping[str, str],
    columns: Columns,
) -> str:
    """Test parts are tried in their order until one has labels."""
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
        read=(*parts, f"images: column {columns.image}; labels: column {columns.label}", *numbered.words),
        left_out=left_out,
        guessed=(*((rivals,) * bool(columns.rivals)), *((by_kind,) * (not columns.certain))),
    )


@dataclass(frozen=True)
class _Pictures:
    """The column of pictures of a split."""

    split: Any
    column: str
    opened: Opened

    def read(self, rows: list[int]) -> list[bytes | np.ndarray]:
        """Some pictures, as encoded bytes or as an array of what their lists hold; an empty cell gives no bytes, which
        are then refused with the row's name."""
        cells = self.split.select_columns([self.column]).with_format("arrow")[rows].column(0)
        return [self._picture(cell) for cell in cells]

    def _picture(self, cell: Any) -> bytes | np.ndarray:
        import pyarrow

        value = cell.value if isinstance(cell, pyarrow.ExtensionScalar) else cell
        if isinstance(value, pyarrow.ListScalar):
            return b"" if value.values is None else _array(value.values)
        plain = value.as_py()
        if isinstance(plain, Mapping):
            plain = plain.get("bytes") or plain.get("path")
        return self.opened(plain) if isinstance(plain, str) else plain or b""


def _array(values: Any) -> np.ndarray:
    """Nested lists as an array; one that is ragged, or has holes, has no shape and is refused by that."""
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
    """A picture anywhere, by its path. Raises InputError for what is no regular file."""
    if not os.path.isfile(path):
        raise InputError(f"A cell names the picture '{path}', which is no file; check the path.")
    return file_bytes(Path(path))


def hub_file(path: str) -> bytes:
    """A picture in the caches of the hub's libraries, by its path. Raises InputError for any other file."""
    from datasets import config
    from huggingface_hub import constants

    roots = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE)
    true = os.path.realpath(path)
    if not any(Path(true).is_relative_to(os.path.realpath(root)) for root in roots) or not os.path.isfile(true):
        raise InputError(
            f"A cell names the picture '{path}', which is no file of the Hugging Face caches, and no other is read; "
            "give a data set that holds the bytes of its pictures."
        )
    return file_bytes(Path(true))


def file_beside(folder: Path, known: Mapping[str, Path]) -> Opened:
    """Reads the picture files that cells of a parquet file in `folder` name, among the `known` ones by their true
    paths, and no others."""

    def opened(path: str) -> bytes:
        for name in (path, path.replace("\\", "/")):
            place = folder / name
            known_file = known.get(os.path.realpath(place)) if "\0" not in name else None
            if known_file is not None:
                return file_bytes(known_file)
        raise InputError(
            f"A cell names the picture '{path}', which is no file in {folder} or below it; paths in a table are looked "
            "for beside it and nowhere else."
        )

    return opened


def prepared_files(splits: Mapping[str, Any]) -> FileSet:
    """The prepared files that hold the train and test parts, none when they lie in memory."""
    parts = [split for ranked in _parts_of(splits).values() for split in ranked]
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
        reason = in_one_line(error, 300)
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


@dataclass(frozen=True)
class ParquetFolder:
    """The parquet files of a folder by part, and the picture files beside them that their cells may name, by their true
    paths."""

    name: str
    folder: Path
    parts: Mapping[str, Sequence[Path]]
    beside: Mapping[str, Path]
    unread: Sequence[Path]
    """Parquet files that are hidden, or belong to no part."""

    def files(self) -> FileSet:
        """Everything that decides what is read."""
        tables = [path for paths in self.parts.values() for path in paths]
        return FileSet(sorted({*tables, *self.beside.values()}), self.folder)


def parquet_folder(folder: Path, paths: Sequence[Path], image_column: str | None = None) -> ParquetFolder:
    """What is read of a folder that holds these parquet files. Raises InputError as `split_files` does, and where none
    of them can be meant."""
    regular = [path for path in paths if path.is_file()]
    if not regular:
        raise InputError(f"{paths[0]} is no regular file, so {folder} holds no parquet files; name another folder.")
    parts = split_files(folder, regular)
    if not parts:
        raise InputError(f"All parquet files of {folder} are hidden ({paths[0].relative_to(folder)}); rename them.")
    tables = [path for its in parts.values() for path in its]
    unread = [path for path in paths if path not in set(tables)]
    return ParquetFolder(text_of(folder.resolve().name), folder, parts, pictures_beside(tables, image_column), unread)


def parquet_file(path: Path, image_column: str | None = None) -> ParquetFolder:
    """A single table, whatever its name says; a column of part names may divide it."""
    beside = pictures_beside([path], image_column)
    return ParquetFolder(text_of(path.stem), path.parent, {"train": [path]}, beside, ())


@contextmanager
def from_parquet(given: ParquetFolder, image_column: str | None, label_column: str | None) -> Iterator[Source]:
    """The pictures in a folder's parquet files, in the hub's layout, for as long as the block lasts; no network is
    used."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="parquet-", ignore_cleanup_errors=True) as place:
        splits = {part: copied(files, Path(place) / f"{part}.arrow") for part, files in given.parts.items()}
        beside = {part: file_beside(files[0].parent, given.beside) for part, files in given.parts.items()}
        source = table_source(given.name, splits, given.files(), image_column, label_column, beside)
        unread = (f"parquet files that belong to no part: {some_of(given.unread, given.folder)}",) * bool(given.unread)
        said = with_files(source.summary, given.parts, given.folder)
        yield replace(source, summary=said + Summary(left_out=unread))


def with_files(summary: Summary, parts: Mapping[str, Sequence[Path]], folder: Path) -> Summary:
    """The summary of the splits, and which files those are that are read."""
    said = " ".join(summary.read)
    used = {part: paths for part, paths in parts.items() if f"part: split {part}" in said}
    return summary + Summary(tuple(f"split {part}: {some_of(paths, folder)}" for part, paths in used.items()))


def some_of(paths: Sequence[Path], folder: Path) -> str:
    """The paths of the first few from the folder on, for a summary."""
    named = ", ".join(path.relative_to(folder).as_posix() for path in paths[:NAMED])
    return named + f" and {len(paths) - NAMED} more" * (len(paths) > NAMED)


def _by_split(splits: Any) -> Mapping[str, Any]:
    return splits if isinstance(splits, Mapping) else {"train": splits}
