"""Labels of pictures in a table of text beside them: CSV, TSV or JSON lines, as people and Kaggle write them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from ..runtime.errors import InputError, unknown
from .columns import label_columns
from .dataset import Source, Summary
from .digests import FileSet
from .hub import file_beside, table_source, with_files
from .listing import NAMED, Listing, some, text_of
from .parquet import SHARD, split_files
from .splits import split_of

ENDINGS = (".csv", ".tsv", ".jsonl")
DELIMITERS = ",;\t|"
LOOKED_AT = 16
"""Rows that tell which column names the pictures."""
NUMBERS = {"int64": re.compile(r"0|-?[1-9]\d{0,17}"), "float64": re.compile(r"-?\d+\.\d+")}
"""How numbers are written, by their kind."""
ABSOLUTE = re.compile(r"[A-Za-z]:|[/\\]")
"""How a path from the root begins."""
HEADLESS = ("image", "label")
"""What the columns of a table of two are called whose first row is a row like the others."""


@dataclass(frozen=True)
class LabelTables:
    """The tables of a folder by part, each as an Arrow table whose column `image` holds paths from the folder on."""

    name: str
    folder: Path
    parts: Mapping[str, Sequence[Path]]
    rows: Mapping[str, Any]
    image: str
    pictures: Sequence[Path]
    unread: Sequence[Path]
    """Tables that name no pictures, or belong to no part."""
    headless: Sequence[Path]
    """Tables without a row of column names."""

    def files(self) -> FileSet:
        """Everything that decides what is read."""
        tables = [path for paths in self.parts.values() for path in paths]
        return FileSet(sorted({*tables, *self.pictures}), self.folder)

    def left_out(self) -> tuple[str, ...]:
        """Sentences on pictures that no row names, and on tables that are not read."""
        named = {name for rows in self.rows.values() for name in rows.column(self.image).to_pylist()}
        unnamed = [path for path in self.pictures if path.relative_to(self.folder).as_posix() not in named]
        kinds = {
            ("picture that no table names", "pictures that no table names"): unnamed,
            ("table of no pictures, or of no part", "tables of no pictures, or of no part"): self.unread,
        }
        return tuple(f"{len(paths)} {kind[len(paths) > 1]} ({some(paths)})" for kind, paths in kinds.items() if paths)

    @contextmanager
    def opened(self, label_column: str | None) -> Iterator[Source]:
        """The pictures that the tables name, for as long as the block lasts. Raises InputError as `table_source`."""
        import datasets

        splits = {part: datasets.Dataset(rows) for part, rows in self.rows.items()}
        known = {str(path.resolve()): path for path in self.pictures}
        beside = dict.fromkeys(splits, file_beside(self.folder, known))
        source = table_source(self.name, splits, self.files(), self.image, label_column, beside)
        said = with_files(source.summary, self.parts, self.folder)
        guessed = tuple(f"{path.name} has no row of column names, and its first row is read" for path in self.headless)
        yield replace(source, summary=Summary(said.read, said.left_out, (*said.guessed, *guessed)))


def label_tables(folder: Path, listing: Listing, image: str | None, label: str | None) -> LabelTables | None:
    """The tables in a folder of pictures that name these in one column; None where there are none.

    A table names a picture by its path from the table's folder or from `folder` on, or by its name alone, with or
    without the ending, where only one picture has it. Raises InputError where a name is that of several, where the
    tables name pictures in columns of different names or one picture twice, and as `split_files`.
    """
    walked = listing.walk(folder)
    return _of(folder, [path for path in walked.others if is_table(path)], walked.pictures, image, label)


def other_classes(folder: Path, listing: Listing, classes: Sequence[str]) -> tuple[str, ...]:
    """A note where a table beside class folders tells other classes of the same pictures than the folders do."""
    if not any(map(is_table, listing.entries(folder).others)):
        return ()
    with suppress(InputError):
        tables = label_tables(folder, listing, None, None)
        if tables is not None:
            with tables.opened(None) as source:
                theirs = source.classes
            if not {*theirs} & {*classes}:
                file = tables.parts["train"][0]
                some_classes = ", ".join(theirs[:NAMED]) + ", …" * (len(theirs) > NAMED)
                return (
                    f"folders as the classes, not what {file.name} says of the pictures ({some_classes}; --data "
                    f"{text_of(file)} reads that)",
                )
    return ()


def is_table(path: Path) -> bool:
    """Whether a file is a table of text by its name."""
    return path.suffix.lower() in ENDINGS


def label_table(path: Path, listing: Listing, image: str | None, label: str | None) -> LabelTables | None:
    """One table with the pictures below its folder; None where no column names them."""
    return _of(path.parent, [path], listing.walk(path.parent).pictures, image, label)


def _of(
    folder: Path, files: Sequence[Path], pictures: Sequence[Path], image: str | None, label: str | None
) -> LabelTables | None:
    if not files or not pictures:
        return None
    known = _Pictures(folder, pictures)
    read = {file: table for file in files if (table := _Table.read(file, known, image, label)) is not None}
    if not read:
        return None
    columns = {table.image: file.name for file, table in read.items()}
    if len(columns) > 1:
        named = ", ".join(f"{column} of {name}" for column, name in columns.items())
        raise InputError(
            f"The tables of {text_of(folder)} name pictures in different columns ({named}); call them alike, or keep "
            "one table in the folder."
        )
    parts = _parts(folder, list(read))
    used = [file for its in parts.values() for file in its]
    rows = {part: _joined([read[file] for file in its]) for part, its in parts.items()}
    _check_once(rows, next(iter(columns)), used)
    return LabelTables(
        name=text_of(folder.resolve().name),
        folder=folder,
        parts=parts,
        rows=rows,
        image=next(iter(columns)),
        pictures=pictures,
        unread=[file for file in files if file not in used],
        headless=[file for file in used if read[file].headless],
    )


def _parts(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The tables by part. Raises InputError as `split_files`, and where one part has several that are no numbered
    pieces of one: of `labels.csv` and `sample_submission.csv` only one has labels."""
    parts = {"train": files} if len(files) == 1 else split_files(folder, files)
    for its in parts.values():
        if len({SHARD.sub("", file.stem) for file in its}) > 1:
            names = [file.relative_to(folder).as_posix() for file in its]
            raise InputError(
                f"{text_of(folder)} has several tables that name the same pictures ({', '.join(names)}); name the one "
                f"with the labels: --data {text_of(its[0])}"
            )
    return parts


def _check_once(rows: Mapping[str, Any], image: str, files: Sequence[Path]) -> None:
    """Raise InputError for a picture that several rows name: which label it has is then unknown."""
    counts = Counter(name for its in rows.values() for name in its.column(image).to_pylist() if name is not None)
    name, count = max(counts.items(), key=lambda each: each[1], default=("", 0))
    if count > 1:
        raise InputError(
            f"{count} rows of {', '.join(file.name for file in files)} name the picture '{name}'; give each picture "
            "one row, with one label."
        )


def _joined(tables: Sequence[_Table]) -> Any:
    """The rows of one part. Raises InputError where the tables have other columns."""
    import pyarrow

    first, *others = tables
    for other in others:
        if set(other.rows.column_names) != set(first.rows.column_names):
            raise InputError(
                f"{first.file.name} has the columns {', '.join(first.rows.column_names)} and {other.file.name} has "
                f"{', '.join(other.rows.column_names)}; give files with the same columns."
            )
    return pyarrow.concat_tables([each.rows for each in tables], promote_options="permissive")


class _Pictures:
    """Pictures by what a table may call them."""

    def __init__(self, folder: Path, pictures: Sequence[Path]) -> None:
        self.folder = folder
        self.by_path = {path.relative_to(folder).as_posix(): path for path in pictures}
        self.by_name: dict[str, list[str]] = {}
        for path in self.by_path:
            for name in {PurePosixPath(path).name, PurePosixPath(path).stem}:
                self.by_name.setdefault(name, []).append(path)

    def called(self, name: str, table: Path) -> list[str]:
        """The paths of the pictures that a cell of a table may mean: of several with that name those in a folder called
        like the table, or like its part. What a path has before the folder's own paths is ignored, and of a path on
        another machine all of its folders."""
        plain = PurePosixPath(name.strip().replace("\\", "/"))
        below = PurePosixPath(table.parent.relative_to(self.folder).as_posix())
        for start in range(len(plain.parts)):
            rest = PurePosixPath(*plain.parts[start:])
            for path in ((below / rest).as_posix(), rest.as_posix()):
                if path in self.by_path:
                    return [path]
        folders = plain.parts[:-1] if not ABSOLUTE.match(name) else ()
        alike = [path for path in self.by_name.get(plain.name, []) if _lies_in(path, folders)]
        if len(alike) > 1:
            own = {table.stem, split_of(table.stem) or table.stem}
            alike = [path for path in alike if own & {*PurePosixPath(path).parts[:-1]}] or alike
        return alike


def _lies_in(path: str, folders: tuple[str, ...]) -> bool:
    """Whether the last folders of a path are these."""
    own = PurePosixPath(path).parts[:-1]
    return own[len(own) - len(folders) :] == folders


@dataclass(frozen=True)
class _Table:
    """A table that names pictures in the column `image`, as paths from the folder on."""

    file: Path
    rows: Any
    image: str
    headless: bool

    @staticmethod
    def read(file: Path, known: _Pictures, image: str | None, label: str | None) -> _Table | None:
        """The table in a file; None where no column names pictures, and for a file that is no table. Raises InputError
        where columns name different pictures, or a name may be that of several."""
        import pyarrow

        rows, headless = _rows(file, known)
        if rows is None:
            return None
        labels = {label, *label_columns(_features(rows), "")}
        naming = {
            name: [known.called(str(text), file) if text is not None else [] for text in rows.column(name).to_pylist()]
            for name in rows.column_names
            if name == image or (name not in labels and _names_pictures(rows.column(name), known, file))
        }
        if not naming:
            return None
        if image is not None and image not in naming:
            raise unknown("image column", image, naming, where=f"in {text_of(file)}")
        chosen = image or _one_of(naming, file)
        texts = rows.column(chosen).to_pylist()
        paths = [_one_path(file, text, called) for text, called in zip(texts, naming[chosen], strict=True)]
        cells = {name: _numbers(rows.column(name)) for name in rows.column_names} | {chosen: pyarrow.array(paths)}
        return _Table(file, pyarrow.table(cells), chosen, headless)


def _one_of(naming: Mapping[str, list[list[str]]], file: Path) -> str:
    """The column that names the pictures. Raises InputError where several name different ones."""
    chosen = next(iter(naming))
    if any(cells != naming[chosen] for cells in naming.values()):
        raise InputError(
            f"{text_of(file)} has several columns that could be the image: {', '.join(naming)}; name one with "
            "--data.image-column."
        )
    return chosen


def _one_path(file: Path, text: Any, called: Sequence[str]) -> str | None:
    """The path of the picture that a cell means; the cell's own text where there is none, for whoever reads it to
    refuse. Raises InputError where it may be one of several."""
    if len(called) > 1:
        raise InputError(
            f"{text_of(file)} names the picture '{text}', which may be {called[0]} or {called[1]}; write their paths."
        )
    return next(iter(called), text if text is None else str(text))


def _features(rows: Any) -> Mapping[str, Any]:
    import datasets

    return datasets.Features.from_arrow_schema(rows.schema)


def _names_pictures(column: Any, known: _Pictures, file: Path) -> bool:
    """Whether most of the first cells of a column name pictures: not all may be there."""
    first = list(islice((text for text in column.to_pylist() if text is not None), LOOKED_AT))
    return 2 * sum(isinstance(text, str) and bool(known.called(text, file)) for text in first) > len(first)


def _rows(file: Path, known: _Pictures) -> tuple[Any, bool]:
    """The cells of a table as text, and whether it has no row of column names; None for a file that is no table."""
    import pyarrow
    from pyarrow import csv as arrow_csv
    from pyarrow import json as arrow_json

    try:
        if file.suffix.lower() == ".jsonl":
            return _as_text(arrow_json.read_json(file)), False
        with file.open(encoding="utf-8-sig", newline="") as opened:
            line = opened.readline()
        delimiter = max(DELIMITERS, key=line.count)
        header = next(csv.reader([line], delimiter=delimiter), [])
        headless = any(known.called(name, file) for name in header)
        names = _names(header, known, file) if headless else header
        rows = arrow_csv.read_csv(
            file,
            read_options=arrow_csv.ReadOptions(column_names=names, skip_rows=int(not headless)),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pyarrow.string()), strings_can_be_null=True
            ),
        )
    except (OSError, ValueError, csv.Error, pyarrow.ArrowException):
        return None, False
    if len({*names}) < len(names):
        return None, False
    return rows, headless


def _names(first: Sequence[str], known: _Pictures, file: Path) -> list[str]:
    """Names for the columns of a table whose first row is a row like the others."""
    kinds = [HEADLESS[not known.called(cell, file)] for cell in first]
    if sorted(kinds) == sorted(HEADLESS):
        return kinds
    return [f"column {number}" for number in range(1, len(first) + 1)]


def _as_text(rows: Any) -> Any:
    """The table with its whole numbers as text, as a picture may be called by one."""
    import pyarrow

    for number, field in enumerate(rows.schema):
        if pyarrow.types.is_integer(field.type):
            rows = rows.set_column(number, field.name, rows.column(number).cast(pyarrow.string()))
    return rows


def _numbers(column: Any) -> Any:
    """A column of text as whole numbers or fractions, where all of its cells are written as such and nothing is lost:
    '007' stays text."""
    import pyarrow

    if not pyarrow.types.is_string(column.type):
        return column
    texts = [text for text in column.unique().to_pylist() if text is not None]
    for kind, written in NUMBERS.items():
        if texts and all(map(written.fullmatch, texts)):
            return column.cast(kind)
    return column
