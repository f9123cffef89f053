"""What lies in folders, as far as it counts as data: without hidden and system folders, through links, each folder
once; and which endings pictures have."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from ..runtime.errors import InputError
from ..runtime.files import cache_folder

PICTURES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".icb", ".vda", ".vst", ".avif", ".avifs", ".jp2", ".j2k"),
    *(".j2c", ".jpc", ".jpf", ".jpx", ".pcx", ".qoi", ".sgi", ".ras", ".ico"),
)
FOREIGN = (
    *(".heic", ".heif", ".jxl", ".svg", ".svgz", ".eps", ".ps", ".pdf", ".psd", ".ai", ".dcm", ".nii", ".mha", ".exr"),
    *(".hdr", ".fits", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".xcf", ".emf", ".wmf", ".mp4"),
    *(".avi", ".mov", ".npy", ".nii.gz"),
)
"""Endings of pictures that are not read."""
SYSTEM = frozenset(
    (
        *("__macosx", "@eadir", "@__thumb", "@recycle", "#recycle", "#snapshot", "@recently-snapshot", "$recycle.bin"),
        *("recycler", "system volume information", "lost+found", "__pycache__", "thumbs.db", "desktop.ini", "icon\r"),
    )
)
"""What systems put among the files of people, beside whatever begins with a full stop."""
WNID = re.compile(r"n\d{8}")
"""What a class folder of ImageNet is called."""
EXAMPLE = re.compile(r"submission|predictions", re.IGNORECASE)
"""What tables are called whose labels are none: examples of what is to be handed in, and what somebody handed in."""
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".xlsx", ".xls")
"""Endings of files that may hold the labels of pictures."""
PICTURED = frozenset(("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "input", "inputs"))
"""What folders are called that hold pictures of all classes."""
NAMED = 3
"""How many of those that were left out are named."""


@dataclass(frozen=True)
class Entries:
    """What one folder holds, each in alphabetical order: folders, regular files, and what is left out."""

    folders: tuple[Path, ...]
    pictures: tuple[Path, ...]
    others: tuple[Path, ...]
    """Files that are no pictures by their names."""
    hidden: tuple[Path, ...]
    """Hidden and system files and folders."""
    special: tuple[Path, ...]
    """Links to nothing, pipes, devices and sockets."""
    repeated: tuple[Path, ...]
    """Links to this folder, or to one that holds it."""
    written: tuple[Path, ...] = ()
    """Folders that this package wrote: runs, stores of experts, its cache."""


@dataclass
class Walked:
    """What lies below some folders, in the order of the paths: pictures, other files, and what is left out."""

    pictures: list[Path] = field(default_factory=list[Path])
    others: list[Path] = field(default_factory=list[Path])
    hidden: list[Path] = field(default_factory=list[Path])
    special: list[Path] = field(default_factory=list[Path])
    repeated: list[Path] = field(default_factory=list[Path])
    """Links to a folder that was read already, or that holds the link."""
    written: list[Path] = field(default_factory=list[Path])

    def add(self, found: Entries | Walked) -> None:
        """All of a folder, or of another walk, behind what is here."""
        for kind, paths in vars(self).items():
            paths += getattr(found, kind)

    def left_out(self) -> tuple[str, ...]:
        """A sentence for each kind of file that is not read, with their number and three names."""
        foreign = [path for path in self.others if path.name.lower().endswith(FOREIGN)]
        plain = [path for path in self.others if not path.name.lower().endswith(FOREIGN)]
        kinds = {
            ("file that is no picture", "files that are no pictures"): plain,
            ("picture in a format that is not read", "pictures in formats that are not read"): foreign,
            ("hidden or system file or folder", "hidden or system files and folders"): self.hidden,
            ("link to nothing, pipe, device or socket", "links to nothing, pipes, devices or sockets"): self.special,
            ("link to a folder that is read already", "links to folders that are read already"): self.repeated,
            ("folder that this package wrote", "folders that this package wrote"): self.written,
        }
        return tuple(f"{len(paths)} {kind[len(paths) > 1]} ({some(paths)})" for kind, paths in kinds.items() if paths)


def is_picture(name: str) -> bool:
    """Whether a file name ends as a picture's does; hidden files are none."""
    return name.lower().endswith(PICTURES) and not name.startswith(".")


class UnlabelledError(InputError):
    """Folders do not tell the classes of the pictures, or hold none of a class; a table may tell them."""


def unread_labels(others: Iterable[Path]) -> str:
    """A clause on files beside pictures that may hold their labels, and what to do with them; nothing without any."""
    there = [path for path in others if path.name.lower().endswith(TABLES)]
    tables = [path for path in there if not EXAMPLE.search(path.stem)]
    if there and not tables:
        return f" ({some(there)}: taken for an example of what is handed in; name it with --data if it has labels)"
    if not tables:
        return ""
    return (
        f" (no column of {some(tables)} that could be read names the pictures: write a CSV file with the columns "
        "file_name and label, or put the pictures of every class into a folder of its own)"
    )


def is_left_out(name: str) -> bool:
    """Whether a name is that of a hidden or system file or folder."""
    return name.startswith(".") or name.lower() in SYSTEM


def text_of(name: str | Path) -> str:
    """A name or path as text that can be printed and written: bytes that are no UTF-8 and control characters appear as
    `\\xe9`."""
    text = os.fsencode(name).decode("utf-8", errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(f"\\x{ord(sign):02x}" if ord(sign) < 32 or 127 <= ord(sign) < 160 else sign for sign in text)


def some(paths: Iterable[Path]) -> str:
    """The names of the first few, for a summary."""
    return ", ".join(text_of(path.name) for _, path in zip(range(NAMED), paths, strict=False))


def names(paths: Iterable[Path]) -> str:
    """All names, for a sentence."""
    return ", ".join(text_of(path.name) for path in paths)


KINDS = ("folder", "picture", "other", "hidden", "special", "circular", "written")
"""In the order of the fields of `Entries`."""


class Listing:
    """Folders as they were when they were first looked into; each is listed once."""

    def __init__(self) -> None:
        self._known = dict[Path, Entries]()
        self._with_pictures = dict[Path, bool]()

    def entries(self, folder: Path) -> Entries:
        """What a folder holds. Raises InputError where it cannot be read."""
        if folder not in self._known:
            self._known[folder] = _entries(folder)
        return self._known[folder]

    def subfolders(self, folder: Path) -> Iterator[Path]:
        """Its folders that hold any picture, at any depth; none is looked into before it is asked for."""
        return (place for place in self.entries(folder).folders if self.has_pictures(place))

    def has_pictures(self, folder: Path) -> bool:
        """Whether there is any picture at any depth; no further folder is listed once one is found."""
        if folder not in self._with_pictures:
            self._with_pictures[folder] = any(entries.pictures for entries in self._each(folder, []))
        return self._with_pictures[folder]

    def walk(self, folder: Path) -> Walked:
        """All that lies at any depth, sorted by path."""
        walked, count = Walked(), 0
        for entries in self._each(folder, walked.repeated):
            walked.add(entries)
            count += 1
        if count == 1:  # which is in order
            return walked
        for paths in vars(walked).values():
            paths.sort()
        return walked

    def _each(self, folder: Path, repeated: list[Path]) -> Iterator[Entries]:
        """The entries of a folder and of all below it, each folder once: links last, and those to a folder that was
        entered already, or that holds this one, are added to `repeated`."""
        seen, waiting, links = set[tuple[int, int]](), [folder], list[Path]()
        while waiting or links:
            place = waiting.pop() if waiting else links.pop(0)
            identity = _identity(place)
            if identity in seen:
                repeated.append(place)
                continue
            seen.add(identity)
            entries = self.entries(place)
            yield entries
            inner = [(os.path.islink(path), path) for path in entries.folders]
            waiting += [path for linked, path in reversed(inner) if not linked]
            links += [path for linked, path in inner if linked]


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise unreadable(folder, error) from error
    return status.st_dev, status.st_ino


def _entries(folder: Path) -> Entries:
    sorted_by: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    try:
        with os.scandir(folder) as entries:
            kinds = {entry.name: _kind(entry) for entry in entries}
        # `iterdir` makes paths faster than `folder / name`, and names are compared faster than paths.
        for path in sorted(folder.iterdir(), key=attrgetter("name")):
            sorted_by[kinds.get(path.name, "special")].append(path)
    except OSError as error:
        raise unreadable(folder, error) from error
    return Entries(*(tuple(paths) for paths in sorted_by.values()))


def _kind(entry: os.DirEntry[str]) -> str:
    if is_left_out(entry.name):
        return "hidden"
    try:
        if entry.is_dir():
            return _kind_of_folder(entry)
        if not entry.is_file():
            return "special"
        return "picture" if is_picture(entry.name) else "other"
    except PermissionError as error:
        raise unreadable(Path(entry.path), error) from error
    except OSError:  # links in a circle
        return "special"


def _kind_of_folder(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink() and _holds(entry.path):
        return "circular"
    if WNID.fullmatch(entry.name):  # a thousand of ImageNet, which are not looked into
        return "folder"
    own = os.path.abspath(entry.path) == os.path.abspath(cache_folder())
    return "written" if own or _is_written(entry.path) or _holds_written(entry.path, DEEPEST) else "folder"


WRITTEN = (("config.json", "provenance.json"), ("recipe.json", "preprocessing.safetensors"))
"""Files of a run, and of a folder of experts."""
DEEPEST = 1
"""Folders between one that is looked at and a run: a sweep has its runs in a folder of its own."""
GLANCED_AT = 8
"""Entries of a folder that are looked at for runs and experts: their folders hold nothing else of many."""


def _is_written(folder: str) -> bool:
    """Whether a folder is a run, or one of experts."""
    return any(all(os.path.isfile(os.path.join(folder, name)) for name in names) for names in WRITTEN)


def _holds_written(folder: str, deeper: int) -> bool:
    """Whether a folder holds folders and no pictures, and one of the first is a run, one of experts, or holds some."""
    try:
        with os.scandir(folder) as entries:
            first = [entry for entry in itertools.islice(entries, GLANCED_AT) if not entry.name.startswith(".")]
            inner = [entry.path for entry in first if entry.is_dir(follow_symlinks=False)]
    except OSError:  # what is read later says it
        return False
    if any(is_picture(entry.name) for entry in first):
        return False
    return any(_is_written(place) or (deeper and _holds_written(place, deeper - 1)) for place in inner)


def _holds(link: str) -> bool:
    """Whether a link leads to the folder that it lies in, or to one that holds that."""
    inside, target = os.path.realpath(os.path.dirname(link)), os.path.realpath(link)
    return os.path.commonpath((inside, target)) == target


def unreadable(folder: Path, error: OSError) -> InputError:
    """The error for a folder that cannot be listed."""
    return InputError(
        f"{text_of(folder)} cannot be read ({error.strerror}); change its permissions, or name another folder with "
        "--data."
    )


def kind_of(path: Path) -> str:
    """'folder', 'file', 'special' (a pipe, device or socket), or '' where nothing is there. Raises InputError where
    that cannot be known."""
    try:
        mode = path.stat().st_mode
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (OSError, ValueError):  # ValueError: a zero byte in the path
        return ""
    kinds = {stat.S_IFDIR: "folder", stat.S_IFREG: "file"}
    return kinds.get(stat.S_IFMT(mode), "special")
