"""Which folders of a data set are its training and test parts, and which are its classes."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..runtime.errors import InputError, unknown
from .dataset import Summary
from .labels import alike, spelling
from .listing import PICTURED, WNID, Listing, UnlabelledError, names, some, text_of, unread_labels
from .splits import PLAIN, split_of

HERE = "."
"""The name of a training part that is the folder itself: its own folders are the classes."""
NUMBERED = re.compile(r"(.*[^\W\d].*?)\d+|(.+[-_ .])[a-z]")
CLASS_WORDS = ("class", "category", "label", "type", "cls", "c")
"""Folders that differ only in a number are parts of a set rather than classes, except behind these words."""


class PartNames(NamedTuple):
    """The folders that the user named as parts."""

    train: str | None = None
    test: str | None = None


UNNAMED = PartNames()
Places = dict[str, Path]
"""The folder of every class, by the class folder's name."""


@dataclass(frozen=True)
class Layout:
    """The class folders of both parts, by the name of the class; `test` is None where there is no test part.

    `beside` are folders of which only the files, not the folders, are looked at: those that hold the class folders.
    """

    train: Places
    test: Places | None
    read: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the class folders, in alphabetical order."""
        return tuple(sorted(self.train))

    @property
    def summary(self) -> Summary:
        return Summary(self.read, self.left_out, self.guessed)


def folder_layout(folder: Path, listing: Listing, parts: PartNames = UNNAMED) -> Layout:
    """How a folder is divided.

    Parts are folders named after one (`split_of`) that hold class folders, beside one another or inside every class; a
    folder that holds nothing but one other is looked through. Raises InputError where there are several readings and
    none is more plausible, with the flags that decide.
    """
    return _Finder(listing, unwrapped(folder, listing), folder).found(parts)


def unwrapped(folder: Path, listing: Listing) -> Path:
    """The innermost folder to which only single folders lead, and which holds several, or parts."""
    inner = folder
    while (only := _only(inner, listing)) and (split_of(only.name) is None or _holds_parts(only, listing)):
        inner = only
    inside = list(itertools.islice(listing.subfolders(inner), 2))
    return inner if len(inside) > 1 or any(split_of(place.name) for place in inside) else folder


def _only(folder: Path, listing: Listing) -> Path | None:
    """The one folder in it that holds pictures, where there are not several."""
    inside = list(itertools.islice(listing.subfolders(folder), 2))
    return inside[0] if len(inside) == 1 else None


def _holds_parts(folder: Path, listing: Listing) -> bool:
    """Whether all folders with pictures are parts, of different kinds, that hold class folders."""
    places = listing.entries(folder).folders
    kinds = {split_of(place.name) for place in places}
    return len(kinds) > 1 and None not in kinds and any(any(listing.subfolders(place)) for place in places)


@dataclass(frozen=True)
class _Finder:
    listing: Listing
    root: Path
    folder: Path
    notes: list[str] = field(default_factory=list[str])

    def found(self, parts: PartNames) -> Layout:
        if parts.train is not None or parts.test is not None:
            return self._named(parts)
        if all(WNID.fullmatch(place.name) for place in self.listing.entries(self.root).folders):
            return self._classes()  # a thousand folders, of which only those that are wanted are looked into
        return self._inner() or self._outer() or self._classes()

    # parts beside one another

    def _outer(self) -> Layout | None:
        """Parts beside one another; None where no folder is one."""
        places = list(self.listing.subfolders(self.root))
        spoken = [place for place in places if split_of(place.name)]
        others = [place for place in places if not split_of(place.name)]
        if not any(self._labelled(place) for place in spoken):
            return self._check_flat(spoken, others)
        trains = [place for place in spoken if split_of(place.name) == "train" and self._labelled(place)]
        if len(trains) > 1:
            raise self._several("train", trains)
        if not trains:
            return self._without_train(spoken, others)
        train = trains[0]
        if len(spoken) == 1 and not self._is_part(train, others):
            raise self._question(train, others)
        return self._parts(train, spoken, others)

    def _labelled(self, place: Path) -> bool:
        """Whether pictures of a part lie in folders of their own, of which that part again (test/test) is none."""
        only = _only(place, self.listing)
        if only is not None and split_of(only.name) and split_of(only.name) == split_of(place.name):
            return self._labelled(only)
        return any(True for _ in self.listing.subfolders(place))

    def _is_part(self, train: Path, others: Sequence[Path]) -> bool:
        """Whether a folder called train is the training part though there is no test part but there are other folders:
        where they hold the same classes, or there is only one, without classes."""
        if not others or (len(others) == 1 and not self._labelled(others[0])):
            return True
        classes = {place.name for place in self._class_places(train)}
        return all(classes & {place.name for place in self.listing.subfolders(other)} for other in others)

    def _check_flat(self, spoken: Sequence[Path], others: Sequence[Path]) -> None:
        """Nothing, for folders that are classes though they are called like parts; raises InputError where they could
        be parts whose pictures have no labels."""
        kinds = {split_of(place.name) for place in spoken}
        plain = [place for place in spoken if PLAIN.fullmatch(place.name.lower())]
        if len(kinds) > 1 or (plain and (not others or kinds != {"train"})):
            raise UnlabelledError(
                f"{self._at()} holds pictures in {names(spoken)}, but not in class folders inside them, so that nothing"
                f" tells their classes{unread_labels(self._others(spoken))}; expected "
                f"{self._at()}/train/<class>/*.png, or --data.train-part {HERE} if the folders here are the classes."
            )
        if spoken:
            self.notes.append(
                f"{_folders(spoken)} as one of the classes, not as a part: no class folders are in it "
                "(--data.train-part names a training part)"
            )

    def _others(self, places: Sequence[Path]) -> list[Path]:
        """The files of the root and of some folders that are no pictures."""
        return [path for place in (self.root, *places) for path in self.listing.entries(place).others]

    def _without_train(self, spoken: Sequence[Path], others: Sequence[Path]) -> Layout | None:
        tests = [place for place in spoken if self._labelled(place)]
        plain = [place for place in tests if PLAIN.fullmatch(place.name.lower())]
        known = {place.name for place in others}
        if len(tests) == 1 and known and {place.name for place in self._class_places(tests[0])} <= known:
            self.notes.append(
                f"{_folders(tests)} as the test part of the classes beside it (--data.train-part {HERE} reads it as a "
                "class)"
            )
            left = tuple(f"folder {text_of(place.name)}, which is not read" for place in spoken if place not in tests)
            return self._layout({place.name: place for place in others}, self.root, tests[0], left)
        if not plain and others:
            return None
        raise InputError(
            f"{self._at()} holds {names(spoken)} but no training part with class folders; name the folder that is "
            f"one with --data.train-part NAME, or --data.train-part {HERE} if the folders here are the classes."
        )

    def _parts(self, train: Path, spoken: Sequence[Path], others: Sequence[Path]) -> Layout:
        classes = {place.name: place for place in self._class_folders(train)}
        if _holds_parts(self._part_root(train), self.listing):
            raise InputError(
                f"The training part {text_of(train)} holds {names(classes.values())}, which are parts again; name a "
                "folder below it with --data.train-part, and one with --data.test-part."
            )
        test = self._test_part([place for place in spoken if split_of(place.name) != "train"], classes)
        unread = [place for place in spoken if place not in (train, test)]
        left = [f"folder {text_of(place.name)}, {self._why_unread(place, test, classes)}" for place in unread]
        left += [f"folder {text_of(place.name)}, which is not named after a part" for place in others]
        return self._layout(classes, train, test, tuple(left))

    def _test_part(self, spoken: Sequence[Path], classes: Mapping[str, Path]) -> Path | None:
        """The test part, or the validation part where no folder of a test part holds labelled pictures."""
        candidates = [place for place in spoken if self._labelled(place)]
        fitting = [place for place in candidates if self._shares(place, classes)]
        if not fitting:  # test/images tells no classes
            inside = {place: {inner.name.lower() for inner in self._class_places(place)} for place in candidates}
            fitting = [place for place in candidates if not inside[place] <= PICTURED]
        for kind in ("test", "validation"):
            named = [place for place in fitting if split_of(place.name) == kind]
            if len(named) > 1:
                raise self._several("test", named)
            if named and kind == "validation":
                self.notes.append(
                    f"the validation part {text_of(named[0].name)} as the test part, since there is no other with "
                    "labels (--data.test-part names another)"
                )
            if named:
                return named[0]
        return None

    def _shares(self, place: Path, classes: Mapping[str, Path]) -> bool:
        """Whether any class folder of a part is one of these classes, spelt so or otherwise."""
        known = {spelling(name) for name in classes}
        return any(spelling(inner.name) in known for inner in self._class_places(place))

    def _why_unread(self, place: Path, test: Path | None, classes: Mapping[str, Path]) -> str:
        if not self._labelled(place):
            return "whose pictures lie in no class folders and so have no labels"
        if not self._shares(place, classes):
            return "whose folders are no classes of the training part"
        return f"since folder {text_of(test.name)} is the test part" if test else "which is not read"

    # parts that are named by the user

    def _named(self, parts: PartNames) -> Layout:
        given = [name for name in parts if name is not None and name != HERE]
        places = list(self.listing.subfolders(self.root))
        beside = any((self.root / name).is_dir() for name in given)
        if not beside and any((place / name).is_dir() for place in places for name in given):
            return self._divided(places, parts)
        test = None if parts.test is None else self._part("test", parts.test)
        train = self._train_beside(test) if parts.train is None else self._part("training", parts.train)
        if train == test:
            raise InputError(f"{text_of(train)} cannot be the training part and the test part; name two folders.")
        classes = {place.name: place for place in self._class_folders(train) if place != test}
        if test is None and train != self.root:
            beside = [place for place in places if place != train and split_of(place.name) not in ("train", None)]
            test = self._test_part(beside, classes)
        read = (train, test, *classes.values())
        left = (place.name for place in places if place not in read)
        words = tuple(f"folder {text_of(name)}, which was not asked for" for name in left)
        return self._layout(classes, train, test, words)

    def _train_beside(self, test: Path | None) -> Path:
        """The training part where only the test part was named."""
        spoken = [place for place in self.listing.subfolders(self.root) if split_of(place.name) == "train"]
        trains = [place for place in spoken if self._labelled(place) and place != test]
        if len(trains) > 1:
            raise self._several("train", trains)
        return trains[0] if trains else self.root

    def _part(self, kind: str, name: str) -> Path:
        if name == HERE:
            return self.root
        within = not Path(name).is_absolute() and ".." not in Path(name).parts
        places = [place for place in (self.root / name, self.folder / name) if within and place.is_dir()]
        if not places:
            known = [text_of(place.name) for place in self.listing.entries(self.root).folders]
            raise unknown(f"{kind} part", name, known, where=f"in {self._at()}")
        return places[0]

    # parts inside every class

    def _inner(self) -> Layout | None:
        """A training and a test part inside every class; None where no class is divided so, or a folder is a part."""
        places = list(self.listing.subfolders(self.root))
        divided = [place for place in places if self._is_divided(place)]
        whole = [place for place in places if place not in divided]
        if not any(_only(place, self.listing) is None for place in divided) or any(split_of(p.name) for p in whole):
            return None
        if whole:
            raise InputError(
                f"In {self._at()} class {text_of(divided[0].name)} is divided into parts and class "
                f"{text_of(whole[0].name)} is not; divide every class, or none, or name a folder below it with --data."
            )
        return self._divided(divided, UNNAMED)

    def _is_divided(self, place: Path) -> bool:
        """Whether every folder of a class that holds pictures is named after a part, one of them for training."""
        kinds = set[str]()
        for part in self.listing.subfolders(place):
            kind = split_of(part.name)
            if kind is None:
                return False
            kinds.add(kind)
        return "train" in kinds

    def _divided(self, places: Sequence[Path], parts: PartNames) -> Layout:
        train = {place.name: self._train_in(place, parts.train) for place in places}
        kinds = ("test",)
        if not any(self._inner_part(place, kinds, parts.test) for place in places):
            kinds = ("validation",)
        tests = {place.name: self._inner_part(place, kinds, parts.test) for place in places}
        test = {name: part for name, part in tests.items() if part}
        if test and kinds == ("validation",) and not parts.test:
            self.notes.append("the validation part of every class as the test part, since there is no other")
        read = {*train.values(), *test.values()}
        unread = {part.name for place in places for part in self.listing.subfolders(place) if part not in read}
        passed = self._passed()
        stray = [path for place in (*passed, *places) for path in self.listing.entries(place).pictures]
        absent = [name for name in sorted(train) if test and name not in test]
        return Layout(
            train,
            test or None,
            (*self._through(), f"training part: folders {_inside(train)}", *_test_words(_inside(test))),
            (
                *(f"folders {text_of(name)} of the classes, which are not read" for name in sorted(unread)),
                *_stray(stray),
                *_untested(absent),
            ),
            tuple(self.notes),
            (*passed, self.root, *places),
        )

    def _train_in(self, place: Path, name: str | None) -> Path:
        part = self._inner_part(place, ("train",), name)
        if part is None:
            raise InputError(
                f"In {self._at()} class {text_of(place.name)} has no training part {name or ''}; divide all alike."
            )
        return part

    def _inner_part(self, place: Path, kinds: Sequence[str], name: str | None) -> Path | None:
        if name is not None:
            return place / name if (place / name).is_dir() else None
        parts = [part for part in self.listing.subfolders(place) if split_of(part.name) in kinds]
        if len(parts) > 1:
            raise self._several("train" if "train" in kinds else "test", parts)
        return parts[0] if parts else None

    # classes

    def _classes(self) -> Layout:
        """The folders of the root as classes."""
        places = self.listing.entries(self.root).folders
        self._check_numbered()
        self._check_deeper()
        return self._layout({place.name: place for place in places}, self.root, None, ())

    def _check_numbered(self) -> None:
        """Raise InputError for folders such as fold1 and fold2 that hold the same classes."""
        places = list(self.listing.subfolders(self.root))
        matches = [NUMBERED.fullmatch(place.name.lower()) for place in places]
        stems = {match and (match[1] or match[2]).strip("_-. ") for match in matches}
        inside = [{inner.name for inner in self.listing.subfolders(place)} for place in places]
        if len(places) < 2 or len(stems) > 1 or stems & {None, *CLASS_WORDS} or len(set.intersection(*inside)) < 2:
            return
        first, second = (text_of(place.name) for place in places[:2])
        raise InputError(
            f"{self._at()} holds {names(places)}, which hold the same folders ({some(sorted(map(Path, inside[0])))}), "
            f"so they could be parts or classes; name parts: --data.train-part {first} --data.test-part {second}, or "
            f"give --data.train-part {HERE} if they are the classes."
        )

    def _check_deeper(self) -> None:
        """Raise InputError where a class holds nothing but parts, which would become one."""
        for place in self.listing.subfolders(self.root):
            inner = place
            while (only := _only(inner, self.listing)) and split_of(only.name) is None:
                inner = only
            parts = list(self.listing.subfolders(inner))
            if parts and all(split_of(part.name) and PLAIN.fullmatch(part.name.lower()) for part in parts):
                raise InputError(
                    f"{text_of(inner)} holds {names(parts)}, which are called like parts, but {self._at()} is not "
                    f"divided so; name another folder with --data, or give --data.train-part {HERE} if all of "
                    f"{text_of(place.name)} is one class."
                )

    def _class_places(self, part: Path) -> Iterator[Path]:
        """The class folders of a part that hold pictures."""
        return self.listing.subfolders(self._part_root(part))

    def _class_folders(self, part: Path) -> tuple[Path, ...]:
        """All class folders of a part."""
        return self.listing.entries(self._part_root(part)).folders

    def _part_root(self, part: Path) -> Path:
        """A part, or the folder of it that it consists of: seg_train/seg_train/<class>."""
        only = None if part == self.root else _only(part, self.listing)
        if only is None or not self._labelled(only):
            return part
        inner = self._part_root(only)
        alike = split_of(only.name) == split_of(part.name) and split_of(part.name) is not None
        return inner if alike or (_only(inner, self.listing) is None) else part

    # sentences

    def _layout(self, classes: Places, train: Path, test: Path | None, left_out: tuple[str, ...]) -> Layout:
        tests, absent = None, list[str]()
        if test is not None:
            tests = self._checked_test(test, classes)
            absent = [name for name in sorted(classes) if name not in tests]
        parts = (train,) if test is None else (train, test)
        roots = dict.fromkeys([*self._passed(), self.root, *parts, *(self._part_root(part) for part in parts)])
        stray = [path for root in roots for path in self.listing.entries(root).pictures]
        same = _same([*classes.values(), *(tests or {}).values()])
        return Layout(
            classes,
            tests,
            (*self._through(), f"training part: folder {self._name(train)}", *_test_words(test and self._name(test))),
            (*left_out, *self._empty(train), *_stray(stray), *_untested(absent)),
            (
                *self.notes,
                *alike(map(text_of, classes)),
                *same,
                *self._nested([*classes.items(), *(tests or {}).items()]),
            ),
            tuple(roots),
        )

    def _name(self, part: Path) -> str:
        if part == self.root:
            return text_of(part.resolve().name)
        return text_of(Path(os.path.relpath(self._part_root(part), self.root)).as_posix())

    def _checked_test(self, test: Path, classes: Mapping[str, Path]) -> Places:
        """The test part's class folders. Raises InputError for one with pictures that is not trained on."""
        spelt = {spelling(name): name for name in classes}
        for place in self._class_folders(test):
            if place.name in classes or not self.listing.has_pictures(place):
                continue
            other = spelt.get(spelling(place.name))
            called = f", which calls it '{text_of(other or '')}'" * bool(other)
            raise InputError(
                f"{text_of(test)} holds a class '{text_of(place.name)}' that the training part does not{called}; "
                "rename it or take it out."
            )
        return {place.name: place for place in self._class_folders(test) if place.name in classes}

    def _nested(self, classes: Sequence[tuple[str, Path]]) -> tuple[str, ...]:
        """A note on classes that hold several folders of pictures each, or one beside pictures of their own: these
        might be the classes, or copies such as thumbnails."""
        if any(WNID.fullmatch(name) for name, _ in classes):
            return ()
        inner = ((name, self._deepest(place)) for name, place in classes)
        several = [(name, places) for name, place in inner if (places := self._several_in(place))]
        if not several:
            return ()
        name, places = several[0]
        return (
            f"folders inside class folders count to the class, such as {some(places)} to {text_of(name)} (where these "
            "are the classes, name the folder that holds them with --data or --data.train-part)",
        )

    def _deepest(self, place: Path) -> Path:
        """The folder that holds the pictures of a class, or several folders of them."""
        while not self.listing.entries(place).pictures and (only := _only(place, self.listing)):
            place = only
        return place

    def _several_in(self, place: Path) -> list[Path]:
        """The folders of pictures in one, where there are several, or pictures beside them."""
        inner = list(self.listing.subfolders(place))
        return inner if len(inner) > 1 or self.listing.entries(place).pictures else []

    def _passed(self) -> list[Path]:
        """The folders that were looked through to reach the root."""
        if self.root == self.folder:
            return []
        return [place for place in reversed(self.root.parents) if place.is_relative_to(self.folder)]

    def _empty(self, train: Path) -> Iterator[str]:
        """A word on folders beside the training part that hold no pictures, and beside those that were looked
        through."""
        places = [*self._passed(), *([self.root] * (train != self.root))]
        beside = (inner for place in places for inner in self.listing.entries(place).folders)
        empty = (place for place in beside if not self.listing.has_pictures(place))
        return (f"folder {text_of(place.name)}, which holds no pictures" for place in empty)

    def _through(self) -> tuple[str, ...]:
        """A word on the folders that were looked through."""
        if self.root == self.folder:
            return ()
        return (f"everything lies in folder {text_of(self.root.relative_to(self.folder).as_posix())}",)

    def _several(self, part: str, places: Sequence[Path]) -> InputError:
        kind = {"train": "training", "test": "test"}[part]
        return InputError(
            f"{self._at()} holds several folders that could be the {kind} part: {names(places)}; name one with "
            f"--data.{part}-part {text_of(places[0].name)}."
        )

    def _question(self, train: Path, others: Sequence[Path]) -> InputError:
        return InputError(
            f"In {self._at()} the folder {text_of(train.name)} could be the training part, or a class beside "
            f"{some(others)}; give --data.train-part {text_of(train.name)} or --data.train-part {HERE}."
        )

    def _at(self) -> str:
        return text_of(self.root)


def _same(places: Sequence[Path]) -> tuple[str, ...]:
    """A note on folders that are one and the same behind links."""
    if not any(os.path.islink(place) for place in places):
        return ()
    leading = dict[str, list[Path]]()
    for place in places:
        leading.setdefault(os.path.realpath(place), []).append(place)
    twice = [names(group) for group in leading.values() if len(group) > 1]
    return tuple(f"the same folder in several places: {group}" for group in twice)


def _folders(places: Sequence[Path]) -> str:
    return f"{'folder' if len(places) == 1 else 'folders'} {names(places)}"


def _inside(parts: Mapping[str, Path | None]) -> str:
    spoken = sorted({part.name for part in parts.values() if part})
    return f"{' and '.join(map(text_of, spoken))} of the classes" if spoken else ""


def _test_words(where: str | None) -> tuple[str, ...]:
    """A word on the test part, where there is one."""
    if not where:
        return ()
    return (f"test part: {'folders' if where.endswith(' of the classes') else 'folder'} {where}",)


def _untested(absent: Sequence[str]) -> tuple[str, ...]:
    return (f"classes without test pictures: {len(absent)} ({some(map(Path, absent))})",) * bool(absent)


def _stray(pictures: Sequence[Path]) -> tuple[str, ...]:
    return (f"{len(pictures)} pictures that lie in no class folder ({some(pictures)})",) * bool(pictures)
