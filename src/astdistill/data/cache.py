"""Cache entries in the user's cache folder, addressed by content and verified when read. Decoded pixels are stored as
memory-mapped files, so that a data set may be larger than memory."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..runtime import progress
from ..runtime.config import digest
from ..runtime.errors import InputError
from ..runtime.files import (
    cache_folder,
    load_tensors,
    lock,
    read_json,
    replacing,
    save_tensors,
    sweep_once,
    write_json,
)
from ..runtime.shapes import Pixels
from ..runtime.text import reason
from .dataset import RawData, Split, Summary
from .decoding import in_memory
from .digests import FileSet, Manifest, Stamp, read_notes, tensor_digest, write_notes
from .listing import text_of
from .storage import MappedImages, StoredImages, load_array, pixel_digest

FORMAT = 1


@dataclass(frozen=True)
class Stored:
    """Contents of a cache file: named tensors and a JSON-serialisable header."""

    tensors: Mapping[str, Tensor]
    header: Mapping[str, Any] = field(default_factory=dict)


def cached(name: str, key: Any, build: Callable[[], Stored]) -> Stored:
    """Return the result of `build`, from the cache if it was built before for the same `key` (a JSON-serialisable
    value).

    A file that is truncated, altered or from another version is rebuilt. If the folder cannot be written, the result is
    built every time.
    """
    path = cache_path(name, [FORMAT, key], ".safetensors")
    stored = _load_valid(path)
    if stored is not None:
        return stored
    built = build()
    try:
        save_tensors(
            path, built.tensors, {**built.header, "format": FORMAT, "checksum": _checksum(built.tensors, built.header)}
        )
    except OSError as error:
        _report_unwritable(path.parent, error)
    return built


def cache_path(name: str, key: Any, ending: str = "") -> Path:
    """Path of the cache file or folder for `key` (a JSON-serialisable value); `name` makes it recognisable for
    people."""
    return cache_folder() / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:60]}-{digest(key)}{ending}"


def _load_valid(path: Path) -> Stored | None:
    if not path.exists():
        return None
    try:
        tensors, header = load_tensors(path)
    except InputError:
        return None
    fields = {name: value for name, value in header.items() if name not in ("format", "checksum")}
    if header.get("format") != FORMAT or header.get("checksum") != _checksum(tensors, fields):
        return None
    return Stored(tensors, header)


def _checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Digest of the contents of a file: its tensors and the fields of its header."""
    return digest([{name: tensor_digest(tensor) for name, tensor in tensors.items()}, dict(header)])


PIXELS_FORMAT = 4
"""Version of cached pixels. Earlier versions dropped transparency and the depth of images, mixed up the parts of tables
in which some rows belong to none, treated parts of different depths alike, and took 1 and 1.0 in a table for two
classes."""
MANIFEST = "manifest"
HEADER, SEAL, CHECK = "data.json", "seal.json", "check"
DIGITS = 64
"""Length of a SHA-256 in hexadecimal digits. The checksum of a part is the digest of its pixels followed by that of its
labels."""
SEALED = 50_000_000
"""Least time in nanoseconds between the last change of an entry and its seal: several ticks of the clock of the file
system. An entry sealed sooner is checked again."""
WRITTEN = 1 << 24
"""Bytes that are written at once."""


class PixelAllocator:
    """Allocates images in files of a folder, or in memory if the folder cannot be written."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._allocated: list[tuple[Pixels, Path, Any]] = []

    def __call__(self, *shape: int) -> Pixels:
        """Allocate uint8 images of `shape`, to be filled by the caller."""
        try:
            return self._allocate_on_disk(shape)
        except OSError as error:
            _report_unwritable(self._folder, error)
            self._folder = None
            return in_memory(*shape)

    def keep(self, pixels: Pixels, path: Path) -> None:
        """Move the images to a file at `path`: rename the file they were allocated in, or write a copy. Raises OSError
        if that fails."""
        for number, (tensor, source, mapped) in enumerate(self._allocated):
            if tensor.data_ptr() == pixels.data_ptr() and tensor.shape == pixels.shape:
                mapped.flush()
                source.replace(path)
                del self._allocated[number]
                return
        write_pixels(pixels, path)

    def _allocate_on_disk(self, shape: tuple[int, ...]) -> Pixels:
        if self._folder is None:
            return in_memory(*shape)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"room{len(self._allocated)}.npy"
        mapped = _mapped_file(path, shape)
        tensor = torch.from_numpy(mapped.view(np.ndarray))
        self._allocated.append((tensor, path, mapped))
        return tensor


def cached_data(
    name: str,
    files: FileSet,
    key: Callable[[str], Any],
    build: Callable[[PixelAllocator], RawData],
    verify: bool = False,
) -> RawData:
    """Return the data set that `build` makes of `files`, from the cache if it was built before; its pixels stay in
    files.

    `key` maps the content of the files to a JSON-serialisable value that names the entry. Files whose path, size and
    times are unchanged since they were last read are not read again, and neither is an unchanged entry; `verify` reads
    every byte of both. `build` decodes into images of the allocator, which lie on disk. Entries that are truncated,
    altered or from another version are rebuilt. If the folder cannot be written, the set is built every time, with all
    pixels in memory. A lock prevents two processes from building the same entry at once.
    """
    manifest = Manifest(cache_path(name, [MANIFEST, _root(files)], ".manifest.json"), files)
    folder = cache_path(name, [PIXELS_FORMAT, key(manifest.content(verify))])
    partial = folder.with_name(f".{folder.name}.partial")
    sweep_once(folder.parent)
    with _locked(folder.with_name(f".{folder.name}.lock")):
        stored = _load_valid_pixels(folder, verify)
        if stored is None:
            shutil.rmtree(partial, ignore_errors=True)  # left behind by a killed process
            try:
                allocator = PixelAllocator(partial)
                raw = build(allocator)
                stored = _store_pixels(raw, allocator, partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    if folder.is_dir():
        manifest.keep()
    return stored


def _root(files: FileSet) -> str:
    """Folder of the files, which identifies their manifest."""
    return text_of((files.folder or files.files[0].parent).resolve())


def in_file(pixels: StoredImages, name: str) -> MappedImages:
    """The images in a cache file, named by their content. Raises InputError if it cannot be written."""
    path = cache_path(name, [PIXELS_FORMAT, expected := tensor_digest(pixels)], ".npy")
    with suppress(OSError, ValueError, EOFError):
        mapped = MappedImages(path)
        if mapped.digest() == expected:
            return mapped
    try:
        with replacing(path) as temporary:
            write_pixels(pixels, temporary)
        return MappedImages(path)
    except OSError as error:
        raise InputError(
            f"The images of {name} cannot be kept in {path.parent} ({reason(error)}); name a folder with room in "
            "ASTDISTILL_CACHE, or set --data.memory uint8."
        ) from error


def write_pixels(pixels: StoredImages, path: Path) -> None:
    """Write images to an .npy file, block by block. Raises OSError if the disk is full."""
    mapped = _mapped_file(path, tuple(pixels.shape))
    rows = max(1, WRITTEN // max(1, math.prod(pixels.shape[1:])))
    for start in range(0, len(pixels), rows):
        mapped[start : start + rows] = pixels[start : start + rows].numpy()
    mapped.flush()


def _mapped_file(path: Path, shape: tuple[int, ...]) -> Any:
    """Create a memory-mapped .npy file. Its blocks are allocated now: a disk that fills up later would end the process
    without a message. Raises OSError if there is no room for them, without filling the disk."""
    if math.prod(shape) > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return mapped


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock inside the block, if the file system supports locks."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(lock(path, wait=True))
        yield


def _store_pixels(raw: RawData, allocator: PixelAllocator, partial: Path, folder: Path) -> RawData:
    """Store the set with its pixels in files of `folder`, which appears atomically, and return it from there; return
    `raw` unchanged if that fails."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        for part, split in _parts(raw).items():
            allocator.keep(split.images[:], partial / f"{part}.npy")
            np.save(partial / f"{part}-labels.npy", split.labels.numpy())
        stamp = _entry_files(partial, _parts(raw)).stamp()
        checksums = {part: _checksum_pixels(_read_part(partial, part)) for part in _parts(raw)}
        header = {
            "format": PIXELS_FORMAT,
            "name": raw.name,
            "classes": list(raw.classes),
            "checksums": checksums,
            "summary": asdict(raw.summary),
        }
        write_json(partial / HEADER, header | {CHECK: digest(_header_fields(header))})
        _seal(partial, stamp, checksums)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
        return _read_entry(folder, {part: checksum[:DIGITS] for part, checksum in checksums.items()})
    except OSError as error:
        _report_unwritable(folder.parent, error)
        return raw


def _load_valid_pixels(folder: Path, verify: bool) -> RawData | None:
    """The set in a cache folder; None if it is missing or not intact.

    Every byte is checked, unless nothing has changed since the last check.
    """
    try:
        header: Any = read_json(folder / HEADER)
        checksums: dict[str, str] = header["checksums"]
        if header["format"] != PIXELS_FORMAT or header[CHECK] != digest(_header_fields(header)):
            return None
        stamp = _entry_files(folder, checksums).stamp()
        if not verify and _is_sealed(folder, stamp, checksums):
            return _read_entry(folder, {part: checksum[:DIGITS] for part, checksum in checksums.items()})
        raw = _read_entry(folder, {}, remember=not verify)
        valid = {part: _checksum_pixels(split) for part, split in _parts(raw).items()} == checksums
    except (InputError, OSError, ValueError, EOFError, KeyError, TypeError, AttributeError):
        return None
    if not valid:
        return None
    _seal(folder, stamp, checksums)
    return raw


def _header_fields(header: Mapping[str, Any]) -> Any:
    """The fields of a header as read back from JSON, without the digest of the header itself."""
    return json.loads(json.dumps({name: value for name, value in header.items() if name != CHECK}))


def _entry_files(folder: Path, parts: Iterable[str]) -> FileSet:
    return FileSet([folder / f"{part}{ending}.npy" for part in parts for ending in ("", "-labels")], folder)


def _seal(folder: Path, stamp: Stamp, checksums: Mapping[str, str]) -> None:
    """Record that the arrays have these checksums with this stamp."""
    write_notes(folder / SEAL, {stamp.digest: digest(checksums)})


def _is_sealed(folder: Path, stamp: Stamp, checksums: Mapping[str, str]) -> bool:
    """Whether the arrays are recorded to have these checksums with this stamp, long enough after their last change."""
    if read_notes(folder / SEAL).get(stamp.digest) != digest(checksums):
        return False
    return (folder / SEAL).stat().st_mtime_ns - stamp.newest >= SEALED


def _read_entry(folder: Path, digests: Mapping[str, str], remember: bool = True) -> RawData:
    """Read the set in a cache folder; `digests` holds the digests of the pixels of its parts, if known."""
    header: Any = read_json(folder / HEADER)
    parts = {part: _read_part(folder, part, digests.get(part, ""), remember) for part in header["checksums"]}
    notes = {kind: tuple(sentences) for kind, sentences in header["summary"].items()}
    return RawData(header["name"], tuple(header["classes"]), parts["train"], parts.get("test"), Summary(**notes))


def _read_part(folder: Path, part: str, known_digest: str = "", remember: bool = True) -> Split:
    labels = torch.from_numpy(load_array(folder / f"{part}-labels.npy"))
    return Split(MappedImages(folder / f"{part}.npy", known_digest=known_digest, remember=remember), labels)


def _parts(raw: RawData) -> Mapping[str, Split]:
    return {"train": raw.train} | ({} if raw.test is None else {"test": raw.test})


def _checksum_pixels(part: Split) -> str:
    return pixel_digest(part.images) + tensor_digest(part.labels)


def _report_unwritable(folder: Path | None, error: OSError) -> None:
    progress.console().print(
        f"The cache {folder} cannot be written ({reason(error)}); going on without it.", highlight=False
    )
