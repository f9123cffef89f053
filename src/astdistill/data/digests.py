"""Digests of tensors and of files, and notes that avoid reading unchanged files again."""

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
"""Bytes of digested data that are read at once."""
NOTES_FORMAT = 1
NOTES = 32
"""Most entries in a file of notes; the latest are kept."""
SETTLED = 2_000_000_000
"""Nanoseconds; the coarsest clock of a file system (FAT) has steps of two seconds. A file that changed within this time
before it was read could change again without a new time."""


class Rows(Protocol):
    """A tensor, or data that can be read like one in slices of its first axis."""

    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def shape(self) -> torch.Size: ...
    def __getitem__(self, indices: Any, /) -> Tensor: ...


def tensor_digest(tensor: Rows) -> str:
    """The SHA-256 of a tensor's dtype, shape and values, in hexadecimal; data in a file are read in blocks."""
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
    """Metadata of files in the file system, read without opening them.

    `digest` covers path, size and the times of the last change of contents and of the file itself; `newest` is the
    latest of these times, in nanoseconds since 1970.
    """

    digest: str
    newest: int


@dataclass(frozen=True)
class FileSet:
    """The files that determine the content of a source, in the order in which they are digested.

    With `folder`, their paths relative to it are part of the content; without, only their bytes are. None may have more
    than `largest` bytes.
    """

    files: Sequence[Path]
    folder: Path | None = None
    largest: int | None = None

    def content(self) -> str:
        """The SHA-256 of every byte, independent of the times of change: a copy of a folder has the same content.

        Raises InputError naming a file that cannot be read.
        """
        combined = hashlib.sha256()
        for path in self.files:
            state = hashlib.sha256()
            check_regular(path)
            try:
                with path.open("rb") as file:
                    while piece := file.read(READ):
                        state.update(piece)
            except OSError as error:
                raise _unreadable(path, error) from error
            combined.update(_encoded(f"{self._relative(path)}\0{state.hexdigest()}\n"))
        return combined.hexdigest()

    def stamp(self) -> Stamp:
        """The stamp of the files. Raises InputError naming a file that is missing or too large.

        A program cannot set the time of the last change of the file itself (ctime), so it reveals a changed file of the
        same size whose modification time was reset. On Windows it is the time of creation.
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
            location = self._relative(path) or str(path.absolute())
            state.update(_encoded(f"{location}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n"))
            newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
        return Stamp(state.hexdigest(), newest)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix() if self.folder else ""


class Manifest:
    """Contents that were read before, by the stamp of the files: unchanged files are not read again.

    Stamps noted at `path` are compared for equality only, so that an older time counts as a change like a newer one.
    Nothing is noted for files that changed while they were read, or so shortly before that they could change again
    within one tick of the clock of the file system. Notes that are damaged, or of another version, are ignored.
    """

    def __init__(self, path: Path, files: FileSet) -> None:
        self._path, self._files = path, files
        self._new_notes = dict[str, str]()

    def content(self, verify: bool = False) -> str:
        """`FileSet.content`, from the notes if they hold the stamp; with `verify` every byte is read."""
        began, before = time.time_ns(), self._files.stamp()
        noted = None if verify else read_notes(self._path).get(before.digest)
        if noted is not None:
            return noted
        content = self._files.content()
        if before.newest < began - SETTLED and self._files.stamp() == before:
            self._new_notes = {before.digest: content}
        return content

    def keep(self) -> None:
        """Save notes of what `content` read. If the folder cannot be written, the files are read again next time."""
        if self._new_notes:
            write_notes(self._path, self._new_notes)


def read_notes(path: Path) -> Mapping[str, str]:
    """The notes in a file; empty if it is missing, damaged or of another version."""
    try:
        saved = read_json(path)
    except InputError:
        return {}
    notes = saved.get("notes")
    valid = saved.get("format") == NOTES_FORMAT and isinstance(notes, dict) and saved.get("check") == digest(notes)
    return notes if valid and isinstance(notes, dict) else {}


def write_notes(path: Path, notes: Mapping[str, str]) -> None:
    """Add to the notes in a file, atomically; do nothing if it cannot be written.

    If two processes write at once, the notes of the later one remain, and the contents of the other are read again when
    they are needed.
    """
    merged = {name: text for name, text in read_notes(path).items() if name not in notes} | dict(notes)
    latest = dict(list(merged.items())[-NOTES:])
    with suppress(OSError):
        write_json(path, {"format": NOTES_FORMAT, "notes": latest, "check": digest(latest)})


def _encoded(text: str) -> bytes:
    """Encode text; file names that are not valid text keep their bytes."""
    return text.encode(errors="surrogateescape")


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{text_of(path)} cannot be read ({error.strerror}); check its permissions.")
