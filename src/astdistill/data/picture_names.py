"""Finds the pictures that tables and lists of a data set name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from .listing import is_picture, text_of
from .parquet import part_of
from .splits import split_of

ABSOLUTE = re.compile(r"[A-Za-z]:|[/\\]")
"""The start of an absolute path."""


class PictureIndex:
    """Finds pictures by the names that a table or a list may use for them."""

    def __init__(self, folder: Path, pictures: Sequence[Path]) -> None:
        self.folder, self._folder_parts = folder, folder.resolve().parts
        self._cache: dict[tuple[str, Path], list[str]] = {}
        self.paths: dict[str, Path] = {}
        for path in pictures:  # macOS decomposes accented letters in file names; most tables do not
            name = text_of(path.relative_to(folder).as_posix())
            composed = normalize("NFC", name)
            self.paths[name if composed in self.paths else composed] = path
        self._by_name: dict[str, list[PurePosixPath]] = {}
        for name in self.paths:
            path = PurePosixPath(name)
            for each in {path.name, path.stem}:
                self._by_name.setdefault(each, []).append(path)

    def matches(self, text: str, table: Path) -> list[str]:
        """The paths of the pictures that a value in a table may refer to, closest matches only: the picture at exactly
        this path, else those whose path ends with it. A path of another machine is matched by its last folders or its
        file name."""
        if (text, table) not in self._cache:  # every value is looked up two or three times
            self._cache[text, table] = self._matches(text, table)
        return self._cache[text, table]

    def _matches(self, text: str, table: Path) -> list[str]:
        requested = PurePosixPath(normalize("NFC", text.replace("\\", "/")))
        same_name = [path for path in self._by_name.get(requested.name, ()) if self._has_name(path, requested.name)]
        table_folders, part = _table_location(self.folder, table)
        for folders in self._candidate_folders(text, requested.parts[:-1], table_folders):
            if exact := [path for path in same_name if path.parts[:-1] == folders]:
                return [str(path) for path in exact]
        folders = () if ABSOLUTE.match(text) else requested.parts[:-1]
        same_end = [
            path for path in same_name if _ends_with(path.parts[:-1], folders) and not _in_other_part(path, part)
        ]
        nearest = [path for path in same_end if path.parts[: len(table_folders)] == table_folders]
        if len(nearest) != 1:
            nearest = [path for path in same_end if part and part in {*map(split_of, path.parts[:-1])}]
        return [str(path) for path in (nearest if len(nearest) == 1 else same_end)]

    def _has_name(self, path: PurePosixPath, name: str) -> bool:
        """Whether a picture has this name, which may lack its ending."""
        return (path.name == name) == is_picture(name)

    def spelling_hint(self, text: str) -> str:
        """A clause that names a picture which differs in case only; '' if there is none."""
        other = self._by_lowercase_name.get(file_name(text).lower())
        return f" (there is '{other}')" if other else ""

    @cached_property
    def folders(self) -> FolderIndex:
        """The same for the folders that contain the pictures."""
        return FolderIndex(self)

    @cached_property
    def _by_lowercase_name(self) -> dict[str, str]:
        """Paths of pictures by lowercase file name."""
        return {PurePosixPath(name).name.lower(): name for name in self.paths}

    def _candidate_folders(
        self, text: str, folders: tuple[str, ...], table_folders: tuple[str, ...]
    ) -> Iterator[tuple[str, ...]]:
        """The folders that a path may refer to, relative to the folder of pictures, most likely first: relative to the
        table, to the folder of pictures, and to the folders above it."""
        if ABSOLUTE.match(text):
            yield from (folders[start:] for start in range(1, len(folders)))
            return
        yield _resolve_parents(table_folders + folders)
        yield folders
        counts = (count for count in range(1, len(folders) + 1) if self._folder_parts[-count:] == folders[:count])
        yield from (folders[count:] for count in counts)


class FolderIndex(PictureIndex):
    """Finds the folders of some pictures by the names that a table may use for them, such as one for each patient."""

    def __init__(self, pictures: PictureIndex) -> None:
        self.contents: dict[str, list[str]] = {}
        """The pictures at any depth below each folder."""
        for name in pictures.paths:
            for parent in PurePosixPath(name).parents[:-1]:
                self.contents.setdefault(str(parent), []).append(name)
        super().__init__(pictures.folder, [pictures.folder / name for name in self.contents])

    def _has_name(self, path: PurePosixPath, name: str) -> bool:
        return path.name == name


@cache
def _table_location(folder: Path, table: Path) -> tuple[tuple[str, ...], str]:
    """The folders of a table relative to `folder`, and the data set part that its path names."""
    relative = table.relative_to(folder)
    return relative.parts[:-1], part_of(relative)


def _in_other_part(path: PurePosixPath, part: str) -> bool:
    """Whether a picture is in a folder of the training part and its table belongs to the test part, or vice versa."""
    return {"train", "test"} <= {part, *map(split_of, path.parts[:-1])}


def _resolve_parents(folders: tuple[str, ...]) -> tuple[str, ...]:
    """The same folder with '..' resolved, as far as a folder precedes it."""
    resolved: list[str] = []
    for name in folders:
        if name == ".." and resolved and resolved[-1] != "..":
            resolved.pop()
        else:
            resolved.append(name)
    return tuple(resolved)


def _ends_with(folders: tuple[str, ...], suffix: tuple[str, ...]) -> bool:
    return folders[len(folders) - len(suffix) :] == suffix


def file_name(text: str) -> str:
    """The last part of a path as written on any system."""
    return PurePosixPath(text.replace("\\", "/")).name
