"""The user's cache: found by content, checked when read, made again when broken."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import progress
from ..errors import InputError
from ..records import digest
from ..runs import cache_folder, load_tensors, save_tensors
from .statistics import tensor_digest

FORMAT = 1
READ = 1 << 20


@dataclass(frozen=True)
class Stored:
    """Named tensors and a JSON-ready header: what one cache file holds."""

    tensors: Mapping[str, Tensor]
    header: Mapping[str, Any] = field(default_factory=dict)


def cached(name: str, key: Any, build: Callable[[], Stored]) -> Stored:
    """What `build` gives, from the cache where the same `key` (a JSON-ready value) was built before.

    A file that is cut short, altered or from another version is built anew; a folder that cannot be written to only costs time.
    """
    path = place_of(name, [FORMAT, key], ".safetensors")
    found = _whole(path)
    if found is not None:
        return found
    built = build()
    try:
        save_tensors(path, built.tensors, {**built.header, "format": FORMAT, "checksum": _checksum(built.tensors)})
    except OSError as error:
        progress.console().print(f"The cache {path.parent} cannot be written ({error}); going on without it.", highlight=False)
    return built


def place_of(name: str, key: Any, ending: str = "") -> Path:
    """The file or folder of the cache for what `key` (a JSON-ready value) stands for; `name` is for people who look there."""
    return cache_folder() / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:60]}-{digest(key)}{ending}"


def content(files: Iterable[Path], folder: Path | None = None) -> str:
    """The SHA-256 of the files' bytes, in the order given, and of their paths below `folder` where it is given.

    Times of change play no part: a copy of a folder is the same content.
    """
    whole = hashlib.sha256()
    for path in files:
        state = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while piece := file.read(READ):
                    state.update(piece)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error}); check its permissions.") from error
        whole.update(f"{path.relative_to(folder).as_posix() if folder else ''}\0{state.hexdigest()}\n".encode())
    return whole.hexdigest()


def _whole(path: Path) -> Stored | None:
    if not path.exists():
        return None
    try:
        tensors, header = load_tensors(path)
    except InputError:
        return None
    if header.get("format") != FORMAT or header.get("checksum") != _checksum(tensors):
        return None
    return Stored(tensors, header)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    return digest({name: tensor_digest(tensor) for name, tensor in tensors.items()})
