"""Names for contents: digests of tensors and of files, and the notes that spare reading what has not changed."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..runtime.config import digest
from ..runtime.errors import InputError
from ..runtime.files import check_regular, read_json, write_json
from .listing import text_of

READ = 1 << 20
"""Bytes of a file that are read at once."""
DIGESTED = 1 << 24
"""Bytes that are read at once of what is digested."""
NOTES_FORMAT = 1
NOTES = 32
"""Entries that a file of notes keeps, the latest."""
SETTLED = 2_000_000_000
"""Nanoseconds: the coarsest clock of a file system (FAT) counts two seconds. A file changed later than so long before
it was read could change again and keep its time."""


class Rows(Protocol):
    """A tensor, or what is read like one in slices of its first axis."""

    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def shape(self) -> torch.Size: ...
    def __getitem__(self, indices: Any, /) -> Tensor: ...


def tensor_digest(tensor: Rows) -> str:
    """The SHA-256 of a tensor's dtype, shape and values, in hexadecimal; what lies in a file is read in blocks."""
    state = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    for block in _byte_blocks(tensor):
        state.update(block.detach().to("cpu").contiguous().numpy().data)
    return state.hexdigest()


def _byte_blocks(tensor: Rows) -> Iterator[Tensor]:
    if not tensor.shape:
        yield tensor[...]
        return
    rows = max(1, DIGESTED // max(1, math.prod(tensor.shape[1:]) * tensor.dtype.itemsize))
    for start in range(0, tensor.shape[0], rows):
        yield tensor[start : start + rows]


@dataclass(frozen=True)
class Stamp:
    """What the file system says of some files without reading them.

    `digest` covers path, size and the times of the last change of contents and of the file itself; `newest` is the
    latest of these times, in nanoseconds since 1970.
    """

    digest: str
    newest: int


@dataclass(frozen=True)
class FileSet:
    """The files that decide what a source holds, in the order in which they count.

    With `folder`, their paths below it are part of the content; without, only their bytes are. None may have more than
    `largest` bytes.
    """

    files: Sequence[Path]
    folder: Path | None = None
    largest: int | None = None

    def content(self) -> str:
        """The SHA-256 of every byte. Times of change play no part: a copy of a folder is the same content.

        Raises InputError naming a file that cannot be read.
        """
        whole = hashlib.sha256()
        for path in self.files:
            state = hashlib.sha256()
            check_regular(path)
            try:
                with path.open("rb") as file:
                    while piece := file.read(READ):
                        state.update(piece)
            except OSError as error:
                raise _unreadable(path, error) from error
            whole.update(_encoded(f"{self._below(path)}\0{state.hexdigest()}\n"))
        return whole.hexdigest()

    def stamp(self) -> Stamp:
        """The files as the file system lists them. Raises InputError naming a file that is not there, or too large.

        The time of the last change of the file itself (ctime) cannot be set by a program, so that it tells a file of
        the old size whose time was put back. On Windows it is the time of creation.
        """
        state, newest = hashlib.sha256(), 0
        for path in self.files:
            try:
                status = path.stat()
            except OSError as error:
                raise _unreadable(path, error) from error
            if self.largest is not None and status.st_size > self.largest:
                raise InputError(
                    f"{text_of(path)} is larger than {self.largest >> 20} MiB; make it smaller, or take it out."
                )
            place = self._below(path) or str(path.absolute())
            state.update(_encoded(f"{place}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n"))
            newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
        return Stamp(state.hexdigest(), newest)

    def _below(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix() if self.folder else ""


class Manifest:
    """Contents that were read before, by the stamp that the files had: unchanged files are not read again.

    What is noted at `path` is looked up by equality alone, so that an older time is a change like a newer one. Nothing
    is noted of files that changed while they were read, or so shortly before that they could change again within one
    tick of the file system's clock. Notes that are damaged, or of another version, count as none.
    """

    def __init__(self, path: Path, files: FileSet) -> None:
        self._path, self._files = path, files
        self._read = dict[str, str]()

    def content(self, verify: bool = False) -> str:
        """`FileSet.content`, as noted where the stamp is; with `verify` every byte is read."""
        began, before = time.time_ns(), self._files.stamp()
        noted = None if verify else read_notes(self._path).get(before.digest)
        if noted is not None:
            return noted
        content = self._files.content()
        if before.newest < began - SETTLED and self._files.stamp() == before:
            self._read = {before.digest: content}
        return content

    def keep(self) -> None:
        """Note what `content` read. A folder that cannot be written to only costs time."""
        if self._read:
            write_notes(self._path, self._read)


def read_notes(path: Path) -> Mapping[str, str]:
    """The notes in a file; none where it is absent, damaged or of another version."""
    try:
        saved = read_json(path)
    except InputError:
        return {}
    notes = saved.get("notes")
    sound = saved.get("format") == NOTES_FORMAT and isinstance(notes, dict) and saved.get("check") == digest(notes)
    return notes if sound and isinstance(notes, dict) else {}


def write_notes(path: Path, notes: Mapping[str, str]) -> None:
    """Add to the notes in a file, whole or not at all; without a word where it cannot be written.

    Of two processes that write at once the later one's notes stand, and the other's are read anew when they are missed.
    """
    kept = {name: text for name, text in read_notes(path).items() if name not in notes} | dict(notes)
    latest = dict(list(kept.items())[-NOTES:])
    with suppress(OSError):
        write_json(path, {"format": NOTES_FORMAT, "notes": latest, "check": digest(latest)})


def _encoded(text: str) -> bytes:
    """File names that are no text keep their bytes."""
    return text.encode(errors="surrogateescape")


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{text_of(path)} cannot be read ({error.strerror}); check its permissions.")
