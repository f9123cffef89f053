"""Detects which folders of a data set are its training and test parts, and which are its classes."""

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
"""The name of a training part that is the folder itself: its subfolders are the classes."""
NUMBERED = re.compile(r"(.*[^\W\d].*?)\d+|(.+[-_ .])[a-z]")
CLASS_WORDS = ("class", "category", "label", "type", "cls", "c")
"""Folders that differ only in a number are parts of a set rather than classes, except after these words."""


class PartNames(NamedTuple):
    """The folders that the user named as parts."""

    train: str | None = None
    test: str | None = None


UNNAMED = PartNames()
ClassFolders = dict[str, Path]
"""The folder of every class, by folder name."""


@dataclass(frozen=True)
class Layout:
    """The class folders of both parts, by class name; `test` is None if there is no test part.

    `parents` are the folders that contain the class folders; only their files are considered, not their subfolders.
    """

    train: ClassFolders
    test: ClassFolders | None
    read: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()
    parents: tuple[Path, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the class folders, in alphabetical order."""
        return tuple(sorted(self.train))

    @property
    def summary(self) -> Summary:
        return Summary(self.read, self.left_out, self.guessed)


def folder_layout(folder: Path, listing: Listing, parts: PartNames = UNNAMED) -> Layout:
    """The parts and classes of a folder.

    Parts are folders with the name of a part (`split_of`) that contain class folders; they are siblings or subfolders
    of every class. A folder whose only content is one subfolder is replaced by that subfolder. Raises InputError for an
    ambiguous layout; the message names the flags that resolve it.
    """
    return _Finder(listing, unwrapped(folder, listing), folder).find(parts)


def unwrapped(folder: Path, listing: Listing) -> Path:
    """The first folder on the chain of single subfolders that contains several subfolders or a part; `folder` itself if
    there is none."""
    inner = folder
    while (single := _single_subfolder(inner, listing)) and (
        split_of(single.name) is None or _holds_parts(single, listing)
    ):
        inner = single
    subfolders = list(itertools.islice(listing.subfolders(inner), 2))
    return inner if len(subfolders) > 1 or any(split_of(subfolder.name) for subfolder in subfolders) else folder


def _single_subfolder(folder: Path, listing: Listing) -> Path | None:
    """The subfolder with pictures if there is exactly one, else None."""
    subfolders = list(itertools.islice(listing.subfolders(folder), 2))
    return subfolders[0] if len(subfolders) == 1 else None


def _holds_parts(folder: Path, listing: Listing) -> bool:
    """Whether all subfolders are parts of at least two kinds, and one of them contains class folders."""
    subfolders = listing.entries(folder).folders
    kinds = {split_of(subfolder.name) for subfolder in subfolders}
    return len(kinds) > 1 and None not in kinds and any(any(listing.subfolders(subfolder)) for subfolder in subfolders)


@dataclass(frozen=True)
class _Finder:
    listing: Listing
    root: Path
    folder: Path
    notes: list[str] = field(default_factory=list[str])

    def find(self, parts: PartNames) -> Layout:
        if parts.train is not None or parts.test is not None:
            return self._from_named_parts(parts)
        if all(WNID.fullmatch(subfolder.name) for subfolder in self.listing.entries(self.root).folders):
            return self._folders_as_classes()  # 1000 folders of ImageNet: only those of the chosen classes are listed
        return self._parts_in_classes() or self._parts_as_siblings() or self._folders_as_classes()

    # parts as sibling folders

    def _parts_as_siblings(self) -> Layout | None:
        """The layout with parts as sibling folders; None if no folder is a part."""
        subfolders = list(self.listing.subfolders(self.root))
        part_folders = [subfolder for subfolder in subfolders if split_of(subfolder.name)]
        others = [subfolder for subfolder in subfolders if not split_of(subfolder.name)]
        if not any(self._has_class_folders(subfolder) for subfolder in part_folders):
            return self._check_flat(part_folders, others)
        trains = [
            subfolder
            for subfolder in part_folders
            if split_of(subfolder.name) == "train" and self._has_class_folders(subfolder)
        ]
        if len(trains) > 1:
            raise self._several_parts_error("train", trains)
        if not trains:
            return self._without_train(part_folders, others)
        train = trains[0]
        if len(part_folders) == 1 and not self._is_part(train, others):
            raise self._ambiguous_part_error(train, others)
        return self._layout_of_parts(train, part_folders, others)

    def _has_class_folders(self, folder: Path) -> bool:
        """Whether a part has subfolders with pictures, apart from one repetition of the part (test/test)."""
        single = _single_subfolder(folder, self.listing)
        if single is not None and split_of(single.name) and split_of(single.name) == split_of(folder.name):
            return self._has_class_folders(single)
        return any(True for _ in self.listing.subfolders(folder))

    def _is_part(self, train: Path, others: Sequence[Path]) -> bool:
        """Whether a folder called train is the training part although there is no test part: true if there are no other
        folders, if the others share its classes, or if the only other folder has no classes."""
        if not others or (len(others) == 1 and not self._has_class_folders(others[0])):
            return True
        classes = {folder.name for folder in self._nonempty_class_folders(train)}
        return all(classes & {folder.name for folder in self.listing.subfolders(other)} for other in others)

    def _check_flat(self, part_folders: Sequence[Path], others: Sequence[Path]) -> None:
        """Raise InputError if folders with names of parts could be parts whose pictures have no labels; otherwise they
        are classes, and a note is added."""
        kinds = {split_of(folder.name) for folder in part_folders}
        plain = [folder for folder in part_folders if PLAIN.fullmatch(folder.name.lower())]
        if len(kinds) > 1 or (plain and (not others or kinds != {"train"})):
            raise UnlabelledError(
                f"{self._root_text()} holds pictures in {names(part_folders)}, but not in class folders inside them, "
                f"so that their classes are unknown{unread_labels(self._other_files(part_folders))}; expected "
                f"{self._root_text()}/train/<class>/*.png, or --data.train-part {HERE} if the folders here are the "
                "classes."
            )
        if part_folders:
            self.notes.append(
                f"{_list_folders(part_folders)} as one of the classes, not as a part: no class folders are in it "
                "(--data.train-part names a training part)"
            )

    def _other_files(self, folders: Sequence[Path]) -> list[Path]:
        """The files in the root and in `folders` that are not pictures."""
        return [path for folder in (self.root, *folders) for path in self.listing.entries(folder).others]

    def _without_train(self, part_folders: Sequence[Path], others: Sequence[Path]) -> Layout | None:
        tests = [folder for folder in part_folders if self._has_class_folders(folder)]
        plain = [folder for folder in tests if PLAIN.fullmatch(folder.name.lower())]
        class_names = {folder.name for folder in others}
        if (
            len(tests) == 1
            and class_names
            and {folder.name for folder in self._nonempty_class_folders(tests[0])} <= class_names
        ):
            self.notes.append(
                f"{_list_folders(tests)} as the test part of the classes beside it (--data.train-part {HERE} reads it "
                "as a class)"
            )
            left_out = tuple(
                f"folder {text_of(folder.name)}, which is not read" for folder in part_folders if folder not in tests
            )
            return self._build_layout({folder.name: folder for folder in others}, self.root, tests[0], left_out)
        if not plain and others:
            return None
        raise InputError(
            f"{self._root_text()} holds {names(part_folders)} but no training part with class folders; name the folder "
            f"that is one with --data.train-part NAME, or --data.train-part {HERE} if the folders here are the classes."
        )

    def _layout_of_parts(self, train: Path, part_folders: Sequence[Path], others: Sequence[Path]) -> Layout:
        classes = {folder.name: folder for folder in self._class_folders(train)}
        if _holds_parts(self._part_root(train), self.listing):
            raise InputError(
                f"The training part {text_of(train)} holds {names(classes.values())}, which are parts again; name a "
                "folder below it with --data.train-part, and one with --data.test-part."
            )
        test = self._test_part([folder for folder in part_folders if split_of(folder.name) != "train"], classes)
        unread = [folder for folder in part_folders if folder not in (train, test)]
        left_out = [f"folder {text_of(folder.name)}, {self._reason_unread(folder, test, classes)}" for folder in unread]
        left_out += [f"folder {text_of(folder.name)}, which is not named after a part" for folder in others]
        return self._build_layout(classes, train, test, tuple(left_out))

    def _test_part(self, part_folders: Sequence[Path], classes: Mapping[str, Path]) -> Path | None:
        """The test part, or the validation part if no test part has labelled pictures; None without both."""
        candidates = [folder for folder in part_folders if self._has_class_folders(folder)]
        fitting = [folder for folder in candidates if self._shares_class(folder, classes)]
        if not fitting:  # a folder such as test/images is not a class
            subfolder_names = {
                folder: {subfolder.name.lower() for subfolder in self._nonempty_class_folders(folder)}
                for folder in candidates
            }
            fitting = [folder for folder in candidates if not subfolder_names[folder] <= PICTURED]
        for kind in ("test", "validation"):
            matching = [folder for folder in fitting if split_of(folder.name) == kind]
            if len(matching) > 1:
                raise self._several_parts_error("test", matching)
            if matching and kind == "validation":
                self.notes.append(
                    f"the validation part {text_of(matching[0].name)} as the test part, since there is no other with "
                    "labels (--data.test-part names another)"
                )
            if matching:
                return matching[0]
        return None

    def _shares_class(self, folder: Path, classes: Mapping[str, Path]) -> bool:
        """Whether any class folder of a part is one of these classes, up to spelling."""
        spellings = {spelling(name) for name in classes}
        return any(spelling(subfolder.name) in spellings for subfolder in self._nonempty_class_folders(folder))

    def _reason_unread(self, folder: Path, test: Path | None, classes: Mapping[str, Path]) -> str:
        if not self._has_class_folders(folder):
            return "whose pictures lie in no class folders and so have no labels"
        if not self._shares_class(folder, classes):
            return "whose folders are no classes of the training part"
        return f"since folder {text_of(test.name)} is the test part" if test else "which is not read"

    # parts named by the user

    def _from_named_parts(self, parts: PartNames) -> Layout:
        requested = [name for name in parts if name is not None and name != HERE]
        subfolders = list(self.listing.subfolders(self.root))
        siblings = any((self.root / name).is_dir() for name in requested)
        if not siblings and any((subfolder / name).is_dir() for subfolder in subfolders for name in requested):
            return self._layout_of_parts_in_classes(subfolders, parts)
        test = None if parts.test is None else self._named_part("test", parts.test)
        train = self._find_train_part(test) if parts.train is None else self._named_part("training", parts.train)
        if train == test:
            raise InputError(f"{text_of(train)} cannot be the training part and the test part; name two folders.")
        classes = {subfolder.name: subfolder for subfolder in self._class_folders(train) if subfolder != test}
        if test is None and train != self.root:
            siblings = [
                subfolder
                for subfolder in subfolders
                if subfolder != train and split_of(subfolder.name) not in ("train", None)
            ]
            test = self._test_part(siblings, classes)
        used = (train, test, *classes.values())
        unused = (subfolder.name for subfolder in subfolders if subfolder not in used)
        notes = tuple(f"folder {text_of(name)}, which was not asked for" for name in unused)
        return self._build_layout(classes, train, test, notes)

    def _find_train_part(self, test: Path | None) -> Path:
        """The training part if the user named the test part only."""
        candidates = [folder for folder in self.listing.subfolders(self.root) if split_of(folder.name) == "train"]
        trains = [folder for folder in candidates if self._has_class_folders(folder) and folder != test]
        if len(trains) > 1:
            raise self._several_parts_error("train", trains)
        return trains[0] if trains else self.root

    def _named_part(self, kind: str, name: str) -> Path:
        if name == HERE:
            return self.root
        is_relative = not Path(name).is_absolute() and ".." not in Path(name).parts
        paths = [path for path in (self.root / name, self.folder / name) if is_relative and path.is_dir()]
        if not paths:
            available = [text_of(path.name) for path in self.listing.entries(self.root).folders]
            raise unknown(f"{kind} part", name, available, context=f"in {self._root_text()}")
        return paths[0]

    # parts inside every class

    def _parts_in_classes(self) -> Layout | None:
        """The layout with a training and a test part inside every class; None if no class has this structure, or a
        folder is a part."""
        subfolders = list(self.listing.subfolders(self.root))
        divided = [subfolder for subfolder in subfolders if self._is_divided(subfolder)]
        undivided = [subfolder for subfolder in subfolders if subfolder not in divided]
        if not any(_single_subfolder(subfolder, self.listing) is None for subfolder in divided) or any(
            split_of(folder.name) for folder in undivided
        ):
            return None
        if undivided:
            raise InputError(
                f"In {self._root_text()} class {text_of(divided[0].name)} is divided into parts and class "
                f"{text_of(undivided[0].name)} is not; divide every class, or none, or name a folder below it with "
                "--data."
            )
        return self._layout_of_parts_in_classes(divided, UNNAMED)

    def _is_divided(self, folder: Path) -> bool:
        """Whether all subfolders of a class with pictures are named after parts, one of them the training part."""
        kinds = set[str]()
        for part in self.listing.subfolders(folder):
            kind = split_of(part.name)
            if kind is None:
                return False
            kinds.add(kind)
        return "train" in kinds

    def _layout_of_parts_in_classes(self, class_folders: Sequence[Path], parts: PartNames) -> Layout:
        train = {folder.name: self._train_part_of(folder, parts.train) for folder in class_folders}
        kinds = ("test",)
        if not any(self._inner_part(folder, kinds, parts.test) for folder in class_folders):
            kinds = ("validation",)
        tests = {folder.name: self._inner_part(folder, kinds, parts.test) for folder in class_folders}
        test = {name: part for name, part in tests.items() if part}
        if test and kinds == ("validation",) and not parts.test:
            self.notes.append("the validation part of every class as the test part, since there is no other")
        read = {*train.values(), *test.values()}
        unread = {part.name for folder in class_folders for part in self.listing.subfolders(folder) if part not in read}
        outer_folders = self._outer_folders()
        stray = [path for folder in (*outer_folders, *class_folders) for path in self.listing.entries(folder).pictures]
        untested = [name for name in sorted(train) if test and name not in test]
        return Layout(
            train,
            test or None,
            (
                *self._note_on_outer_folders(),
                f"training part: folders {_part_names_in_classes(train)}",
                *_note_on_test_part(_part_names_in_classes(test)),
            ),
            (
                *(f"folders {text_of(name)} of the classes, which are not read" for name in sorted(unread)),
                *_note_on_stray_pictures(stray),
                *_note_on_untested(untested),
            ),
            (*self.notes, *self._notes_on_nested_folders([*train.items(), *test.items()])),
            (*outer_folders, self.root, *class_folders),
        )

    def _train_part_of(self, class_folder: Path, name: str | None) -> Path:
        part = self._inner_part(class_folder, ("train",), name)
        if part is None:
            raise InputError(
                f"In {self._root_text()} class {text_of(class_folder.name)} has no training part {name or ''}; divide "
                "all alike."
            )
        return part

    def _inner_part(self, class_folder: Path, kinds: Sequence[str], name: str | None) -> Path | None:
        if name is not None:
            return class_folder / name if (class_folder / name).is_dir() else None
        parts = [part for part in self.listing.subfolders(class_folder) if split_of(part.name) in kinds]
        if len(parts) > 1:
            raise self._several_parts_error("train" if "train" in kinds else "test", parts)
        return parts[0] if parts else None

    # classes

    def _folders_as_classes(self) -> Layout:
        """The layout with the folders of the root as classes."""
        subfolders = self.listing.entries(self.root).folders
        self._check_numbered()
        self._check_nested_parts()
        return self._build_layout({subfolder.name: subfolder for subfolder in subfolders}, self.root, None, ())

    def _check_numbered(self) -> None:
        """Raise InputError for folders such as fold1 and fold2 that contain the same classes."""
        subfolders = list(self.listing.subfolders(self.root))
        matches = [NUMBERED.fullmatch(subfolder.name.lower()) for subfolder in subfolders]
        stems = {match and (match[1] or match[2]).strip("_-. ") for match in matches}
        contents = [{folder.name for folder in self.listing.subfolders(subfolder)} for subfolder in subfolders]
        if (
            len(subfolders) < 2
            or len(stems) > 1
            or stems & {None, *CLASS_WORDS}
            or len(set.intersection(*contents)) < 2
        ):
            return
        first, second = (text_of(subfolder.name) for subfolder in subfolders[:2])
        raise InputError(
            f"{self._root_text()} holds {names(subfolders)}, which hold the same folders "
            f"({some(sorted(map(Path, contents[0])))}), so they could be parts or classes; name parts: "
            f"--data.train-part {first} --data.test-part {second}, or give --data.train-part {HERE} if they are the "
            "classes."
        )

    def _check_nested_parts(self) -> None:
        """Raise InputError if a class folder contains parts only, which would be merged into one class."""
        for class_folder in self.listing.subfolders(self.root):
            inner = class_folder
            while (single := _single_subfolder(inner, self.listing)) and split_of(single.name) is None:
                inner = single
            parts = list(self.listing.subfolders(inner))
            if parts and all(split_of(part.name) and PLAIN.fullmatch(part.name.lower()) for part in parts):
                raise InputError(
                    f"{text_of(inner)} holds {names(parts)}, which are called like parts, but {self._root_text()} is "
                    f"not divided so; name another folder with --data, or give --data.train-part {HERE} if all of "
                    f"{text_of(class_folder.name)} is one class."
                )

    def _nonempty_class_folders(self, part: Path) -> Iterator[Path]:
        """The class folders of a part that contain pictures."""
        return self.listing.subfolders(self._part_root(part))

    def _class_folders(self, part: Path) -> tuple[Path, ...]:
        """All class folders of a part."""
        return self.listing.entries(self._part_root(part)).folders

    def _part_root(self, part: Path) -> Path:
        """The folder that contains the class folders of a part: the part itself, or its only subfolder as in
        seg_train/seg_train/<class>."""
        single = None if part == self.root else _single_subfolder(part, self.listing)
        if single is None or not self._has_class_folders(single):
            return part
        inner = self._part_root(single)
        same_part = split_of(single.name) == split_of(part.name) and split_of(part.name) is not None
        return inner if same_part or (_single_subfolder(inner, self.listing) is None) else part

    # notes and errors

    def _build_layout(self, classes: ClassFolders, train: Path, test: Path | None, left_out: tuple[str, ...]) -> Layout:
        tests, untested = None, list[str]()
        if test is not None:
            tests = self._test_class_folders(test, classes)
            untested = [name for name in sorted(classes) if name not in tests]
        parts = (train,) if test is None else (train, test)
        roots = dict.fromkeys([*self._outer_folders(), self.root, *parts, *(self._part_root(part) for part in parts)])
        stray = [path for root in roots for path in self.listing.entries(root).pictures]
        link_notes = _notes_on_links([*classes.values(), *(tests or {}).values()])
        return Layout(
            classes,
            tests,
            (
                *self._note_on_outer_folders(),
                f"training part: folder {self._part_name(train)}",
                *_note_on_test_part(test and self._part_name(test)),
            ),
            (
                *left_out,
                *self._notes_on_empty_folders(train),
                *_note_on_stray_pictures(stray),
                *_note_on_untested(untested),
            ),
            (
                *self.notes,
                *alike(map(text_of, classes)),
                *link_notes,
                *self._notes_on_nested_folders([*classes.items(), *(tests or {}).items()]),
            ),
            tuple(roots),
        )

    def _part_name(self, part: Path) -> str:
        if part == self.root:
            return text_of(part.resolve().name)
        return text_of(Path(os.path.relpath(self._part_root(part), self.root)).as_posix())

    def _test_class_folders(self, test: Path, classes: Mapping[str, Path]) -> ClassFolders:
        """The class folders of the test part. Raises InputError for a class with pictures that the training part does
        not have."""
        name_by_spelling = {spelling(name): name for name in classes}
        for folder in self._class_folders(test):
            if folder.name in classes or not self.listing.has_pictures(folder):
                continue
            other = name_by_spelling.get(spelling(folder.name))
            hint = f", which calls it '{text_of(other or '')}'" * bool(other)
            raise InputError(
                f"{text_of(test)} holds a class '{text_of(folder.name)}' that the training part does not{hint}; "
                "rename it or take it out."
            )
        return {folder.name: folder for folder in self._class_folders(test) if folder.name in classes}

    def _notes_on_nested_folders(self, classes: Sequence[tuple[str, Path]]) -> tuple[str, ...]:
        """A note on class folders that contain several subfolders of pictures, or subfolders and pictures: the
        subfolders might be the classes, or copies such as thumbnails."""
        if any(WNID.fullmatch(name) for name, _ in classes):
            return ()
        folders = ((name, self._picture_folder(folder)) for name, folder in classes)
        several = [
            (name, subfolders) for name, folder in folders if (subfolders := self._several_picture_folders(folder))
        ]
        if not several:
            return ()
        name, subfolders = several[0]
        return (
            f"folders inside class folders count to the class, such as {some(subfolders)} to {text_of(name)} (where "
            "these are the classes, name the folder that holds them with --data or --data.train-part)",
        )

    def _picture_folder(self, folder: Path) -> Path:
        """The first folder on the chain of single subfolders that contains pictures or several subfolders."""
        while not self.listing.entries(folder).pictures and (single := _single_subfolder(folder, self.listing)):
            folder = single
        return folder

    def _several_picture_folders(self, folder: Path) -> list[Path]:
        """The subfolders with pictures, if there are several or the folder itself contains pictures; else none."""
        subfolders = list(self.listing.subfolders(folder))
        return subfolders if len(subfolders) > 1 or self.listing.entries(folder).pictures else []

    def _outer_folders(self) -> list[Path]:
        """The folders from `folder` down to the root, without the root."""
        if self.root == self.folder:
            return []
        return [folder for folder in reversed(self.root.parents) if folder.is_relative_to(self.folder)]

    def _notes_on_empty_folders(self, train: Path) -> Iterator[str]:
        """Notes on folders without pictures, next to the training part and in the outer folders."""
        parents = [*self._outer_folders(), *([self.root] * (train != self.root))]
        subfolders = (subfolder for folder in parents for subfolder in self.listing.entries(folder).folders)
        empty = (folder for folder in subfolders if not self.listing.has_pictures(folder))
        return (f"folder {text_of(folder.name)}, which holds no pictures" for folder in empty)

    def _note_on_outer_folders(self) -> tuple[str, ...]:
        """A note on the path from `folder` to the root, if they differ."""
        if self.root == self.folder:
            return ()
        return (f"everything lies in folder {text_of(self.root.relative_to(self.folder).as_posix())}",)

    def _several_parts_error(self, part: str, folders: Sequence[Path]) -> InputError:
        kind = {"train": "training", "test": "test"}[part]
        return InputError(
            f"{self._root_text()} holds several folders that could be the {kind} part: {names(folders)}; name one with "
            f"--data.{part}-part {text_of(folders[0].name)}."
        )

    def _ambiguous_part_error(self, train: Path, others: Sequence[Path]) -> InputError:
        return InputError(
            f"In {self._root_text()} the folder {text_of(train.name)} could be the training part, or a class beside "
            f"{some(others)}; give --data.train-part {text_of(train.name)} or --data.train-part {HERE}."
        )

    def _root_text(self) -> str:
        return text_of(self.root)


def _notes_on_links(folders: Sequence[Path]) -> tuple[str, ...]:
    """Notes on links that lead to the same folder."""
    if not any(os.path.islink(folder) for folder in folders):
        return ()
    groups = dict[str, list[Path]]()
    for folder in folders:
        groups.setdefault(os.path.realpath(folder), []).append(folder)
    duplicates = [names(group) for group in groups.values() if len(group) > 1]
    return tuple(f"the same folder in several places: {group}" for group in duplicates)


def _list_folders(folders: Sequence[Path]) -> str:
    return f"{'folder' if len(folders) == 1 else 'folders'} {names(folders)}"


def _part_names_in_classes(parts: Mapping[str, Path | None]) -> str:
    part_names = sorted({part.name for part in parts.values() if part})
    return f"{' and '.join(map(text_of, part_names))} of the classes" if part_names else ""


def _note_on_test_part(location: str | None) -> tuple[str, ...]:
    """A note on the test part; empty if there is none."""
    if not location:
        return ()
    return (f"test part: {'folders' if location.endswith(' of the classes') else 'folder'} {location}",)


def _note_on_untested(classes: Sequence[str]) -> tuple[str, ...]:
    return (f"classes without test pictures: {len(classes)} ({some(map(Path, classes))})",) * bool(classes)


def _note_on_stray_pictures(pictures: Sequence[Path]) -> tuple[str, ...]:
    return (f"{len(pictures)} pictures that lie in no class folder ({some(pictures)})",) * bool(pictures)
