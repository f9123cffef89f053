"""Labels of pictures from a table next to them: CSV, TSV or JSON lines, such as the tables of Kaggle."""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from ..runtime.errors import InputError, unknown
from ..runtime.files import parse_json
from ..runtime.text import many
from .columns import ONES, check_one_hot, one_hot, rank_of
from .dataset import Source, Summary
from .decoding import file_bytes
from .digests import FileSet
from .hub import PART_COLUMNS, table_source, tells_parts, with_files
from .listing import EXAMPLE, NAMED, WNID, Listing, Walked, is_picture, some, text_of
from .parquet import SHARD, part_of, split_files
from .picture_names import FolderIndex, PictureIndex, file_name
from .splits import WORDS, are_part_words, split_of

ENDINGS = (".csv", ".tsv", ".jsonl")
TAB, OTHERS = "\t", ",;|"
"""Delimiters: a tab if the first line has one, otherwise the most frequent of the others in it."""
SEPARATOR = re.compile(r"sep=(.)\s*")
"""A first line written by Excel that declares the delimiter."""
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "#N/A", "<NA>")
"""Values that mean a missing value. 'na' and 'Nan' may be classes."""
NONE = "None"
"""A missing value in columns of numbers only: in other columns it may be a class."""
UNREAD = (OSError, ValueError, csv.Error, RecursionError)
"""Errors raised while reading a file that is not a text table."""
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""The first bytes of a file saved by Excel as Unicode text."""
CELL = re.compile(r"[,;|\t\0]")
"""Separators between the values of a line, for any kind of table."""
MOST_NUMBERED = 4
"""Maximum number of columns whose values match names of pictures without endings; if there are more, none of them is
taken for the picture column."""
MOST_BESIDE = 16
"""Most folders beside one of pictures in which tables are looked for."""
LOOKED_AT = 16
"""Number of rows used to find the columns that may name pictures."""
NUMBERS = (
    ("int64", re.compile(r"0|-?[1-9][0-9]{0,17}")),
    ("float64", re.compile(r"(0|-?[1-9][0-9]{0,14})(\.0+)?")),
    ("float64", re.compile(r"-?[0-9]+\.[0-9]+")),
)
"""Column types and the format that every value must have: '007' is not a number, and a column with both 1 and 1.5 is
text."""
HEADLESS = ("image", "label")
"""Column names of a table with two columns and no header row, besides one of words for parts."""
PART_COLUMN = PART_COLUMNS[0]
Cells = dict[str, list[str | None]]
"""The values of a table by column; None for a missing value."""


@dataclass(frozen=True)
class LabelTables:
    """The tables of a folder by part, and the pictures below it by their paths relative to the folder, as text."""

    name: str
    folder: Path
    parts: Mapping[str, Sequence[Path]]
    rows: Mapping[str, Cells]
    """Rows of each part; the column `image` holds paths of pictures, or text that matches no picture."""
    image: str
    pictures: Mapping[str, Path]
    guessed: Sequence[str]
    lists: tuple[tuple[str, str], ...] = ()
    """Part and path of the lists that divide the rows, if lists do."""
    list_files: tuple[Path, ...] = ()
    unlisted: frozenset[str] = frozenset()
    """Pictures of the rows that these lists put into no part."""
    notes: Summary = field(default_factory=Summary)
    """What lists beside the tables tell of the parts."""
    by_folder: bool = False
    """Whether the tables name folders, whose pictures have their labels."""

    def used_files(self) -> set[Path]:
        """The tables, and the lists that divide their rows."""
        return {*(path for paths in self.parts.values() for path in paths), *self.list_files}

    def files(self) -> FileSet:
        """All files that determine the content of the data set."""
        return FileSet(sorted({*self.used_files(), *self.pictures.values()}), self.folder)

    def tells_parts(self, label_column: str | None) -> bool:
        """Whether the names of the tables, a column or the folders of the pictures tell the parts."""
        return len(self.rows) > 1 or any(
            tells_parts(split, self.image, label_column) for split in self._splits().values()
        )

    def left_out(self, listing: Listing) -> tuple[str, ...]:
        """Notes on pictures that no row names, on tables that are not read, and on all other files."""
        walked, used = listing.walk(self.folder), self.used_files()
        named = {*self.unlisted, *(name for rows in self.rows.values() for name in rows[self.image])}
        kinds = {
            ("picture that no row names", "pictures that no row names"): [
                path for name, path in self.pictures.items() if name not in named
            ],
            ("table that is not read", "tables that are not read"): [
                path for path in walked.others if is_table(path) and path not in used
            ],
        }
        others = [path for path in walked.others if not is_table(path) and path not in used]
        other_notes = Walked([], others, walked.hidden, walked.special, walked.repeated, walked.written).left_out()
        notes = (f"{len(paths)} {kind[len(paths) > 1]} ({some(paths)})" for kind, paths in kinds.items() if paths)
        return (*notes, *other_notes)

    @contextmanager
    def opened(self, label_column: str | None) -> Iterator[Source]:
        """Context manager that yields the pictures named in the tables. Raises InputError as `table_source` does, and
        for a picture that does not exist."""
        splits = self._splits()
        picture_readers = dict.fromkeys(splits, self._read_picture)
        source = table_source(self.name, splits, self.files(), self.image, label_column, picture_readers)
        summary = with_files(source.summary, self.parts, self.folder)
        yield replace(source, summary=summary + Summary(guessed=tuple(self.guessed)))

    def _splits(self) -> dict[str, Any]:
        """The rows of each part as a Hugging Face data set."""
        import datasets
        import pyarrow

        kinds = _column_types(self.rows.values())
        return {
            part: datasets.Dataset(
                pyarrow.table({name: _typed_array(values, kinds[name]) for name, values in rows.items()})
            )
            for part, rows in self.rows.items()
        }

    def _read_picture(self, name: str) -> bytes:
        if name not in self.pictures:
            raise InputError(
                f"A row names the picture '{name}', which is no file in {text_of(self.folder)} or below it; add the "
                "picture, or take the row out."
            )
        return file_bytes(self.pictures[name])


def _column_types(parts: Iterable[Cells]) -> dict[str, str]:
    """The type of every column over all parts: 'int64' or 'float64' if every value has the format of such a number and
    converts without loss, otherwise 'string'."""
    texts: dict[str, set[str | None]] = {}
    for rows in parts:
        for name, values in rows.items():
            texts.setdefault(name, set()).update(values)
    return {name: _type_of({text for text in values if text not in (None, NONE)}) for name, values in texts.items()}


def _typed_array(texts: Sequence[str | None], kind: str) -> Any:
    """The values of a column as an Arrow array of type `kind`."""
    import pyarrow

    if kind != "string":
        texts = [None if text == NONE else text for text in texts]
    return pyarrow.array(texts, "string").cast(kind)


def _type_of(texts: set[str]) -> str:
    fitting = (kind for kind, written in NUMBERS if texts and all(map(written.fullmatch, texts)))
    return next(fitting, "string")


def is_table(path: Path) -> bool:
    """Whether a file has the ending of a text table."""
    return path.suffix.lower() in ENDINGS


def label_tables(folder: Path, listing: Listing, image: str | None, label: str | None) -> LabelTables | None:
    """The tables in a folder of pictures with a column that names the pictures; None if there are none.

    A table names a picture by its path relative to the table's folder or to `folder`, or by its file name if that is
    unique; by the file name without ending if no column holds names with endings. Where a column is requested, tables
    of folders count if there is no other. Raises InputError if a name matches several pictures, if a picture is in
    several rows, and if the table or the column is ambiguous.
    """
    walked = listing.walk(folder)
    files = [path for path in walked.others if is_table(path) and not EXAMPLE.search(path.stem)]
    index = PictureIndex(folder, walked.pictures)
    tables = _find_tables(files, index, image, label)
    if tables is None and (image, label) != (None, None):
        named = [file for file in files if _names_folders(file, index, image, label)]
        tables = _find_tables(named, index, image, label, by_folder=True)
    if tables is not None:
        _check_training_table(tables)
    return tables


def _check_training_table(tables: LabelTables) -> None:
    """Raise InputError if the only table is named as a test or validation part, and neither a column nor the folders of
    its pictures tell that it holds training images too."""
    files, rows = tables.parts.get("train", ()), tables.rows.get("train", {tables.image: []})
    is_divided = any(column.lower() in PART_COLUMNS for column in rows)
    folders = {part for name in rows[tables.image] if name for part in PurePosixPath(name).parts[:-1]}
    if not files or len(tables.parts) > 1 or is_divided or "train" in {*map(split_of, folders)}:
        return
    if {part_of(file.relative_to(tables.folder)) for file in files} <= {"test", "validation"}:
        raise InputError(
            f"{text_of(tables.folder)} holds labels of the test part only ({text_of(files[0].name)}); add a table of "
            f"training images, or take this one for training with --data {text_of(files[0])}."
        )


def label_table(path: Path, listing: Listing, image: str | None, label: str | None) -> LabelTables | None:
    """One table with the pictures below its folder, or below the folder above if its own has none; None if no column
    names them or folders of them."""
    index = PictureIndex(path.parent, listing.walk(path.parent).pictures)
    above = Path(os.path.abspath(path)).parent.parent
    if not index.paths and above.name and _may_label(path):
        with suppress(InputError):  # unreadable folders, which may have nothing to do with the table
            index, path = PictureIndex(above, listing.walk(above).pictures), Path(os.path.abspath(path))
    return _find_tables([path], index, image, label, _names_folders(path, index, image, label))


def _may_label(file: Path) -> bool:
    """Whether the first rows of a table have a column of names of picture files, or one called like a label."""
    with suppress(*UNREAD):
        sample, _ = _read_cells(file, PictureIndex(file.parent, ()), frozenset(), LOOKED_AT)
        return any(rank_of(name) or _have_endings(values) for name, values in sample.items())
    return False


def tables_of(folder: Path, listing: Listing) -> list[Path]:
    """The tables beside a folder, or in another folder beside it, that name its pictures."""
    own, found = Path(os.path.abspath(folder)), list[Path]()
    with suppress(InputError):
        index = PictureIndex(own.parent, listing.walk(own).pictures)
        for place in (own.parent, *listing.entries(own.parent).folders[:MOST_BESIDE]):
            files = [path for path in listing.entries(place).others if is_table(path) and not EXAMPLE.search(path.stem)]
            found += [path for path in files if _names_pictures(path, index, None, None)]
    return found


def other_classes(folder: Path, listing: Listing, source: Source) -> tuple[str, ...]:
    """Notes on tables that assign other classes to the pictures than their folders do (regardless of the names of the
    classes), that define a part which the folders do not have, or that label further pictures."""
    classes = {text_of(subfolder): label for _, label, subfolder in source.places}
    if all(WNID.fullmatch(PurePosixPath(subfolder).name) for subfolder in classes):
        return ()
    walked = listing.walk(folder)
    files = [path for path in walked.others if is_table(path) and not EXAMPLE.search(path.stem)]
    index = PictureIndex(folder, walked.pictures if files else ())
    notes = [note for file in files if (note := _note_on_table(file, index, classes, "test" in source.labels))]
    return tuple(notes[:NAMED])


def _note_on_table(file: Path, index: PictureIndex, classes: Mapping[str, int], has_test: bool) -> str:
    """A note on the content of a table that is ignored because the folders define the classes; '' if nothing is
    ignored."""
    name = text_of(file.name)
    if _names_folders(file, index, None, None):
        return _note_on_folders(file, index, classes)
    try:
        table = _Table.read(file, index, None, None)
    except _UnreadableTableError as error:
        reason = str(error).split(";")[0]
        return f"folders as the classes, not the labels in {name}, which could not be read ({reason})"
    except _FaultyTableError as error:
        if not error.names_files:  # a table of other data
            return ""
        reason = str(error).split(";")[0]
        return f"folders as the classes, not the labels in {name}, which could not be used ({reason})"
    labels = {} if table is None else table.labels()
    if table is None or not labels:
        return ""
    folder_labels = _labels_by_folder(table, classes)
    column, names_test_part = next(iter(labels)), split_of(file.stem) in ("test", "validation")
    advice = f"--data.label-column {column} reads it"
    if folder_labels.count(None) == len(folder_labels):
        note = f"class folders alone, not the pictures that {name} names elsewhere ({advice})"
        return note * (names_test_part and table.has_label_column)
    if any(_same_partition(folder_labels, values) for values in labels.values()):
        note = f"a share of every class as the test part, not that of {name} ({advice})"
        return note * (names_test_part and not has_test)
    label_values = sorted({text for text in labels[column] if text is not None})
    examples = ", ".join(label_values[:NAMED]) + ", …" * (len(label_values) > NAMED)
    if not table.has_label_column:
        advice = "write its columns of zeros and ones as one of labels, and name it with --data"
    elif _is_read_by_name(file, [index.paths[path] for path in table.picture_names & index.paths.keys()]):
        advice = f"--data {text_of(file)} reads that"
    return f"folders as the classes, not the labels in {name} ({examples}; {advice})"


def _note_on_folders(file: Path, index: PictureIndex, classes: Mapping[str, int]) -> str:
    """A note on a table that assigns fewer labels to the class folders than there are, such as those of patients; ''
    for any other, such as one of their names."""
    table = None
    with suppress(InputError):
        table = _Table.read(file, index.folders, None, None)
    if table is None or not _is_read_by_name(file, index.paths.values()):
        return ""
    folder_labels = _labels_by_folder(table, classes)
    columns = table.labels() or {name: values for name, values in table.cells.items() if name != table.image}
    for column, values in columns.items():
        pairs = {pair for pair in zip(folder_labels, values, strict=True) if None not in pair}
        labels = sorted({label for _, label in pairs if label is not None})
        if 1 < len(labels) <= len(pairs) // 2 and len({folder for folder, _ in pairs}) == len(pairs):
            examples = ", ".join(labels[:NAMED]) + ", …" * (len(labels) > NAMED)
            flag = f" --data.label-column {column}" * (not table.has_label_column)
            return (
                f"{len(classes)} folders as the classes, not the {len(labels)} labels that {text_of(file.name)} gives "
                f"them ({examples}; --data {text_of(file)}{flag} reads those for all pictures of each folder)"
            )
    return ""


def _labels_by_folder(table: _Table, classes: Mapping[str, int]) -> list[int | None]:
    """The class of the folder of each picture in a table; None outside class folders."""
    return [
        next((classes[str(parent)] for parent in PurePosixPath(path or "").parents if str(parent) in classes), None)
        for path in table.cells[table.image]
    ]


def _same_partition(folder_labels: Sequence[int | None], labels: Sequence[str | None]) -> bool:
    """Whether labels and folders divide the pictures into the same groups."""
    pairs = {pair for pair in zip(folder_labels, labels, strict=True) if None not in pair}
    return len({one for one, _ in pairs}) == len({other for _, other in pairs}) == len(pairs)


def _names_pictures(file: Path, index: PictureIndex, image: str | None, label: str | None) -> bool:
    """Whether a column in the first rows of a table names pictures."""
    with suppress(*UNREAD):
        sample, _ = _read_cells(file, index, {image, label} - {None}, LOOKED_AT)
        columns = [image] if image is not None else _candidate_columns(sample, index, file, label)
        return any(any(_matches(sample.get(name, ()), index, file)) for name in columns)
    return False


def _names_folders(file: Path, index: PictureIndex, image: str | None, label: str | None) -> bool:
    """Whether a column of a table names folders of pictures, and none names pictures."""
    return not _names_pictures(file, index, image, label) and _names_pictures(file, index.folders, image, label)


def _is_read_by_name(file: Path, pictures: Iterable[Path]) -> bool:
    """Whether all these pictures are read if the user names the table."""
    own = [path.is_relative_to(file.parent) for path in pictures]
    return all(own) or (not any(own) and all(path.is_relative_to(file.parent.parent) for path in pictures))


def _find_tables(
    files: Sequence[Path], index: PictureIndex, image: str | None, label: str | None, by_folder: bool = False
) -> LabelTables | None:
    folder, used_index = index.folder, index.folders if by_folder else index
    tables = _without_lists(_read_tables(files if index.paths else (), used_index, image, label))
    if not tables:
        return None
    columns = {table.image: file.name for file, table in tables.items()}
    if len(columns) > 1:
        pairs = ", ".join(f"{column} of {name}" for column, name in columns.items())
        raise InputError(
            f"The tables of {text_of(folder)} name pictures in different columns ({pairs}); name one table with --data."
        )
    parts = _tables_by_part(folder, list(tables))
    used = [file for paths in parts.values() for file in paths]
    rows = {part: _concatenate([tables[file] for file in paths]) for part, paths in parts.items()}
    _check_other_tables(folder, tables, used)
    _check_unique(rows, next(iter(columns)), used)
    return LabelTables(
        name=text_of(folder.resolve().name),
        folder=folder,
        parts=parts,
        rows=rows,
        image=next(iter(columns)),
        pictures=index.paths,
        guessed=[note for file in used for note in tables[file].guessed],
        by_folder=by_folder,
    )


def _read_tables(
    files: Sequence[Path], index: PictureIndex, image: str | None, label: str | None
) -> dict[Path, _Table]:
    """The tables among these files that name pictures. Raises InputError for a faulty table that names pictures; if
    there are other valid tables, only if it is a table of the training part or holds labels that those do not have."""
    tables, errors = dict[Path, _Table](), dict[Path, InputError]()
    for file in files:
        try:
            if (table := _Table.read(file, index, image, label)) is not None:
                tables[file] = table
        except InputError as error:
            errors[file] = error
    labelled = {name for table in tables.values() for name in table.picture_names}
    for file, error in errors.items():
        if not tables:
            raise error
        if split_of(file.stem) == "train" or (isinstance(error, _FaultyTableError) and error.picture_names - labelled):
            raise InputError(f"{str(error).rstrip('.')}; or name the table that is meant with --data.") from error
    return tables


def _without_lists(tables: Mapping[Path, _Table]) -> Mapping[Path, _Table]:
    """The tables without those that have no labels and name only pictures that others label, such as `split.csv` next
    to `labels.csv`."""
    labelled = {file: table for file, table in tables.items() if table.labels()}
    names = {name for table in labelled.values() for name in table.picture_names}
    return {file: table for file, table in tables.items() if file in labelled or table.picture_names - names}


def listed_pictures(file: Path, index: PictureIndex, with_labels: bool) -> dict[str, list[str]]:
    """The pictures of each part as a table tells them by a column of words, and names that match none; by '' those of a
    table without such a column, whose name may tell the part, if it has no labels or `with_labels` is set; none for any
    other file."""
    pictures = dict[str, list[str]]()
    with suppress(InputError):
        table = _Table.read(file, index, None, None)
        if table is not None and (with_labels or table.has_parts or not table.labels()):
            for name, part in zip(table.cells[table.image], table.parts(), strict=True):
                if name is not None and part is not None:
                    pictures.setdefault(part, []).append(name)
    return pictures


class _FaultyTableError(InputError):
    """A faulty table; `picture_names` are the pictures for which it has labels. `names_files` tells whether it names
    files of pictures in the folder, if only in another case, and not mere numbers such as those of classes."""

    def __init__(self, message: str, named: Iterable[str], names_files: bool = False) -> None:
        super().__init__(message)
        self.picture_names, self.names_files = frozenset(named), names_files


class _UnreadableTableError(_FaultyTableError):
    """A file that names pictures and labels, but cannot be parsed as a table."""


def _tables_by_part(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The tables by part. Raises InputError as `split_files` does, and if a part has several tables that are not
    numbered pieces of one."""
    parts = {"train": files} if len(files) == 1 else split_files(folder, files)
    for paths in parts.values():
        if len({SHARD.sub("", file.stem) for file in paths}) > 1:
            raise _several_tables_error(folder, paths)
    return parts


def _several_tables_error(folder: Path, files: Sequence[Path]) -> InputError:
    names = [text_of(file.relative_to(folder)) for file in files]
    return InputError(
        f"{text_of(folder)} has several tables that name pictures of it ({', '.join(names)}); name the one with the "
        f"labels, --data {text_of(files[0])}, or move the others elsewhere."
    )


def _check_other_tables(folder: Path, tables: Mapping[Path, _Table], used: Sequence[Path]) -> None:
    """Raise InputError if an unused table labels some pictures of the used tables and also labels further pictures or
    contradicts a label, such as `labels.csv` next to `train_subset.csv`."""
    owners = {name: file for file in used for name in tables[file].picture_names}
    labels = {name: label for file in used for name, label in tables[file].pairs()}
    for file in [file for file in tables if file not in used and tables[file].has_label_column]:
        shared = sorted(tables[file].picture_names & owners.keys())
        contradicts = any(labels.get(name, label) != label for name, label in tables[file].pairs())
        if shared and (contradicts or tables[file].picture_names - owners.keys()):
            raise _several_tables_error(folder, [file, owners[shared[0]]])


def _concatenate(tables: Sequence[_Table]) -> Cells:
    """The rows of all tables of one part. Raises InputError if their columns differ."""
    first, *others = tables
    for other in others:
        if set(other.cells) != set(first.cells):
            raise InputError(
                f"{text_of(first.file.name)} has the columns {', '.join(first.cells)} and {text_of(other.file.name)} "
                f"has {', '.join(other.cells)}; give files with the same columns."
            )
    return {name: [text for table in tables for text in table.cells[name]] for name in first.cells}


def _check_unique(rows: Mapping[str, Cells], image: str, files: Sequence[Path]) -> None:
    """Raise InputError for a picture in several rows, because its label is then ambiguous."""
    counts = Counter(name for cells in rows.values() for name in cells[image] if name is not None)
    name, count = max(counts.items(), key=lambda each: each[1], default=("", 0))
    if count > 1:
        hint = ", or name the table that is meant with --data" * (len(files) > 1)
        raise InputError(
            f"{count} rows of {', '.join(text_of(file.name) for file in files)} name the picture '{name}'; give each "
            f"picture one row, with one label{hint}."
        )


@dataclass(frozen=True)
class _Table:
    """A table that names pictures in the column `image`, as paths relative to the folder."""

    file: Path
    cells: Cells
    image: str
    guessed: tuple[str, ...]

    @property
    def picture_names(self) -> set[str]:
        """Paths of the pictures in the table."""
        return {name for name in self.cells[self.image] if name is not None}

    @property
    def has_label_column(self) -> bool:
        """Whether a column has the name of a label column."""
        return any(rank for name, rank in _label_ranks(self.cells).items() if name != self.image)

    def pairs(self) -> Iterator[tuple[str | None, str | None]]:
        """The pictures with their labels from the first label column."""
        for values in islice(self.labels().values(), 1):
            yield from zip(self.cells[self.image], values, strict=True)

    def labels(self) -> Cells:
        """The non-empty columns with the name of a label column, by name. If there are none, one-hot columns are
        combined into one column with the name of the first."""
        others, ranks = (
            {name: values for name, values in self.cells.items() if name != self.image},
            _label_ranks(self.cells),
        )
        if named := {name: values for name, values in others.items() if ranks[name] and any(values)}:
            return named
        names = one_hot(others, others.__getitem__)
        if len(names) < 2:
            return {}
        rows = zip(*(others[name] for name in names), strict=True)
        return {names[0]: [next(name for name, value in zip(names, row, strict=True) if value in ONES) for row in rows]}

    @property
    def has_parts(self) -> bool:
        """Whether a column of words tells the parts."""
        return "" not in self.parts()

    def parts(self) -> Sequence[str | None]:
        """The part of each row by the words in a column, None if it has none; '' without such a column."""
        for name, values in self.cells.items():
            if name != self.image and are_part_words(filter(None, values)):
                return [WORDS.get(value.lower()) if value else None for value in values]
        return [""] * len(self.cells[self.image])

    @staticmethod
    def read(file: Path, index: PictureIndex, image: str | None, label: str | None) -> _Table | None:
        """The table in a file; None if no column names pictures, and for a file that is not a table. Raises InputError
        if columns name different pictures or no existing picture, if a name matches several pictures, if a label
        contains a line break, and for a file that names pictures but cannot be read."""
        requested = {image, label} - {None}
        try:
            sample, _ = _read_cells(file, index, requested, LOOKED_AT)
        except UNREAD as error:
            _check_unreadable(file, index, error)
            return None
        if image is None and not _candidate_columns(sample, index, file, label):
            return None
        try:
            cells, headless = _read_cells(file, index, requested)
        except UNREAD as error:
            message = f"{text_of(file)} cannot be read to its end ({error}); write it again."
            raise _UnreadableTableError(message, _pictures_in_text(file, index)) from error
        if image is not None and image not in cells:
            raise unknown("image column", image, cells, context=f"in {text_of(file)}")
        ranks = _label_ranks(cells)
        best_rank = max(ranks.values())
        labels = [name for name in cells if ranks[name] == best_rank > 0] if label is None else [label]
        label_columns = {name: values for name, values in cells.items() if name in labels}
        columns = [image] if image is not None else _candidate_columns(cells, index, file, label)
        matches = {name: _matches(cells[name], index, file) for name in columns}
        try:
            _check_labels(file, label_columns)
            _check_quotes(file, cells, index)
            chosen = _picture_column(matches, cells, file, index)
            if label is None:
                check_one_hot(labels, (name for name in cells if name != chosen), cells.__getitem__, text_of(file))
            table = _Table.of(file, cells, chosen, matches[chosen], headless)
            return table.of_contents(index.contents) if isinstance(index, FolderIndex) else table
        except InputError as error:
            pictures = {path for values in matches.values() for paths in values for path in paths}
            names_files = any(_names_files(cells[name], pictures, index) for name in columns) and bool(label_columns)
            raise _FaultyTableError(str(error), pictures if label_columns else (), names_files) from error

    @staticmethod
    def of(file: Path, cells: Cells, image: str, matches: Sequence[Sequence[str]], headless: bool) -> _Table:
        """The table with the paths of its pictures, listed in `matches` for each row, and notes on guesses."""
        name, texts = text_of(file.name), cells[image]
        paths = [_single_path(file, *each) for each in zip(texts, matches, strict=True)]
        notes = {
            f"{name} has no row of column names, and its first row is read": headless,
            f"the pictures are column {image} of {name}, which has names without endings": not _have_endings(texts),
        }
        return _Table(file, {**cells, image: paths}, image, tuple(note for note, holds in notes.items() if holds))

    def of_contents(self, contents: Mapping[str, Sequence[str]]) -> _Table:
        """The table with a row for each picture in a folder, in place of one for the folder."""
        folders, file = self.cells[self.image], text_of(self.file.name)
        rows = [(row, name) for row, folder in enumerate(folders) for name in contents.get(folder or "", ())]
        cells = {column: [values[row] for row, _ in rows] for column, values in self.cells.items()}
        absent = [folder or "no value" for folder in folders if folder not in contents]
        notes = (
            f"column {self.image} of {file} names folders, whose pictures all have the label of their row",
            *(f"{many(len(absent), 'row')} of {file} that name no folder ({', '.join(absent[:NAMED])})",)
            * bool(absent),
        )
        others = (note for note in self.guessed if "names without endings" not in note)
        return _Table(self.file, {**cells, self.image: [name for _, name in rows]}, self.image, (*others, *notes))


def _check_unreadable(file: Path, index: PictureIndex, error: Exception) -> None:
    """Raise InputError for a file that is not a valid table but names pictures and labels, which would be ignored."""
    first = next((line for line in _split_lines(file, LOOKED_AT) if any(line)), [])
    paired = len(first) == len(HEADLESS) and any(index.matches(cell, file) for cell in first)
    named = _pictures_in_text(file, index) if paired or any(map(rank_of, first)) else set()
    if not named:
        return
    reason, advice = f"{error}", "correct it"
    if isinstance(error, UnicodeError):
        reason, advice = "it is not in UTF-8", "save it as CSV UTF-8"
    raise _UnreadableTableError(
        f"{text_of(file)} names pictures, but cannot be read as a table ({reason}); {advice}, or move it elsewhere.",
        named,
    ) from error


def _pictures_in_text(file: Path, index: PictureIndex) -> set[str]:
    """The pictures named by any text between separators, in a file that is not a valid table."""
    cells = {cell for line in _split_lines(file) for cell in line if cell}
    return {path for cell in cells for path in index.matches(cell, file)}


def _split_lines(file: Path, count: int | None = None) -> Iterator[list[str]]:
    """The lines of a file, or the first `count`, split at separators regardless of encoding; none if the file cannot be
    read."""
    with suppress(OSError), file.open(encoding="latin-1") as opened:
        for line in islice(opened, count):
            yield [cell.strip(" \"'\n") for cell in CELL.split(line)]


def _label_ranks(cells: Cells) -> dict[str, int]:
    """The rank of each column as a label column by its name; a column y next to numbers x is a coordinate."""
    coordinates = {name for name in cells if name.lower() == "y" and any(map(_is_coordinate, cells, cells.values()))}
    return {name: 0 if name in coordinates else rank_of(name) for name in cells}


def _is_coordinate(name: str, texts: Sequence[str | None]) -> bool:
    return name.lower() == "x" and _type_of({text for text in texts if text is not None}) != "string"


def _candidate_columns(cells: Cells, index: PictureIndex, file: Path, label: str | None) -> list[str]:
    """The columns that may name the pictures: those with file names of pictures, whether these exist or not, else those
    in which most values are names of pictures without their endings."""
    ranks = _label_ranks(cells)
    others = {name: values for name, values in cells.items() if name != label and not ranks[name]}
    if with_endings := [name for name, values in others.items() if _have_endings(values)]:
        return with_endings
    matching = [
        name for name, values in others.items() if 2 * sum(map(bool, _matches(values, index, file))) > len(values)
    ]
    return matching * (len(matching) <= MOST_NUMBERED)


def _have_endings(texts: Sequence[str | None]) -> bool:
    """Whether most values have the ending of a picture file."""
    present = [text for text in texts if text is not None]
    return 2 * sum(map(is_picture, map(file_name, present))) > len(present)


def _names_files(texts: Sequence[str | None], pictures: AbstractSet[str], index: PictureIndex) -> bool:
    """Whether a column holds names of files, of which some are `pictures` or differ from a picture in case only."""
    examples = islice(filter(None, texts), LOOKED_AT)
    return _have_endings(texts) and (bool(pictures) or any(map(index.spelling_hint, examples)))


def _matches(texts: Iterable[str | None], index: PictureIndex, file: Path) -> list[list[str]]:
    return [[] if text is None else index.matches(text, file) for text in texts]


def _picture_column(matches: Mapping[str, list[list[str]]], cells: Cells, file: Path, index: PictureIndex) -> str:
    """The column that names the pictures. Raises InputError if several columns name different pictures, and if none of
    the pictures exists."""
    found = {name: paths for name, paths in matches.items() if any(paths)}
    if not found:
        example = next((text for name in matches for text in cells[name] if text is not None), "")
        raise InputError(
            f"{text_of(file)} names pictures that are not in its folder or below it, such as '{example}'"
            f"{index.spelling_hint(example)}; put them there, or correct the names."
        )
    chosen = next(iter(found))
    if any(paths != found[chosen] for paths in found.values()):
        raise InputError(
            f"{text_of(file)} has several columns that could be the image: {', '.join(found)}; name one with "
            "--data.image-column."
        )
    return chosen


def _single_path(file: Path, text: str | None, matches: Sequence[str]) -> str | None:
    """The path of the picture that a value refers to; the value itself if there is none, which reading the picture
    refuses later. Raises InputError if several pictures match."""
    if len(matches) > 1:
        raise InputError(
            f"{text_of(file)} names the picture '{text}', which may be {matches[0]} or {matches[1]}; write their paths."
        )
    return next(iter(matches), text)


def _check_labels(file: Path, labels: Cells) -> None:
    """Raise InputError for a value with a line break, which is the result of a missing quotation mark."""
    for name, texts in labels.items():
        for text in texts:
            if text is not None and "\n" in text:
                raise InputError(
                    f"Column {name} of {text_of(file)} holds a line break ({text[:40]!r}); close the quotation mark."
                )


def _check_quotes(file: Path, cells: Cells, index: PictureIndex) -> None:
    """Raise InputError for a value of a CSV file in which a further row follows a line break, which is the result of a
    missing quotation mark."""
    broken = ((name, text) for name, texts in cells.items() for text in texts if text is not None and "\n" in text)
    for name, text in broken if file.suffix.lower() != ".jsonl" else ():
        rows = (CELL.split(line) for line in text.split("\n")[1:])
        values = [value.strip(" \"'\r") for row in rows if len(row) > 1 for value in row]
        if any(index.matches(value, file) for value in values if value):
            raise InputError(
                f"Column {name} of {text_of(file)} holds further rows after a line break ({text[:40]!r}); close the "
                "quotation mark."
            )


def _read_cells(
    file: Path, index: PictureIndex, requested: AbstractSet[str | None], rows: int | None = None
) -> tuple[Cells, bool]:
    """The values of a table, or of its first `rows`, and whether the header row is missing. Raises one of `UNREAD` for
    a file that is not a table."""
    with file.open("rb") as binary:
        encoding = "utf-16" if binary.read(2) in UTF_16 else "utf-8-sig"
    with file.open(encoding=encoding, newline="") as opened:
        if file.suffix.lower() == ".jsonl":
            return _parse_json_lines(islice(filter(str.strip, opened), rows)), False
        reader = csv.reader(opened, delimiter=_delimiter(opened), skipinitialspace=True)
        stripped = ([value.strip() for value in row] for row in reader)
        header, *body = islice(filter(any, stripped), None if rows is None else rows + 1)
    headless = not (requested and requested <= {*header}) and _is_data_row(header, index, file)
    if headless:
        body, header = [header, *body], _column_names([header, *body], requested, index, file)
    names = [name or f"column {number}" for number, name in enumerate(header, 1)]
    if len({*names}) < len(names):
        raise ValueError("two of its columns have one name")
    _check_names(names)
    if any(any(row[len(names) :]) for row in body):
        raise ValueError("a row has more values than the first")
    padded = [[*row, *[""] * len(names)] for row in body]
    return {name: [_none_if_missing(row[number]) for row in padded] for number, name in enumerate(names)}, headless


def _delimiter(opened: TextIO) -> str:
    """The delimiter of a file. Leaves the file position after a line that declares the delimiter, else at the start."""
    line = next(filter(str.strip, opened), "")
    if match := SEPARATOR.fullmatch(line):
        return match[1]
    opened.seek(0)
    return TAB if TAB in line else max(OTHERS, key=line.count)


def _is_data_row(first: Sequence[str], index: PictureIndex, file: Path) -> bool:
    """Whether the first row of a table is a data row, not a header: it names a picture, and no label column."""
    matching = [value for value in first if index.matches(value, file)]
    return any(is_picture(file_name(value)) for value in matching) or (bool(matching) and not any(map(rank_of, first)))


def _column_names(
    rows: Sequence[Sequence[str]], requested: AbstractSet[str | None], index: PictureIndex, file: Path
) -> list[str]:
    """Names for the columns of a table without a header row: their numbers if these are requested, or if it is not one
    of pictures and labels, and possibly parts."""
    columns = [[row[number] if number < len(row) else "" for row in rows] for number in range(len(rows[0]))]
    numbered = [f"column {number}" for number in range(1, len(columns) + 1)]
    names = [HEADLESS[not index.matches(values[0], file)] for values in columns]
    if len(names) > len(HEADLESS):
        names = [PART_COLUMN if are_part_words(each) else name for name, each in zip(names, columns, strict=True)]
    usual = sorted(names) in (sorted(HEADLESS), sorted((*HEADLESS, PART_COLUMN)))
    return names if usual and not requested & {*numbered} else numbered


def _parse_json_lines(lines: Iterable[str]) -> Cells:
    """The values of JSON lines. Nested objects become missing values, a list of one value becomes that value, and
    longer lists stay lists, which are refused as labels."""
    rows = [parse_json(line) for line in lines]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError("there are lines that are no objects")
    rows = [{_to_text(name): value for name, value in row.items()} for row in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    _check_names(names)
    return {name: [_none_if_missing(_to_text(row.get(name))) for row in rows] for name in names}


def _check_names(names: Iterable[str]) -> None:
    """Raise ValueError for a name of a column with a zero byte, where `datasets` would cut it."""
    if any("\0" in name for name in names):
        raise ValueError("the name of a column has a zero byte")


def _to_text(value: Any) -> str:
    if isinstance(value, list):
        texts = [*map(_to_text, value)]
        return str(texts) if len(texts) > 1 else "".join(texts)
    text = "" if value is None or isinstance(value, dict) else str(value)
    return text.encode("utf-8", "backslashreplace").decode()


def _none_if_missing(text: str) -> str | None:
    return None if text in MISSING else text
