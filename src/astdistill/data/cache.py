"""The user's cache, found by content and checked when read; decoded pixels in it, so that a set may be larger than
memory."""

from __future__ import annotations

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
    """Named tensors and a JSON-ready header: what one cache file holds."""

    tensors: Mapping[str, Tensor]
    header: Mapping[str, Any] = field(default_factory=dict)


def cached(name: str, key: Any, build: Callable[[], Stored]) -> Stored:
    """What `build` gives, from the cache where the same `key` (a JSON-ready value) was built before.

    A file that is cut short, altered or from another version is built anew; a folder that cannot be written to only
    costs time.
    """
    path = place_of(name, [FORMAT, key], ".safetensors")
    stored = _whole(path)
    if stored is not None:
        return stored
    built = build()
    try:
        save_tensors(
            path, built.tensors, {**built.header, "format": FORMAT, "checksum": _checksum(built.tensors, built.header)}
        )
    except OSError as error:
        _say_unwritten(path.parent, error)
    return built


def place_of(name: str, key: Any, ending: str = "") -> Path:
    """The file or folder of the cache for what `key` (a JSON-ready value) stands for; `name` is for people who look
    there."""
    return cache_folder() / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:60]}-{digest(key)}{ending}"


def _whole(path: Path) -> Stored | None:
    if not path.exists():
        return None
    try:
        tensors, header = load_tensors(path)
    except InputError:
        return None
    words = {name: value for name, value in header.items() if name not in ("format", "checksum")}
    if header.get("format") != FORMAT or header.get("checksum") != _checksum(tensors, words):
        return None
    return Stored(tensors, header)


def _checksum(tensors: Mapping[str, Tensor], words: Mapping[str, Any]) -> str:
    """Of all that a file holds: its tensors, and the words in its header."""
    return digest([{name: tensor_digest(tensor) for name, tensor in tensors.items()}, dict(words)])


PIXELS_FORMAT = 4
"""Earlier versions dropped transparency and the depth of pictures, mixed the parts of tables in which some rows belong
to none, read parts of different depths alike, and took 1 and 1.0 in a table for two classes."""
MANIFEST = "manifest"
HEADER, SEAL, CHECK = "data.json", "seal.json", "check"
DIGITS = 64
"""Of a SHA-256: an entry's checksum of a part is that of its pixels and that of its labels, in a row."""
SEALED = 50_000_000
"""Nanoseconds between the last change of an entry and its seal: several ticks of the clock by which files get their
times. An entry sealed sooner is checked again."""
WRITTEN = 1 << 24
"""Bytes that are written at once."""


class PixelAllocator:
    """Makes room for images in files of a folder; in memory where that folder cannot be written to."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._made: list[tuple[Pixels, Path, Any]] = []

    def __call__(self, *shape: int) -> Pixels:
        """Room for uint8 images of `shape`, to be filled."""
        try:
            return self._on_disk(shape)
        except OSError as error:
            _say_unwritten(self._folder, error)
            self._folder = None
            return in_memory(*shape)

    def keep(self, pixels: Pixels, path: Path) -> None:
        """Put the images into a file at `path`: the one that they were made in, or a copy. Raises OSError where that
        cannot be."""
        for number, (tensor, made, mapped) in enumerate(self._made):
            if tensor.data_ptr() == pixels.data_ptr() and tensor.shape == pixels.shape:
                mapped.flush()
                made.replace(path)
                del self._made[number]
                return
        write_pixels(pixels, path)

    def _on_disk(self, shape: tuple[int, ...]) -> Pixels:
        if self._folder is None:
            return in_memory(*shape)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"room{len(self._made)}.npy"
        mapped = _mapped_file(path, shape)
        tensor = torch.from_numpy(mapped.view(np.ndarray))
        self._made.append((tensor, path, mapped))
        return tensor


def cached_data(
    name: str,
    files: FileSet,
    key: Callable[[str], Any],
    build: Callable[[PixelAllocator], RawData],
    verify: bool = False,
) -> RawData:
    """The set that `build` makes of `files`, from the cache where the same was built before; its pixels stay in files.

    `key` gives, for the content of the files, a JSON-ready value that names the entry. Files that are as they were when
    they were last read, by path, size and times, are not read again, and neither is an entry that nobody touched;
    `verify` reads every byte of both. `build` decodes into what the allocator gives, which lies on disk. Entries that
    are cut short, altered or from another version are built anew; a folder that cannot be written to only costs time,
    and memory for all pixels. Two processes do not build the same at once.
    """
    manifest = Manifest(place_of(name, [MANIFEST, _root(files)], ".manifest.json"), files)
    folder = place_of(name, [PIXELS_FORMAT, key(manifest.content(verify))])
    partial = folder.with_name(f".{folder.name}.partial")
    sweep_once(folder.parent)
    with _alone(folder.with_name(f".{folder.name}.lock")):
        stored = _whole_pixels(folder, verify)
        if stored is None:
            shutil.rmtree(partial, ignore_errors=True)  # what a kill left behind
            try:
                allocator = PixelAllocator(partial)
                raw = build(allocator)
                stored = _kept(raw, allocator, partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    if folder.is_dir():
        manifest.keep()
    return stored


def _root(files: FileSet) -> str:
    """Where the files lie: that of which a manifest is."""
    return text_of((files.folder or files.files[0].parent).resolve())


def in_file(pixels: StoredImages, name: str) -> MappedImages:
    """The images in a file of the cache, named by their content. Raises InputError where none can be written."""
    path = place_of(name, [PIXELS_FORMAT, wanted := tensor_digest(pixels)], ".npy")
    with suppress(OSError, ValueError, EOFError):
        mapped = MappedImages(path)
        if mapped.digest() == wanted:
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
    """Write images to an .npy file, a block at a time. Raises OSError where the disk is full."""
    mapped = _mapped_file(path, tuple(pixels.shape))
    rows = max(1, WRITTEN // max(1, math.prod(pixels.shape[1:])))
    for start in range(0, len(pixels), rows):
        mapped[start : start + rows] = pixels[start : start + rows].numpy()
    mapped.flush()


def _mapped_file(path: Path, shape: tuple[int, ...]) -> Any:
    """A new .npy file, mapped. Its blocks are taken now: a disk that fills up later would end the process without a
    word."""
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return mapped


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock for the block, where the file system lets us."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(lock(path, wait=True))
        yield


def _kept(raw: RawData, allocator: PixelAllocator, partial: Path, folder: Path) -> RawData:
    """The set with its pixels in files of `folder`, which appears whole; the set as it is where that cannot be."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        for part, held in _parts(raw).items():
            allocator.keep(held.images[:], partial / f"{part}.npy")
            np.save(partial / f"{part}-labels.npy", held.labels.numpy())
        stamp = _entry(partial, _parts(raw)).stamp()
        checksums = {part: _checksum_pixels(_part(partial, part)) for part in _parts(raw)}
        header = {
            "format": PIXELS_FORMAT,
            "name": raw.name,
            "classes": list(raw.classes),
            "checksums": checksums,
            "summary": asdict(raw.summary),
        }
        write_json(partial / HEADER, header | {CHECK: digest(_words(header))})
        _seal(partial, stamp, checksums)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
        return _read(folder, {part: checksum[:DIGITS] for part, checksum in checksums.items()})
    except OSError as error:
        _say_unwritten(folder.parent, error)
        return raw


def _whole_pixels(folder: Path, verify: bool) -> RawData | None:
    """The set in a folder of the cache; None where it is not there or not whole.

    Every byte is checked, except where nothing was touched since that was done last.
    """
    try:
        header: Any = read_json(folder / HEADER)
        checksums: dict[str, str] = header["checksums"]
        if header["format"] != PIXELS_FORMAT or header[CHECK] != digest(_words(header)):
            return None
        stamp = _entry(folder, checksums).stamp()
        if not verify and _is_sealed(folder, stamp, checksums):
            return _read(folder, {part: checksum[:DIGITS] for part, checksum in checksums.items()})
        raw = _read(folder, {}, remember=not verify)
        sound = {part: _checksum_pixels(held) for part, held in _parts(raw).items()} == checksums
    except (InputError, OSError, ValueError, EOFError, KeyError, TypeError, AttributeError):
        return None
    if not sound:
        return None
    _seal(folder, stamp, checksums)
    return raw


def _words(header: Mapping[str, Any]) -> Any:
    """What a header says, as JSON gives it back, without the digest of it."""
    return json.loads(json.dumps({name: value for name, value in header.items() if name != CHECK}))


def _entry(folder: Path, parts: Iterable[str]) -> FileSet:
    return FileSet([folder / f"{part}{ending}.npy" for part in parts for ending in ("", "-labels")], folder)


def _seal(folder: Path, stamp: Stamp, checksums: Mapping[str, str]) -> None:
    """Note that the arrays have these checksums with this stamp."""
    write_notes(folder / SEAL, {stamp.digest: digest(checksums)})


def _is_sealed(folder: Path, stamp: Stamp, checksums: Mapping[str, str]) -> bool:
    """Whether the arrays were found to have these checksums with this stamp, long enough after their last change."""
    if read_notes(folder / SEAL).get(stamp.digest) != digest(checksums):
        return False
    return (folder / SEAL).stat().st_mtime_ns - stamp.newest >= SEALED


def _read(folder: Path, digests: Mapping[str, str], remember: bool = True) -> RawData:
    """The set in a folder; `digests` names the pixels of its parts, where that is known."""
    header: Any = read_json(folder / HEADER)
    parts = {part: _part(folder, part, digests.get(part, ""), remember) for part in header["checksums"]}
    words = {kind: tuple(said) for kind, said in header["summary"].items()}
    return RawData(header["name"], tuple(header["classes"]), parts["train"], parts.get("test"), Summary(**words))


def _part(folder: Path, part: str, known: str = "", remember: bool = True) -> Split:
    labels = torch.from_numpy(load_array(folder / f"{part}-labels.npy"))
    return Split(MappedImages(folder / f"{part}.npy", known=known, remember=remember), labels)


def _parts(raw: RawData) -> Mapping[str, Split]:
    return {"train": raw.train} | ({} if raw.test is None else {"test": raw.test})


def _checksum_pixels(part: Split) -> str:
    return pixel_digest(part.images) + tensor_digest(part.labels)


def _say_unwritten(folder: Path | None, error: OSError) -> None:
    progress.console().print(
        f"The cache {folder} cannot be written ({reason(error)}); going on without it.", highlight=False
    )
