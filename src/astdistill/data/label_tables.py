"""Labels of pictures in a table of text beside them: CSV, TSV or JSON lines, as people and Kaggle write them."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TextIO
from unicodedata import normalize

from ..runtime.errors import InputError, unknown
from ..runtime.files import parse_json
from .columns import rank_of
from .dataset import Source, Summary
from .decoding import file_bytes
from .digests import FileSet
from .hub import table_source, with_files
from .listing import EXAMPLE, NAMED, WNID, Listing, Walked, is_picture, some, text_of
from .parquet import SHARD, part_of, split_files
from .splits import split_of

ENDINGS = (".csv", ".tsv", ".jsonl")
TAB, OTHERS = "\t", ",;|"
"""What separates values: tabs where the first line has one, otherwise the sign that it has most of."""
SEPARATOR = re.compile(r"sep=(.)\s*")
"""The first line by which Excel says it."""
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "#N/A", "<NA>")
"""Values that stand for none. 'na' and 'Nan' may be classes."""
NONE = "None"
"""What stands for none among numbers alone: elsewhere it may be a class."""
UNREAD = (OSError, ValueError, csv.Error, RecursionError)
"""What reading a file raises that is no table of text."""
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""How a file begins that Excel has saved as Unicode text."""
CELL = re.compile(r"[,;|\t\0]")
"""Between the values of a line, whatever the table is."""
MOST_NUMBERED = 4
"""Of more columns whose values are also names of pictures without endings, none names pictures."""
LOOKED_AT = 16
"""Rows that tell which columns may name pictures."""
NUMBERS = (
    ("int64", re.compile(r"0|-?[1-9][0-9]{0,17}")),
    ("float64", re.compile(r"(0|-?[1-9][0-9]{0,14})(\.0+)?")),
    ("float64", re.compile(r"-?[0-9]+\.[0-9]+")),
)
"""Kinds of numbers, and how all of a column are written: '007' is none, and 1 beside 1.5 is text."""
ABSOLUTE = re.compile(r"[A-Za-z]:|[/\\]")
"""How a path from the root begins."""
FLAGS, ONE = frozenset(("0", "1", "0.0", "1.0")), ("1", "1.0")
"""Values of the columns of one-hot labels, and those of the class."""
HEADLESS = ("image", "label")
"""What the columns of a table of two are called whose first row is a row like the others."""
Cells = dict[str, list[str | None]]
"""The values of a table by column; None where one is missing."""


@dataclass(frozen=True)
class LabelTables:
    """The tables of a folder by part, and the pictures below it by their paths from the folder on, as text."""

    name: str
    folder: Path
    parts: Mapping[str, Sequence[Path]]
    rows: Mapping[str, Cells]
    """Those of each part; in the column `image` are paths of pictures, or text that names none."""
    image: str
    pictures: Mapping[str, Path]
    guessed: Sequence[str]

    def files(self) -> FileSet:
        """Everything that decides what is read."""
        tables = [path for paths in self.parts.values() for path in paths]
        return FileSet(sorted({*tables, *self.pictures.values()}), self.folder)

    def left_out(self, listing: Listing) -> tuple[str, ...]:
        """Sentences on pictures that no row names, on tables that are not read, and on all other files."""
        walked, used = listing.walk(self.folder), {path for paths in self.parts.values() for path in paths}
        named = {name for rows in self.rows.values() for name in rows[self.image]}
        kinds = {
            ("picture that no row names", "pictures that no row names"): [
                path for name, path in self.pictures.items() if name not in named
            ],
            ("table that is not read", "tables that are not read"): [
                path for path in walked.others if is_table(path) and path not in used
            ],
        }
        others = [path for path in walked.others if not is_table(path)]
        rest = Walked([], others, walked.hidden, walked.special, walked.repeated, walked.written).left_out()
        words = (f"{len(its)} {kind[len(its) > 1]} ({some(its)})" for kind, its in kinds.items() if its)
        return (*words, *rest)

    @contextmanager
    def opened(self, label_column: str | None) -> Iterator[Source]:
        """The pictures that the tables name, for as long as the block lasts. Raises InputError as `table_source`, and
        where a picture is not there."""
        import datasets
        import pyarrow

        kinds = _kinds(self.rows.values())
        splits = {
            part: datasets.Dataset(pyarrow.table({name: _array(its, kinds[name]) for name, its in rows.items()}))
            for part, rows in self.rows.items()
        }
        beside = dict.fromkeys(splits, self._picture)
        source = table_source(self.name, splits, self.files(), self.image, label_column, beside)
        said = with_files(source.summary, self.parts, self.folder)
        yield replace(source, summary=said + Summary(guessed=tuple(self.guessed)))

    def _picture(self, name: str) -> bytes:
        if name not in self.pictures:
            raise InputError(
                f"A row names the picture '{name}', which is no file in {text_of(self.folder)} or below it; add the "
                "picture, or take the row out."
            )
        return file_bytes(self.pictures[name])


def _kinds(parts: Iterable[Cells]) -> dict[str, str]:
    """What the values of a column are, in all parts: whole numbers or fractions where each is written as one, and
    nothing is lost by that, otherwise text."""
    texts: dict[str, set[str | None]] = {}
    for rows in parts:
        for name, its in rows.items():
            texts.setdefault(name, set()).update(its)
    return {name: _kind({text for text in its if text not in (None, NONE)}) for name, its in texts.items()}


def _array(texts: Sequence[str | None], kind: str) -> Any:
    """A column of this kind."""
    import pyarrow

    if kind != "string":
        texts = [None if text == NONE else text for text in texts]
    return pyarrow.array(texts, "string").cast(kind)


def _kind(texts: set[str]) -> str:
    fitting = (kind for kind, written in NUMBERS if texts and all(map(written.fullmatch, texts)))
    return next(fitting, "string")


def is_table(path: Path) -> bool:
    """Whether a file is a table of text by its name."""
    return path.suffix.lower() in ENDINGS


def label_tables(folder: Path, listing: Listing, image: str | None, label: str | None) -> LabelTables | None:
    """The tables in a folder of pictures that name these in one column; None where there are none.

    A table names a picture by its path from the table's folder or from `folder` on, or by its name where only one
    picture has it; by the name without its ending where no column holds whole names. Raises InputError where a name is
    that of several, where a picture is in several rows, and where several tables or columns could be meant.
    """
    walked = listing.walk(folder)
    files = [path for path in walked.others if is_table(path) and not EXAMPLE.search(path.stem)]
    return _of(folder, files, walked.pictures, image, label)


def label_table(path: Path, listing: Listing, image: str | None, label: str | None) -> LabelTables | None:
    """One table with the pictures below its folder; None where no column names them."""
    return _of(path.parent, [path], listing.walk(path.parent).pictures, image, label)


def other_classes(folder: Path, listing: Listing, source: Source) -> tuple[str, ...]:
    """Notes on tables that tell other classes of the pictures than their folders do, whatever the classes are called,
    or parts of which there are none, or that have labels for further pictures."""
    classes = {text_of(place): label for _, label, place in source.places}
    if all(WNID.fullmatch(PurePosixPath(place).name) for place in classes):
        return ()
    walked = listing.walk(folder)
    files = [path for path in walked.others if is_table(path) and not EXAMPLE.search(path.stem)]
    known = _Pictures(folder, walked.pictures if files else ())
    notes = [note for file in files if (note := _beside_folders(file, known, classes, "test" in source.labels))]
    return tuple(notes[:NAMED])


def _beside_folders(file: Path, known: _Pictures, classes: Mapping[str, int], divided: bool) -> str:
    """What a table says of pictures that lie in folders of these classes, where that is not read; nothing otherwise."""
    name = text_of(file.name)
    try:
        table = _Table.read(file, known, None, None)
    except _UnreadError as error:
        reason = str(error).split(";")[0]
        return f"folders as the classes, not what {name} says of the pictures, which could not be read ({reason})"
    except InputError:  # it is of something else
        return ""
    labels = {} if table is None else table.labels()
    if table is None or not labels:
        return ""
    own = [
        next((classes[str(place)] for place in PurePosixPath(path or "").parents if str(place) in classes), None)
        for path in table.cells[table.image]
    ]
    column, tests = next(iter(labels)), split_of(file.stem) in ("test", "validation")
    reads = f"--data.label-column {column} reads it"
    if own.count(None) == len(own):
        told = f"class folders alone, not the pictures that {name} names elsewhere ({reads})"
        return told * (tests and table.tells_labels)
    if any(_divides_alike(own, its) for its in labels.values()):
        told = f"a share of every class as the test part, not what {name} tells ({reads})"
        return told * (tests and not divided)
    other = sorted({text for text in labels[column] if text is not None})
    shown = ", ".join(other[:NAMED]) + ", …" * (len(other) > NAMED)
    if not table.tells_labels:
        reads = "write its columns of zeros and ones as one of labels, and name it with --data"
    elif all(known.paths[path].is_relative_to(file.parent) for path in table.named & known.paths.keys()):
        reads = f"--data {text_of(file)} reads that"
    return f"folders as the classes, not what {name} says of the pictures ({shown}; {reads})"


def _divides_alike(own: Sequence[int | None], labels: Sequence[str | None]) -> bool:
    """Whether pictures have one label where they lie in one folder, and another in another."""
    pairs = {pair for pair in zip(own, labels, strict=True) if None not in pair}
    return len({one for one, _ in pairs}) == len({other for _, other in pairs}) == len(pairs)


def _of(
    folder: Path, files: Sequence[Path], pictures: Sequence[Path], image: str | None, label: str | None
) -> LabelTables | None:
    known = _Pictures(folder, pictures)
    read = _tables(files if pictures else (), known, image, label)
    if not read:
        return None
    columns = {table.image: file.name for file, table in read.items()}
    if len(columns) > 1:
        named = ", ".join(f"{column} of {name}" for column, name in columns.items())
        raise InputError(
            f"The tables of {text_of(folder)} name pictures in different columns ({named}); name one table with --data."
        )
    parts = _parts(folder, list(read))
    used = [file for its in parts.values() for file in its]
    rows = {part: _joined([read[file] for file in its]) for part, its in parts.items()}
    _check_apart(folder, read, used)
    _check_once(rows, next(iter(columns)), used)
    return LabelTables(
        name=text_of(folder.resolve().name),
        folder=folder,
        parts=parts,
        rows=rows,
        image=next(iter(columns)),
        pictures=known.paths,
        guessed=[note for file in used for note in read[file].guessed],
    )


def _tables(files: Sequence[Path], known: _Pictures, image: str | None, label: str | None) -> dict[Path, _Table]:
    """The tables among these that name pictures. Raises InputError for one that does so and is not as it should be:
    beside others, only where labels would be lost that these do not have, or those of the training part."""
    read, faults = dict[Path, _Table](), dict[Path, InputError]()
    for file in files:
        try:
            if (table := _Table.read(file, known, image, label)) is not None:
                read[file] = table
        except InputError as error:
            faults[file] = error
    labelled = {name for table in read.values() for name in table.named}
    for file, error in faults.items():
        if not read:
            raise error
        if split_of(file.stem) == "train" or (isinstance(error, _FaultyError) and error.named - labelled):
            raise InputError(f"{str(error).rstrip('.')}; or name the table that is meant with --data.") from error
    return read


class _FaultyError(InputError):
    """A table is not as it should be; `named` are the pictures that it names beside labels."""

    def __init__(self, message: str, named: Iterable[str]) -> None:
        super().__init__(message)
        self.named = frozenset(named)


class _UnreadError(_FaultyError):
    """A file names pictures and labels, and is no table."""


def _parts(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The tables by part. Raises InputError as `split_files`, and where one part has several that are no numbered
    pieces of one."""
    parts = {"train": files} if len(files) == 1 else split_files(folder, files)
    for its in parts.values():
        if len({SHARD.sub("", file.stem) for file in its}) > 1:
            raise _several(folder, its)
    return parts


def _several(folder: Path, files: Sequence[Path]) -> InputError:
    names = [text_of(file.relative_to(folder)) for file in files]
    return InputError(
        f"{text_of(folder)} has several tables that name pictures of it ({', '.join(names)}); name the one with the "
        f"labels, --data {text_of(files[0])}, or move the others elsewhere."
    )


def _check_apart(folder: Path, read: Mapping[Path, _Table], used: Sequence[Path]) -> None:
    """Raise InputError where a table that belongs to no part has labels for some of the pictures of those that do, and
    either for further ones or others: `labels.csv` beside `train_subset.csv`."""
    owners = {name: file for file in used for name in read[file].named}
    told = {name: label for file in used for name, label in read[file].pairs()}
    for file in [file for file in read if file not in used and read[file].tells_labels]:
        both = sorted(read[file].named & owners.keys())
        other = any(told.get(name, label) != label for name, label in read[file].pairs())
        if both and (other or read[file].named - owners.keys()):
            raise _several(folder, [file, owners[both[0]]])


def _joined(tables: Sequence[_Table]) -> Cells:
    """The rows of one part. Raises InputError where the tables have other columns."""
    first, *others = tables
    for other in others:
        if set(other.cells) != set(first.cells):
            raise InputError(
                f"{text_of(first.file.name)} has the columns {', '.join(first.cells)} and {text_of(other.file.name)} "
                f"has {', '.join(other.cells)}; give files with the same columns."
            )
    return {name: [text for table in tables for text in table.cells[name]] for name in first.cells}


def _check_once(rows: Mapping[str, Cells], image: str, files: Sequence[Path]) -> None:
    """Raise InputError for a picture that several rows name: which label it has is then unknown."""
    counts = Counter(name for its in rows.values() for name in its[image] if name is not None)
    name, count = max(counts.items(), key=lambda each: each[1], default=("", 0))
    if count > 1:
        meant = ", or name the table that is meant with --data" * (len(files) > 1)
        raise InputError(
            f"{count} rows of {', '.join(text_of(file.name) for file in files)} name the picture '{name}'; give each "
            f"picture one row, with one label{meant}."
        )


class _Pictures:
    """Pictures by what a table may call them."""

    def __init__(self, folder: Path, pictures: Sequence[Path]) -> None:
        self.folder, self._above = folder, folder.resolve().parts
        self._known: dict[tuple[str, Path], list[str]] = {}
        self.paths: dict[str, Path] = {}
        for path in pictures:  # macOS takes letters with accents apart, which tables seldom do
            name = text_of(path.relative_to(folder).as_posix())
            composed = normalize("NFC", name)
            self.paths[name if composed in self.paths else composed] = path
        self._alike: dict[str, list[PurePosixPath]] = {}
        for name in self.paths:
            path = PurePosixPath(name)
            for each in {path.name, path.stem}:
                self._alike.setdefault(each, []).append(path)

    def called(self, text: str, table: Path) -> list[str]:
        """The paths of the pictures that a value of a table may mean, the nearest alone: that of its own path, or else
        those whose path ends like it. A path on another machine is known by its last folders or its name."""
        if (text, table) not in self._known:  # each is asked for two or three times
            self._known[text, table] = self._called(text, table)
        return self._known[text, table]

    def _called(self, text: str, table: Path) -> list[str]:
        wanted = PurePosixPath(normalize("NFC", text.replace("\\", "/")))
        whole = is_picture(wanted.name)
        alike = [path for path in self._alike.get(wanted.name, ()) if (path.name == wanted.name) == whole]
        own, part = _place(self.folder, table)
        for folders in self._meant(text, wanted.parts[:-1], own):
            if exact := [path for path in alike if path.parts[:-1] == folders]:
                return [str(path) for path in exact]
        folders = () if ABSOLUTE.match(text) else wanted.parts[:-1]
        ending = [path for path in alike if _ends(path.parts[:-1], folders) and not _elsewhere(path, part)]
        near = [path for path in ending if path.parts[: len(own)] == own]
        if len(near) != 1:
            near = [path for path in ending if part and part in {*map(split_of, path.parts[:-1])}]
        return [str(path) for path in (near if len(near) == 1 else ending)]

    def spelt(self, text: str) -> str:
        """A clause on a picture that is called so but for capitals; nothing without any."""
        other = self._folded.get(_last(text).lower())
        return f" (there is '{other}')" if other else ""

    @cached_property
    def _folded(self) -> dict[str, str]:
        """The paths of pictures by their names without capitals."""
        return {PurePosixPath(name).name.lower(): name for name in self.paths}

    def _meant(self, text: str, folders: tuple[str, ...], own: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        """The folders that a path may lead to, from the folder of pictures on, the likeliest first: from the table on,
        from the folder of pictures on, and from above it."""
        if ABSOLUTE.match(text):
            yield from (folders[start:] for start in range(1, len(folders)))
            return
        yield _within(own + folders)
        yield folders
        above = (count for count in range(1, len(folders) + 1) if self._above[-count:] == folders[:count])
        yield from (folders[count:] for count in above)


@cache
def _place(folder: Path, table: Path) -> tuple[tuple[str, ...], str]:
    """The folders of a table from `folder` on, and the part that its path speaks of."""
    place = table.relative_to(folder)
    return place.parts[:-1], part_of(place)


def _elsewhere(path: PurePosixPath, part: str) -> bool:
    """Whether a picture lies in a folder of the training part and its table is of the test part, or the other way
    round."""
    return {"train", "test"} <= {part, *map(split_of, path.parts[:-1])}


def _within(folders: tuple[str, ...]) -> tuple[str, ...]:
    """The same folder without steps up, where there are as many down before them."""
    plain: list[str] = []
    for name in folders:
        if name == ".." and plain and plain[-1] != "..":
            plain.pop()
        else:
            plain.append(name)
    return tuple(plain)


def _ends(folders: tuple[str, ...], last: tuple[str, ...]) -> bool:
    return folders[len(folders) - len(last) :] == last


@dataclass(frozen=True)
class _Table:
    """A table that names pictures in the column `image`, as paths from the folder on."""

    file: Path
    cells: Cells
    image: str
    guessed: tuple[str, ...]

    @property
    def named(self) -> set[str]:
        """The pictures."""
        return {name for name in self.cells[self.image] if name is not None}

    @property
    def tells_labels(self) -> bool:
        """Whether a column is called a label."""
        return any(rank for name, rank in _ranks(self.cells).items() if name != self.image)

    def pairs(self) -> Iterator[tuple[str | None, str | None]]:
        """The pictures with their labels by the first column that is called so."""
        for its in islice(self.labels().values(), 1):
            yield from zip(self.cells[self.image], its, strict=True)

    def labels(self) -> Cells:
        """The columns that are called a label and have values, by name; of a table without any those of one-hot labels
        as one, by the name of the first."""
        others, ranks = {name: its for name, its in self.cells.items() if name != self.image}, _ranks(self.cells)
        if called := {name: its for name, its in others.items() if ranks[name] and any(its)}:
            return called
        flags = {name: its for name, its in others.items() if FLAGS.issuperset(its) and not split_of(name)}
        rows = list(zip(*flags.values(), strict=True))
        if len(flags) < 2 or any(sum(value in ONE for value in row) != 1 for row in rows):
            return {}
        names = list(flags)
        return {names[0]: [next(name for name, value in zip(names, row, strict=True) if value in ONE) for row in rows]}

    @staticmethod
    def read(file: Path, known: _Pictures, image: str | None, label: str | None) -> _Table | None:
        """The table in a file; None where no column names pictures, and for a file that is no table. Raises InputError
        where columns name different pictures or none that is there, where a name may be that of several, where a label
        holds a line break, and for a file that names pictures and cannot be read."""
        given = {image, label} - {None}
        try:
            first, _ = _cells(file, known, given, LOOKED_AT)
        except UNREAD as error:
            _check_unread(file, known, error)
            return None
        if image is None and not _candidates(first, known, file, label):
            return None
        try:
            cells, headless = _cells(file, known, given)
        except UNREAD as error:
            message = f"{text_of(file)} cannot be read to its end ({error}); write it again."
            raise _UnreadError(message, _called_anywhere(file, known)) from error
        if image is not None and image not in cells:
            raise unknown("image column", image, cells, where=f"in {text_of(file)}")
        ranks = _ranks(cells)
        most = max(ranks.values())
        labels = [name for name in cells if ranks[name] == most > 0] if label is None else [label]
        called = {name: its for name, its in cells.items() if name in labels}
        columns = [image] if image is not None else _candidates(cells, known, file, label)
        naming = {name: _called(cells[name], known, file) for name in columns}
        try:
            _check_labels(file, called)
            chosen = _one_of(naming, cells, file, known)
            return _Table.of(file, cells, chosen, naming[chosen], headless)
        except InputError as error:
            named = {path for its in naming.values() for paths in its for path in paths}
            raise _FaultyError(str(error), named if called else ()) from error

    @staticmethod
    def of(file: Path, cells: Cells, image: str, called: Sequence[Sequence[str]], headless: bool) -> _Table:
        """The table with the paths of its pictures, which those in `called` are, and what is guessed of it."""
        name, texts = text_of(file.name), cells[image]
        paths = [_one_path(file, *each) for each in zip(texts, called, strict=True)]
        notes = {
            f"{name} has no row of column names, and its first row is read": headless,
            f"the pictures are column {image} of {name}, which has names without endings": not _are_whole(texts),
        }
        return _Table(file, {**cells, image: paths}, image, tuple(note for note, holds in notes.items() if holds))


def _check_unread(file: Path, known: _Pictures, error: Exception) -> None:
    """Raise InputError for a file that is no table and yet names pictures and labels: what it says would be lost."""
    first = next((line for line in _split_lines(file, LOOKED_AT) if any(line)), [])
    paired = len(first) == len(HEADLESS) and any(known.called(cell, file) for cell in first)
    named = _called_anywhere(file, known) if paired or any(map(rank_of, first)) else set()
    if not named:
        return
    why, mend = f"{error}", "correct it"
    if isinstance(error, UnicodeError):
        why, mend = "it is not in UTF-8", "save it as CSV UTF-8"
    raise _UnreadError(
        f"{text_of(file)} names pictures, but cannot be read as a table ({why}); {mend}, or move it elsewhere.", named
    ) from error


def _called_anywhere(file: Path, known: _Pictures) -> set[str]:
    """The pictures that any text between commas and the like names, in a file that is no table."""
    cells = {cell for line in _split_lines(file) for cell in line if cell}
    return {path for cell in cells for path in known.called(cell, file)}


def _split_lines(file: Path, count: int | None = None) -> Iterator[list[str]]:
    """The lines of a file, or the first of them, whatever its encoding, divided at commas and the like; none of one
    that cannot be read."""
    with suppress(OSError), file.open(encoding="latin-1") as opened:
        for line in islice(opened, count):
            yield [cell.strip(" \"'\n") for cell in CELL.split(line)]


def _ranks(cells: Cells) -> dict[str, int]:
    """How much each column is called a label; y beside numbers x is a place in the picture."""
    places = {name for name in cells if name.lower() == "y" and any(map(_is_place, cells, cells.values()))}
    return {name: 0 if name in places else rank_of(name) for name in cells}


def _is_place(name: str, texts: Sequence[str | None]) -> bool:
    return name.lower() == "x" and _kind({text for text in texts if text is not None}) != "string"


def _candidates(cells: Cells, known: _Pictures, file: Path, label: str | None) -> list[str]:
    """The columns that may name the pictures: those that hold whole names of pictures, whether these are there or not,
    or else those of which most values are names of pictures without their endings."""
    ranks = _ranks(cells)
    others = {name: its for name, its in cells.items() if name != label and not ranks[name]}
    if whole := [name for name, its in others.items() if _are_whole(its)]:
        return whole
    numbered = [name for name, its in others.items() if 2 * sum(map(bool, _called(its, known, file))) > len(its)]
    return numbered * (len(numbered) <= MOST_NUMBERED)


def _are_whole(texts: Sequence[str | None]) -> bool:
    """Whether most values end as the names of pictures do."""
    there = [text for text in texts if text is not None]
    return 2 * sum(map(is_picture, map(_last, there))) > len(there)


def _last(text: str) -> str:
    return PurePosixPath(text.replace("\\", "/")).name


def _called(texts: Iterable[str | None], known: _Pictures, file: Path) -> list[list[str]]:
    return [[] if text is None else known.called(text, file) for text in texts]


def _one_of(naming: Mapping[str, list[list[str]]], cells: Cells, file: Path, known: _Pictures) -> str:
    """The column that names the pictures. Raises InputError where several name different ones, and where none of their
    pictures is there."""
    there = {name: its for name, its in naming.items() if any(its)}
    if not there:
        example = next((text for name in naming for text in cells[name] if text is not None), "")
        raise InputError(
            f"{text_of(file)} names pictures that are not in its folder or below it, such as '{example}'"
            f"{known.spelt(example)}; put them there, or correct the names."
        )
    chosen = next(iter(there))
    if any(its != there[chosen] for its in there.values()):
        raise InputError(
            f"{text_of(file)} has several columns that could be the image: {', '.join(there)}; name one with "
            "--data.image-column."
        )
    return chosen


def _one_path(file: Path, text: str | None, called: Sequence[str]) -> str | None:
    """The path of the picture that a value means; its own text where there is none, for whoever reads it to refuse.
    Raises InputError where it may be one of several."""
    if len(called) > 1:
        raise InputError(
            f"{text_of(file)} names the picture '{text}', which may be {called[0]} or {called[1]}; write their paths."
        )
    return next(iter(called), text)


def _check_labels(file: Path, labels: Cells) -> None:
    """Raise InputError for a value with a line break, which a quotation mark that is not closed makes."""
    for name, texts in labels.items():
        for text in texts:
            if text is not None and "\n" in text:
                raise InputError(
                    f"Column {name} of {text_of(file)} holds a line break ({text[:40]!r}); close the quotation mark."
                )


def _cells(file: Path, known: _Pictures, given: AbstractSet[str | None], rows: int | None = None) -> tuple[Cells, bool]:
    """The values of a table, or of its first rows, and whether it has no row of column names. Raises what `UNREAD`
    holds for a file that is no table."""
    with file.open("rb") as binary:
        encoding = "utf-16" if binary.read(2) in UTF_16 else "utf-8-sig"
    with file.open(encoding=encoding, newline="") as opened:
        if file.suffix.lower() == ".jsonl":
            return _of_lines(islice(filter(str.strip, opened), rows)), False
        reader = csv.reader(opened, delimiter=_delimiter(opened), skipinitialspace=True)
        stripped = ([value.strip() for value in row] for row in reader)
        header, *body = islice(filter(any, stripped), None if rows is None else rows + 1)
    headless = not (given and given <= {*header}) and _is_row(header, known, file)
    if headless:
        body, header = [header, *body], _names(header, known, file)
    names = [name or f"column {number}" for number, name in enumerate(header, 1)]
    if len({*names}) < len(names):
        raise ValueError("two of its columns have one name")
    if any(any(row[len(names) :]) for row in body):
        raise ValueError("a row has more values than the first")
    padded = [[*row, *[""] * len(names)] for row in body]
    return {name: [_value(row[number]) for row in padded] for number, name in enumerate(names)}, headless


def _delimiter(opened: TextIO) -> str:
    """What separates the values; the file stands behind a line that says it, or else at its beginning."""
    line = next(filter(str.strip, opened), "")
    if said := SEPARATOR.fullmatch(line):
        return said[1]
    opened.seek(0)
    return TAB if TAB in line else max(OTHERS, key=line.count)


def _is_row(first: Sequence[str], known: _Pictures, file: Path) -> bool:
    """Whether the first row of a table is one like the others: it names a picture, and no label."""
    called = [value for value in first if known.called(value, file)]
    return any(is_picture(_last(value)) for value in called) or (bool(called) and not any(map(rank_of, first)))


def _names(first: Sequence[str], known: _Pictures, file: Path) -> list[str]:
    """Names for the columns of a table whose first row is a row like the others."""
    kinds = [HEADLESS[not known.called(value, file)] for value in first]
    if sorted(kinds) == sorted(HEADLESS):
        return kinds
    return [f"column {number}" for number in range(1, len(first) + 1)]


def _of_lines(lines: Iterable[str]) -> Cells:
    """The values of JSON lines; objects are none, and lists are their elements in one value."""
    rows = [parse_json(line) for line in lines]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError("there are lines that are no objects")
    rows = [{_plain(name): value for name, value in row.items()} for row in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_value(_plain(row.get(name))) for row in rows] for name in names}


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(map(_plain, value))
    text = "" if value is None or isinstance(value, dict) else str(value)
    return text.encode("utf-8", "backslashreplace").decode()


def _value(text: str) -> str | None:
    return None if text in MISSING else text
