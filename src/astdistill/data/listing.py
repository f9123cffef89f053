"""Lists the data files in folders: skips hidden and system folders, follows links, and lists each folder once. Defines
the file endings of pictures."""

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
"""Endings of picture formats that are not supported."""
SYSTEM = frozenset(
    (
        *("__macosx", "@eadir", "@__thumb", "@recycle", "#recycle", "#snapshot", "@recently-snapshot", "$recycle.bin"),
        *("recycler", "system volume information", "lost+found", "__pycache__", "thumbs.db", "desktop.ini", "icon\r"),
    )
)
"""Names of files and folders that systems create, besides names that start with '.'."""
WNID = re.compile(r"n\d{8}")
"""The name of a class folder of ImageNet."""
EXAMPLE = re.compile(r"submission|predictions", re.IGNORECASE)
"""Names of tables whose labels are not ground truth: sample submissions and predictions."""
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".xlsx", ".xls")
"""Endings of files that may contain the labels of pictures."""
PICTURED = frozenset(("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "input", "inputs"))
"""Names of folders that contain pictures of all classes."""
NAMED = 3
"""Maximum number of left out files that a note names."""


@dataclass(frozen=True)
class Entries:
    """The contents of one folder, each kind in alphabetical order: folders, regular files, and entries left out."""

    folders: tuple[Path, ...]
    pictures: tuple[Path, ...]
    others: tuple[Path, ...]
    """Files without the ending of a picture."""
    hidden: tuple[Path, ...]
    """Hidden and system files and folders."""
    special: tuple[Path, ...]
    """Broken links, pipes, devices and sockets."""
    repeated: tuple[Path, ...]
    """Links to this folder, or to one that contains it."""
    written: tuple[Path, ...] = ()
    """Folders written by this package: runs, expert folders, the cache."""


@dataclass
class Walked:
    """The contents of some folders at any depth, sorted by path: pictures, other files, and entries left out."""

    pictures: list[Path] = field(default_factory=list[Path])
    others: list[Path] = field(default_factory=list[Path])
    hidden: list[Path] = field(default_factory=list[Path])
    special: list[Path] = field(default_factory=list[Path])
    repeated: list[Path] = field(default_factory=list[Path])
    """Links to a folder that was already read, or that contains the link."""
    written: list[Path] = field(default_factory=list[Path])

    def add(self, entries: Entries | Walked) -> None:
        """Append the contents of a folder, or of another walk."""
        for kind, paths in vars(self).items():
            paths += getattr(entries, kind)

    def left_out(self) -> tuple[str, ...]:
        """A note for each kind of file that is not read, with the number of files and up to three names."""
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
    """Whether a file name has the ending of a picture and is not hidden."""
    return name.lower().endswith(PICTURES) and not name.startswith(".")


class UnlabelledError(InputError):
    """The folders do not define the classes of the pictures, or a class has no pictures; a table may define them."""


def unread_labels(others: Iterable[Path]) -> str:
    """A clause on files next to the pictures that may contain their labels, and how to use them; '' if there are
    none."""
    candidates = [path for path in others if path.name.lower().endswith(TABLES)]
    tables = [path for path in candidates if not EXAMPLE.search(path.stem)]
    if candidates and not tables:
        return f" ({some(candidates)}: taken for a sample submission; name it with --data if it has labels)"
    if not tables:
        return ""
    return (
        f" (no column of {some(tables)} that could be read names the pictures: write a CSV file with the columns "
        "file_name and label, or put the pictures of every class into a folder of its own)"
    )


def is_left_out(name: str) -> bool:
    """Whether a file or folder name is hidden or a system name."""
    return name.startswith(".") or name.lower() in SYSTEM


def text_of(name: str | Path) -> str:
    """A name or path as printable text: bytes that are not UTF-8 and control characters are escaped as `\\xe9`."""
    text = os.fsencode(name).decode("utf-8", errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(f"\\x{ord(sign):02x}" if ord(sign) < 32 or 127 <= ord(sign) < 160 else sign for sign in text)


def some(paths: Iterable[Path]) -> str:
    """The names of the first `NAMED` paths, for a summary."""
    return ", ".join(text_of(path.name) for _, path in zip(range(NAMED), paths, strict=False))


def names(paths: Iterable[Path]) -> str:
    """The names of all paths, for a message."""
    return ", ".join(text_of(path.name) for path in paths)


KINDS = ("folder", "picture", "other", "hidden", "special", "circular", "written")
"""In the order of the fields of `Entries`."""


class Listing:
    """Cached contents of folders; each folder is listed once, at its first access."""

    def __init__(self) -> None:
        self._cache = dict[Path, Entries]()
        self._with_pictures = dict[Path, bool]()

    def entries(self, folder: Path) -> Entries:
        """The contents of a folder. Raises InputError if it cannot be read."""
        if folder not in self._cache:
            self._cache[folder] = _entries(folder)
        return self._cache[folder]

    def subfolders(self, folder: Path) -> Iterator[Path]:
        """Iterates over the subfolders that contain a picture at any depth; each is listed lazily."""
        return (subfolder for subfolder in self.entries(folder).folders if self.has_pictures(subfolder))

    def has_pictures(self, folder: Path) -> bool:
        """Whether the folder contains a picture at any depth; stops at the first one."""
        if folder not in self._with_pictures:
            self._with_pictures[folder] = any(entries.pictures for entries in self._walk_entries(folder, []))
        return self._with_pictures[folder]

    def walk(self, folder: Path) -> Walked:
        """The contents of a folder at any depth, sorted by path."""
        walked, count = Walked(), 0
        for entries in self._walk_entries(folder, walked.repeated):
            walked.add(entries)
            count += 1
        if count == 1:  # already sorted
            return walked
        for paths in vars(walked).values():
            paths.sort()
        return walked

    def _walk_entries(self, folder: Path, repeated: list[Path]) -> Iterator[Entries]:
        """Iterates over the entries of a folder and of all folders below it, each folder once, links last. Links to a
        folder that was already visited, or that contains this one, are added to `repeated`."""
        seen, waiting, links = set[tuple[int, int]](), [folder], list[Path]()
        while waiting or links:
            current = waiting.pop() if waiting else links.pop(0)
            identity = _identity(current)
            if identity in seen:
                repeated.append(current)
                continue
            seen.add(identity)
            entries = self.entries(current)
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
    except OSError:  # circular links
        return "special"


def _kind_of_folder(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink() and _links_to_ancestor(entry.path):
        return "circular"
    if WNID.fullmatch(entry.name):  # 1000 folders of ImageNet, skipped for speed
        return "folder"
    is_cache = os.path.abspath(entry.path) == os.path.abspath(cache_folder())
    return "written" if is_cache or _is_written(entry.path) or _holds_written(entry.path, DEEPEST) else "folder"


WRITTEN = (("config.json", "provenance.json"), ("recipe.json", "preprocessing.safetensors"))
"""Files of a run folder, and of an expert folder."""
DEEPEST = 1
"""Maximum number of folders between a data folder and a run: a sweep stores its runs in a separate folder."""
GLANCED_AT = 8
"""Number of entries of a folder that are checked for runs and experts; folders of these contain few other entries."""


def _is_written(folder: str) -> bool:
    """Whether a folder is a run folder or an expert folder."""
    return any(all(os.path.isfile(os.path.join(folder, name)) for name in names) for names in WRITTEN)


def _holds_written(folder: str, deeper: int) -> bool:
    """Whether none of the first entries of a folder is a picture, and one of its first folders is a run or expert
    folder, or contains one at most `deeper` levels below."""
    try:
        with os.scandir(folder) as entries:
            first = [entry for entry in itertools.islice(entries, GLANCED_AT) if not entry.name.startswith(".")]
            inner = [entry.path for entry in first if entry.is_dir(follow_symlinks=False)]
    except OSError:  # reported when the folder is read
        return False
    if any(is_picture(entry.name) for entry in first):
        return False
    return any(_is_written(path) or (deeper and _holds_written(path, deeper - 1)) for path in inner)


def _links_to_ancestor(link: str) -> bool:
    """Whether a link leads to the folder that contains it, or to an ancestor of that folder."""
    parent, target = os.path.realpath(os.path.dirname(link)), os.path.realpath(link)
    return os.path.commonpath((parent, target)) == target


def unreadable(folder: Path, error: OSError) -> InputError:
    """The error for a folder that cannot be listed."""
    return InputError(
        f"{text_of(folder)} cannot be read ({error.strerror}); change its permissions, or name another folder with "
        "--data."
    )


def kind_of(path: Path) -> str:
    """'folder', 'file', 'special' (a pipe, device or socket), or '' if the path does not exist. Raises InputError if
    permissions prevent the check."""
    try:
        mode = path.stat().st_mode
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (OSError, ValueError):  # ValueError: a zero byte in the path
        return ""
    kinds = {stat.S_IFDIR: "folder", stat.S_IFREG: "file"}
    return kinds.get(stat.S_IFMT(mode), "special")
