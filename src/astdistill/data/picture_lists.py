"""Lists that published data sets have beside their pictures: which pictures are for training and which for testing, and
the labels of pictures that no class folders tell apart.

Text files with one picture a line (Food-101, DTD, MIT Indoor-67, SUN397, FGVC-Aircraft, Oxford-IIIT Pet), `.mat` files
(Stanford Dogs, Oxford Flowers, Stanford Cars), and the numbered files of CUB-200-2011 and NABirds.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import overload

import numpy as np

from ..runtime.errors import InputError
from ..runtime.text import many
from .dataset import Source, Summary
from .decoding import PARTS
from .image_folders import source_of_files
from .label_tables import LabelTables, is_table, listed_pictures
from .layouts import UNNAMED, PartNames
from .listing import EXAMPLE, NAMED, PICTURED, WNID, Listing, UnlabelledError, Walked, some, text_of
from .mat_files import NOTHING, read_mat
from .picture_names import PictureIndex
from .splits import WORDS, are_part_words, other_words, split_of

ENDINGS = (".txt", ".lst", ".list", ".mat")
LARGEST = 1 << 28
"""Bytes of the largest list that is read; a million pictures need about 40 MB."""
MOST_LISTS = 256
"""Where more files than these could be lists, each is a note on one picture, and none is read."""
LOOKED_AT = 16
"""Number of lines used to find out whether a file is a list of pictures."""
SEPARATOR = re.compile(r"[\s,;]+")
NUMBER = re.compile(r"-?\d+")
PART_WORD = (
    re.compile(r"(?P<rest>.*?)[\s,;]*(?P<word>[^\s,;]+)"),
    re.compile(r"(?P<word>[^\s,;]+)[\s,;]*(?P<rest>.*)"),
)
"""What follows a picture on a line, if its last or its first word tells the part."""
FLOWERS = ("setid.mat", "imagelabels.mat")
"""Files of Oxford Flowers: the numbers of the pictures of each part, and the label of each number."""
FLOWERS_PARTS = {"train": "trnid", "validation": "valid", "test": "tstid"}
CARS, CARS_NAMES = "cars_annos.mat", "cars_meta.mat"
"""Files of Stanford Cars: the pictures of both parts with their classes, and the names of the classes."""
CARS_PARTS = (
    {"train": CARS, "test": CARS},
    {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"},
)
"""The files with the pictures of the parts, in both forms in which Stanford Cars is distributed."""
NUMBERED = ("images.txt", "train_test_split.txt")
"""Files of CUB-200-2011 and NABirds: the number of each picture, and whether it is for training."""
NUMBERED_LABELS = ("image_class_labels.txt", "classes.txt")
"""More of these files: the number of the class of each picture, and the name of each class."""
PURPOSES = {"train": " for training", "validation": " for validation", "test": " for testing", "": " for no part"}
"""What a list of each part is for, in a note."""
Labels = dict[str, str]
"""The label of each picture, by its path relative to the folder; '' where a list has none."""
Classes = Mapping[str, int]
"""The class of each picture by its folder, by its path relative to the data folder."""


class _Pictures(PictureIndex):
    """The pictures of a folder; those in a folder such as `images` are preferred to others of the same name, which are
    masks or copies."""

    def __init__(self, folder: Path, pictures: Sequence[Path]) -> None:
        super().__init__(folder, pictures)
        inside = [path for path in pictures if PICTURED & {name.lower() for name in path.relative_to(folder).parts}]
        self._preferred = PictureIndex(folder, inside)

    def matches(self, text: str, table: Path) -> list[str]:
        return self._preferred.matches(text, table) or super().matches(text, table)


@dataclass
class _List:
    """The labels of the pictures that a file lists, and its lines that name no picture, several, or one again with
    another label."""

    file: Path
    labels: Labels = field(default_factory=dict[str, str])
    unclear: list[str] = field(default_factory=list[str])
    by_rest: bool = False
    """Whether these are all pictures that `file` does not list."""
    by_word: str = ""
    """The part that a word on each line tells; empty if the whole file is for one part."""


@dataclass(frozen=True)
class _Division:
    """The pictures of each part, the lists that say so, and notes on them."""

    parts: Mapping[str, _List]
    more_files: tuple[Path, ...] = ()
    """Other files from which labels come."""
    guessed: tuple[str, ...] = ()
    label_source: str = ""
    """Where the labels come from, if not from the files."""
    unread: tuple[tuple[str, _List], ...] = ()
    """Further lists that belong to the others, with their parts."""

    @property
    def files(self) -> list[Path]:
        """All files that are read."""
        return [*dict.fromkeys((*(each.file for each in self.parts.values()), *self.more_files))]

    @property
    def pictures(self) -> list[str]:
        """The listed pictures of all parts."""
        return [picture for each in self.parts.values() for picture in each.labels]

    @property
    def has_labels(self) -> bool:
        """Whether every picture has a label in its list."""
        return all(label for each in self.parts.values() for label in each.labels.values())

    def lists(self, folder: Path) -> tuple[tuple[str, str], ...]:
        """Part and path of each list, with the word for the part if the list tells several parts."""
        paths = {part: each.file.relative_to(folder).as_posix() for part, each in self.parts.items()}
        words = {part: f":{each.by_word}" * bool(each.by_word) for part, each in self.parts.items()}
        return tuple((part, path + words[part]) for part, path in paths.items())

    @property
    def is_divided(self) -> bool:
        """Whether there is a test part."""
        return "test" in self.parts

    def overlaps(self, pictures: Container[str]) -> bool:
        """Whether each part has some of these pictures."""
        return all(any(name in pictures for name in each.labels) for each in self.parts.values())

    def in_several(self, classes: Classes) -> bool:
        """Whether the listed pictures are in several class folders."""
        return len({classes[picture] for picture in self.pictures if picture in classes}) > 1


def names_lists(folder: Path, parts: PartNames) -> bool:
    """Whether the user named files, not folders, as the parts."""
    return any(name is not None and (folder / name).is_file() for name in parts)


@overload
def by_lists(folder: Path, listing: Listing, source: Source, parts: PartNames = UNNAMED) -> Source: ...
@overload
def by_lists(folder: Path, listing: Listing, source: None, parts: PartNames = UNNAMED) -> Source | None: ...
def by_lists(folder: Path, listing: Listing, source: Source | None, parts: PartNames = UNNAMED) -> Source | None:
    """The pictures of a folder as the lists beside them divide and label them.

    Args:
        folder: The folder with pictures and lists.
        listing: Its contents.
        source: The same pictures by class folders; None if these do not tell the classes. Its classes are kept where
            the listed pictures are in several of them.
        parts: The files that the user named as lists of the parts; without any, lists are found by their names.

    Returns:
        The divided pictures. `source` itself if it has a test part or if there is no list, with a note if several lists
        divide the pictures in different ways.

    Raises InputError if a named file is no list of pictures, if the lists of the parts share a picture, and if several
    lists label pictures that no class folders tell apart.
    """
    if parts == UNNAMED and source is not None and _is_complete(source):
        return source
    walked = listing.walk(folder)
    if parts == UNNAMED and not any(map(_may_be_list, walked.others)):
        return source
    index = _Pictures(folder, walked.pictures)
    classes = {} if source is None else _classes_of(folder, listing, source, index)
    is_named = parts != UNNAMED
    divisions = [_named(folder, parts, index, classes)] if is_named else _divisions(walked, index)
    if source is None:
        divisions = [each if each.has_labels else _labelled_by_folder(each) for each in divisions]
    usable = divisions if is_named else _usable(divisions, source, classes)
    if len(usable) == 1:
        return _source_of(folder, walked, index, usable[0], source, classes)
    if not usable:
        return source if source is None else _with_note_on_single_lists(folder, divisions, source, classes)
    return _with_note(folder, usable, source, classes)


def _is_complete(source: Source) -> bool:
    """Whether folders give a test part already, or are those of ImageNet, whose million pictures are not searched."""
    named_by_wnid = all(WNID.fullmatch(PurePosixPath(place).name) for _, _, place in source.places)
    return "test" in source.labels or named_by_wnid


def _may_be_list(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS or (is_table(path) and not EXAMPLE.search(path.stem))


def _classes_of(folder: Path, listing: Listing, source: Source, index: _Pictures) -> Classes:
    names = {path: name for name, path in index.paths.items()}
    return {names[path]: label for _, label, place in source.places for path in listing.walk(folder / place).pictures}


def _usable(divisions: Sequence[_Division], source: Source | None, classes: Classes) -> list[_Division]:
    """The divisions into training and test pictures that lists or folders label; if there are none and folders tell no
    classes, the lists of labels alone."""
    divided = [each for each in divisions if each.is_divided and _is_labelled(each, source, classes)]
    if divided or (source is not None and len(source.classes) > 1):
        return divided
    return [each for each in divisions if not each.is_divided and each.has_labels]


def _is_labelled(division: _Division, source: Source | None, classes: Classes) -> bool:
    """Whether class folders or lists tell the classes of some pictures in each part. Labels in the lists count if all
    pictures are in one folder which is no class: the only folder, or one with a name such as images beside another of
    masks. Labels in files of their own always count."""
    if division.in_several(classes) or (division.more_files and division.has_labels):
        return division.has_labels or division.overlaps(classes)
    folders = {place for _, _, place in source.places} if source else set[str]()
    inside = {place for place in folders if any(name.startswith(f"{place}/") for name in division.pictures)}
    is_class = len(folders) > 1 and not all(PurePosixPath(place).name.lower() in PICTURED for place in inside)
    return division.has_labels and not is_class


def _labelled_by_folder(division: _Division) -> _Division:
    """The division with the folders of its pictures as their labels, if there are several and none is a part; else
    unchanged."""
    folders = {picture: PurePosixPath(picture).parent.name for picture in division.pictures}
    if len({*folders.values()}) < 2 or any(map(split_of, {*folders.values()})):
        return division
    parts = {
        part: replace(each, labels={picture: folders[picture] for picture in each.labels})
        for part, each in division.parts.items()
    }
    return replace(division, parts=parts, label_source="the folders of the pictures")


def _with_note(folder: Path, usable: Sequence[_Division], source: Source | None, classes: Classes) -> Source:
    """The pictures by class folders, with a note on the lists. Raises InputError if the folders are no classes."""
    if source is None or not any(each.in_several(classes) for each in usable):
        raise InputError(
            f"{text_of(folder)} has several lists that label its pictures ({_first_files(usable)}); name those that "
            f"are meant, such as {_flags(folder, usable[0])}."
        )
    return replace(source, summary=source.summary + Summary(guessed=(_note_on_divisions(folder, usable),)))


def _first_files(divisions: Sequence[_Division]) -> str:
    return some(file for each in divisions for file in each.files[:1])


def _flags(folder: Path, division: _Division) -> str:
    """The flags that choose a division."""
    names = {part: text_of(each.file.relative_to(folder).as_posix()) for part, each in division.parts.items()}
    return " ".join(f"--data.{part}-part {name}" for part, name in names.items())


def _note_on_divisions(folder: Path, usable: Sequence[_Division]) -> str:
    return (
        f"a share of every class as the test part, not that of one of {len(usable)} lists ({_first_files(usable)}; "
        f"{_flags(folder, usable[0])})"
    )


def _with_note_on_single_lists(
    folder: Path, divisions: Sequence[_Division], source: Source, classes: Classes
) -> Source:
    """The pictures by class folders, with a note on lists of one part alone, which do not divide them."""
    note = _note_on_single_list(folder, [each for each in divisions if each.in_several(classes)])
    return replace(source, summary=source.summary + Summary(guessed=(note,))) if note else source


def _note_on_single_list(folder: Path, divisions: Sequence[_Division]) -> str:
    """A note on the first list that is named as that of one part alone; '' if there is none."""
    lists = [each.parts["train"].file for each in divisions if not each.is_divided]
    file = next((file for file in lists if split_of(file.stem) is not None), None)
    if file is None:
        return ""
    part = "train" if split_of(file.stem) == "train" else "test"
    name = text_of(file.relative_to(folder).as_posix())
    return f"a share of every class as the test part, not the division by {name} (--data.{part}-part {name} reads it)"


def divided_tables(
    tables: LabelTables, listing: Listing, parts: PartNames = UNNAMED, label_column: str | None = None
) -> LabelTables:
    """The tables with their rows in the parts that the lists beside the pictures tell; unchanged if the tables tell the
    parts themselves, or if there is no list. Several divisions, or a list of one part alone, are a note.

    Raises InputError as `by_lists` does for lists that the user named, and if they list no picture for training.
    """
    is_named, folder = names_lists(tables.folder, parts), tables.folder
    walked = listing.walk(folder)
    walked = replace(walked, others=[path for path in walked.others if path not in tables.used_files()])
    if len(tables.rows) > 1 or not (is_named or (parts == UNNAMED and any(map(_may_be_list, walked.others)))):
        return tables
    index = _Pictures(folder, walked.pictures)
    ((_, cells),) = tables.rows.items()
    named = {*cells[tables.image]}
    labelled = {name: path for name, path in tables.pictures.items() if name in named}
    if is_named:
        return _divided(tables, _named(folder, parts, index, dict.fromkeys(labelled, 0)), labelled)
    divisions = [each for each in _divisions(walked, index, True) if each.overlaps(labelled)]
    if not divisions or tables.tells_parts(label_column):
        return tables
    usable = [each for each in divisions if each.is_divided]
    if len(usable) == 1:
        return _divided(tables, usable[0], labelled)
    note = _note_on_divisions(folder, usable) if usable else _note_on_single_list(folder, divisions)
    return replace(tables, notes=Summary(guessed=(note,) * bool(note)))


def _divided(tables: LabelTables, division: _Division, labelled: Mapping[str, Path]) -> LabelTables:
    ((_, files),), ((_, cells),) = tables.parts.items(), tables.rows.items()
    rows = {
        part: [row for row, name in enumerate(cells[tables.image]) if name in each.labels]
        for part, each in division.parts.items()
    }
    if not division.overlaps(labelled):
        raise InputError(
            f"{some(division.files)} put no picture that {some(files)} labels into one of the parts; name lists of "
            "these pictures with --data.train-part and --data.test-part."
        )
    return replace(
        tables,
        parts=dict.fromkeys(rows, files),
        rows={part: {name: [values[row] for row in rows[part]] for name, values in cells.items()} for part in rows},
        lists=division.lists(tables.folder),
        list_files=tuple(division.files),
        unlisted=frozenset(labelled.keys() - {*division.pictures}),
        notes=_notes_on_division(tables.folder, division, labelled),
    )


# finding and reading lists


def _named(folder: Path, parts: PartNames, index: _Pictures, classes: Classes) -> _Division:
    """The lists that the user named. Without one for training, all other pictures in class folders are."""
    lists = dict[str, _List]()
    for part, name in parts._asdict().items():
        if name is not None:
            is_inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
            found = _lists_in(folder / name, index, True) if is_inside and (folder / name).is_file() else {}
            if not found:
                raise InputError(
                    f"--data.{part}-part {name} is no file in {text_of(folder)} that lists its pictures, one a line; "
                    "name a text file that does, or name folders for both parts."
                )
            lists[part] = found.get(part, next(iter(found.values())))
    shared = sorted(lists["train"].labels.keys() & lists["test"].labels.keys()) if len(lists) == 2 else []
    if shared:
        raise InputError(
            f"{parts.train} and {parts.test} both list {shared[0]}; name lists that share no picture with "
            "--data.train-part and --data.test-part."
        )
    if "train" not in lists:
        test = lists["test"]
        others = {picture: "" for picture in classes if picture not in test.labels}
        return _Division({"train": _List(test.file, others, by_rest=True), "test": test})
    return _Division(lists)


def _divisions(walked: Walked, index: _Pictures, with_labels: bool = False) -> list[_Division]:
    """All divisions that lists tell, by their formats; `with_labels` counts tables of labels too."""
    found = [*_numbered(walked, index), *_flowers(walked, index), *_cars(walked, index)]
    return found or [*_by_name(walked, index, with_labels)]


def _by_name(walked: Walked, index: _Pictures, with_labels: bool) -> Iterator[_Division]:
    """One division for the lists in one folder whose names differ only in the word for the part."""
    files = [path for path in walked.others if _may_be_list(path)]
    groups = dict[tuple[Path, tuple[str, ...]], dict[str, list[_List]]]()
    for file in files * (len(files) <= MOST_LISTS):
        if split_of(file.stem) is None and index.matches(file.stem, file):
            continue  # notes on one picture, such as the boxes in it
        lists = _lists_in(file, index, with_labels)
        if len(lists) > 1:
            yield from _divide({part: [each] for part, each in lists.items()})
        for each in lists.values() if len(lists) == 1 else ():
            group = groups.setdefault((file.parent, other_words(file.stem)), {})
            group.setdefault(split_of(file.stem) or "", []).append(each)
    for group in groups.values():
        yield from _divide(group)


def _divide(lists: Mapping[str, Sequence[_List]]) -> Iterator[_Division]:
    """The division into training and test pictures; without one for both, every list by itself. Of several lists of
    training pictures (train, trainval) the longest counts that has none of the test pictures."""
    test = next((lists[part] for part in ("test", "validation") if part in lists), [])
    trains = [each for each in lists.get("train", ()) if test and not each.labels.keys() & test[0].labels.keys()]
    if len(test) != 1 or not trains:
        yield from (_Division({"train": each}) for every in lists.values() for each in every)
        return
    train = max(trains, key=lambda each: len(each.labels))
    purpose = " for validation" * (train.file == test[0].file)
    notes = (f"the test part is what {text_of(test[0].file.name)} lists{purpose}, as there is no list for testing",)
    used = {"train": train, "test": test[0]}
    unread = ((part, each) for part, every in lists.items() for each in every if each not in used.values())
    yield _Division(used, guessed=notes * ("test" not in lists), unread=tuple(unread))


def _lists_in(file: Path, index: _Pictures, with_labels: bool) -> Mapping[str, _List]:
    """The list of each part in a file that tells the parts by words; the only list of any other file, by ''; none if it
    is no list, or a table of labels without parts unless `with_labels` is set."""
    if is_table(file):
        listed = listed_pictures(file, index, with_labels)
        labels = {part: {name: "" for name in names if name in index.paths} for part, names in listed.items()}
        unclear = {part: [name for name in names if name not in index.paths] for part, names in listed.items()}
        return {part: _List(file, labels[part], unclear[part], by_word=part) for part in listed if labels[part]}
    found = _read_list(file, index)
    return {} if found is None else _by_word(found) or {"": found}


def _by_word(found: _List) -> Mapping[str, _List]:
    """The lists of each part, if the lines of a list tell the part of their picture by a word before or after the
    label, and by '' what they put into no part; none if the words are not those for training and another part."""
    for pattern in PART_WORD:
        matches = {picture: pattern.fullmatch(text) for picture, text in found.labels.items()}
        words = {picture: match["word"] if match else "" for picture, match in matches.items()}
        if are_part_words(words.values()):
            lists = {"train": _List(found.file, unclear=found.unclear, by_word="train")}
            for picture, word in words.items():
                part, match = WORDS.get(word.lower(), ""), matches[picture]
                lists.setdefault(part, _List(found.file, by_word=part)).labels[picture] = match["rest"] if match else ""
            return lists
    return {}


def _read_list(file: Path, index: _Pictures) -> _List | None:
    """The pictures in a list; None if most of its first lines name no picture."""
    lines = _lines(file, index)
    sample = [_entry(line, index, file)[0] for line in lines[:LOOKED_AT]]
    if 2 * sum(map(bool, sample)) <= len(sample):
        return None
    found = _List(file)
    for line in lines:
        pictures, label = _entry(line, index, file)
        if len(pictures) != 1 or found.labels.setdefault(pictures[0], label) != label:
            found.unclear.append(line)
    return found if found.labels else None


def _lines(file: Path, index: _Pictures) -> list[str]:
    """The lines of a text file without comments, or pictures and labels in a `.mat` file; none for any other file."""
    try:
        if file.stat().st_size > LARGEST:
            return []
        if file.suffix.lower() == ".mat":
            return _lines_of_mat(file, index)
        text = _text(file)
    except (OSError, InputError):
        return []
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _lines_of_mat(file: Path, index: _Pictures) -> list[str]:
    arrays = read_mat(file)
    texts = (values.ravel().tolist() for values in arrays.values() if values.dtype.kind == "U" and values.size)
    names = next((values for values in texts if index.matches(values[0], file)), [])
    labels = _numbers(arrays.get("labels"))
    if len(labels) != len(names):
        return names
    return [f"{name} {label:.15g}" for name, label in zip(names, labels, strict=True)]


def _entry(line: str, index: _Pictures, file: Path) -> tuple[list[str], str]:
    """The pictures that a line may name, and what follows the name, which may contain spaces."""
    cuts = [(cut.start(), cut.end()) for cut in SEPARATOR.finditer(line)]
    for start, end in ((len(line), len(line)), *cuts):
        if matches := index.matches(line[:start], file):
            return matches, line[end:]
    return [], ""


def _pairs(file: Path) -> dict[str, str]:
    """The second value of each line by the first."""
    try:
        lines = _text(file).splitlines()
    except OSError:
        return {}
    return {cells[0]: cells[1].strip() for line in lines if len(cells := line.split(maxsplit=1)) == 2}


def _text(file: Path) -> str:
    """The text of a file in UTF-8, or else in Latin-1, in which any bytes are text."""
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _numbered(walked: Walked, index: _Pictures) -> Iterator[_Division]:
    """CUB-200-2011 and NABirds: files of lines with the number of a picture and its path, part or class."""
    for file in _files_beside(walked, *NUMBERED):
        paths, flags = _pairs(file), _pairs(file.with_name(NUMBERED[1]))
        labels, names = (_pairs(file.with_name(name)) for name in NUMBERED_LABELS)
        parts = {number: {"1": "train", "0": "test"}.get(flag, "") for number, flag in flags.items()}
        classes = {number: names.get(label, label) for number, label in labels.items()}
        pictures = {number: index.matches(path, file) for number, path in paths.items()}
        more_files = [path for name in NUMBERED_LABELS if (path := file.with_name(name)) in walked.others]
        yield from _of_numbers(file.with_name(NUMBERED[1]), parts, classes, pictures, [file, *more_files])


def _flowers(walked: Walked, index: _Pictures) -> Iterator[_Division]:
    """Oxford Flowers: the numbers of the pictures of each part, and the label of every number."""
    for file in _files_beside(walked, *FLOWERS):
        try:
            arrays, labels = read_mat(file), read_mat(file.with_name(FLOWERS[1])).get("labels", np.empty(0))
        except InputError:
            continue
        parts = {
            f"{number:.15g}": part for part, name in FLOWERS_PARTS.items() for number in _numbers(arrays.get(name))
        }
        classes = {f"{number}": f"{label:.15g}" for number, label in enumerate(_numbers(labels), 1)}
        pictures = {number: index.matches(f"image_{number:0>5}", file) for number in parts}
        yield from _of_numbers(file, parts, classes, pictures, [file.with_name(FLOWERS[1])])


def _cars(walked: Walked, index: _Pictures) -> Iterator[_Division]:
    """Stanford Cars: structures with the path of each picture, its class and its part, or one file for each part."""
    files = {path.name: path for path in walked.others}
    for of_part in CARS_PARTS:
        if files.keys() >= {*of_part.values()}:
            lists = {part: _List(files[name]) for part, name in of_part.items()}
            names_file = files.get(CARS_NAMES, lists["train"].file)
            with suppress(InputError):
                _add_cars(lists, names_file, index)
            if all(each.labels for each in lists.values()):
                yield _Division(lists, (names_file,))


def _add_cars(lists: Mapping[str, _List], names_file: Path, index: _Pictures) -> None:
    names = read_mat(names_file).get("class_names", NOTHING).tolist()
    for part, found in lists.items():
        for path, label in _rows_of_cars(found.file, part):
            pictures = index.matches(path, found.file)
            if len(pictures) == 1:
                known = 1 <= label <= len(names)
                found.labels[pictures[0]] = names[int(label) - 1] if known else f"{label:.15g}"
            else:
                found.unclear.append(path)


def _rows_of_cars(file: Path, part: str) -> list[tuple[str, float]]:
    """Path and class of each picture of a part; of all pictures in a file that does not tell the parts."""
    fields = read_mat(file)
    paths = fields.get("annotations.relative_im_path", fields.get("annotations.fname", NOTHING)).tolist()
    labels = _numbers(fields.get("annotations.class"))
    flags = _numbers(fields.get("annotations.test")) or [part == "test"] * len(paths)
    if not len(paths) == len(labels) == len(flags):
        return []
    return [(path, label) for path, label, flag in zip(paths, labels, flags, strict=True) if flag == (part == "test")]


def _files_beside(walked: Walked, name: str, other: str) -> list[Path]:
    """The files called `name` that have one called `other` beside them."""
    return [path for path in walked.others if path.name == name and path.with_name(other) in walked.others]


def _numbers(values: np.ndarray | None) -> list[float]:
    """The numbers of an array; none if there is no such array."""
    return [] if values is None or values.dtype.kind not in "iuf" else values.ravel().tolist()


def _of_numbers(
    file: Path,
    parts: Mapping[str, str],
    classes: Mapping[str, str],
    pictures: Mapping[str, list[str]],
    more_files: Sequence[Path],
) -> Iterator[_Division]:
    """The division by parts, classes and pictures, all by number; none if a part is empty."""
    lists = {part: _List(file) for part in ("train", "test", "validation")}
    for number, part in parts.items():
        names = pictures.get(number, [])
        if part in lists and len(names) == 1:
            lists[part].labels[names[0]] = classes.get(number, "")
        elif part != "validation":
            lists["train"].unclear.append(number)
    validation = lists.pop("validation")
    if all(each.labels for each in lists.values()):
        yield _Division(lists, tuple(more_files), unread=(("validation", validation),))


# building the source


def _source_of(
    folder: Path,
    walked: Walked,
    index: _Pictures,
    division: _Division,
    source: Source | None,
    classes: Classes,
) -> Source:
    """The pictures of a division with the classes of their folders, or else those of the lists."""
    in_folders = division.in_several(classes) and division.overlaps(classes)
    by_folders = source is not None and (in_folders or not division.has_labels)
    if source is not None and by_folders:
        labels, names, notes = classes, source.classes, Summary()
    else:
        labels, names, notes = _labels_of(folder, division)
    rows = {
        part: sorted((labels[name], index.paths[name]) for name in each.labels if name in labels)
        for part, each in division.parts.items()
    }
    _check_rows(folder, division, rows, names)
    summary = _summary(folder, walked, index, division, source) + notes
    new = source_of_files(folder, names, rows, summary, division.files)
    lists = division.lists(folder)
    if source is None or not by_folders:
        return replace(new, lists=lists)
    return replace(new, lists=lists, external_names=source.external_names, places=source.places)


def _check_rows(
    folder: Path, division: _Division, rows: Mapping[str, Sequence[tuple[int, Path]]], names: Sequence[str]
) -> None:
    """Raise InputError for a class whose pictures are not in the training part."""
    trained = {label for label, _ in rows["train"]}
    untrained = [name for label, name in enumerate(names) if label not in trained]
    chosen = {label for pairs in rows.values() for label, _ in pairs}
    missing = [name for label, name in enumerate(names) if label in chosen - trained]
    if missing or not trained:
        raise InputError(
            f"The training part that {some(division.files)} in {text_of(folder)} lists has no picture of class "
            f"'{(missing or untrained)[0]}'; add one, or leave the class out with --data.classes."
        )


def _summary(folder: Path, walked: Walked, index: _Pictures, division: _Division, source: Source | None) -> Summary:
    """What was read of the lists and the folder, and what was left out."""
    read = tuple(note for note in source.summary.read if "part:" not in note) if source else ()
    used = {*division.files}
    others = [path for path in walked.others if path not in used]
    rest = Walked([], others, walked.hidden, walked.special, walked.repeated, walked.written).left_out()
    before = Summary(read, (), source.summary.guessed if source else ())
    return before + _notes_on_division(folder, division, index.paths) + Summary((), rest)


def _notes_on_division(folder: Path, division: _Division, pictures: Mapping[str, Path]) -> Summary:
    """What lists tell of some pictures: those of each part, and those of none."""
    read, verb = list[str](), "lists"
    if len({each.file for each in division.parts.values()}) < len(division.parts):
        verb = "assigns to it"
    for part, each in division.parts.items():
        name = text_of(each.file.relative_to(folder).as_posix())
        how = "does not list" if each.by_rest else verb
        read.append(f"{PARTS[part]}: the {many(len(each.labels), 'picture')} that {name} {how}")
    left_out = [
        f"{many(len(each.unclear), 'line')} of {text_of(each.file.name)} that name no picture here, or several "
        f"({', '.join(each.unclear[:NAMED])})"
        for each in division.parts.values()
        if each.unclear
    ]
    listed = {*division.pictures}
    for part, each in division.unread:
        further = len(each.labels.keys() - listed)
        left_out += [f"{many(further, 'picture')} that {text_of(each.file.name)} lists{PURPOSES[part]}"] * bool(further)
        listed |= each.labels.keys()
    unlisted = [path for name, path in pictures.items() if name not in listed]
    left_out += [f"{many(len(unlisted), 'picture')} that no list names ({some(unlisted)})"] * bool(unlisted)
    return Summary(tuple(read), tuple(left_out), division.guessed)


def _labels_of(folder: Path, division: _Division) -> tuple[Classes, tuple[str, ...], Summary]:
    """The number of the class of each picture by its label in the lists, and the names of the classes, in the order of
    numbers or of the alphabet. Raises InputError if some pictures have no label."""
    texts = {picture: label for each in division.parts.values() for picture, label in each.labels.items()}
    if not division.has_labels:
        without = next(picture for picture, label in texts.items() if not label)
        raise UnlabelledError(
            f"Nothing tells the class of {without}: neither class folders nor {some(division.files)}; put the pictures "
            "of every class into a folder of its own, or write the class after the name of each picture."
        )
    columns = {picture: label.split() for picture, label in texts.items()}
    counts = {len(cells) for cells in columns.values()}
    notes = ()
    if (
        len(counts) == 1
        and counts != {1}
        and all(NUMBER.fullmatch(cell) for cells in columns.values() for cell in cells)
    ):
        texts = {picture: cells[0] for picture, cells in columns.items()}
        notes = (f"the label is the first of the {counts.pop()} numbers that follow the name of a picture",)
    are_numbers = all(NUMBER.fullmatch(text) for text in texts.values())
    names = sorted({*texts.values()}, key=(lambda text: (int(text), text)) if are_numbers else None)
    numbers = {name: number for number, name in enumerate(names)}
    read = (f"labels: {division.label_source or some(division.files)}",)
    return (
        {picture: numbers[text] for picture, text in texts.items()},
        tuple(map(text_of, names)),
        Summary(read, (), notes),
    )
