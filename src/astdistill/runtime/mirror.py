"""A copy of a run folder in the cloud, renewed at each save."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError
from .files import warn
from .objects import MARKER, Objects, Url, place
from .run_dir import RunDir

LOOK_S = 1.0
"""Seconds after which a thread looks for a newer state again."""
Stamp = tuple[int, int]
"""Size and time of change of a file."""


@contextmanager
def mirrored(folder: Path, address: Path | None) -> Iterator[None]:
    """While the block lasts, copy what is new in `folder` to `address` whenever a state is saved there, and at the end;
    nothing for None. A copy that fails is told of and tried again at the next save.

    Raises InputError, before the block runs, where nothing can be put at `address`.
    """
    if address is None:
        yield
        return
    mirror, stop = Mirror(folder, Objects(mirror_address(address))), threading.Event()
    mirror.objects.replace(MARKER, b'{"format": 1}\n')
    thread = threading.Thread(target=mirror.follow, args=[stop], name="astdistill-mirror", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        mirror.copy()


def mirror_address(address: Path) -> Url:
    """The address that --mirror names. Raises InputError for a folder."""
    url = place(address)
    if not isinstance(url, Url):
        raise InputError(f"--mirror {url} is a folder; name an address such as s3://BUCKET/FOLDER, or leave it out.")
    return url


class Mirror:
    """What has been copied of a folder."""

    def __init__(self, folder: Path, objects: Objects) -> None:
        self.folder, self.objects = folder, objects
        self.copied: dict[str, Stamp] = {}

    def follow(self, stop: threading.Event) -> None:
        """Copy at each save, until `stop` is set."""
        run, seen = RunDir(self.folder), None
        while not stop.wait(LOOK_S):
            now = [_stamp(run.state), _stamp(run.networks)]
            if now != seen:
                seen = now
                self.copy()

    def copy(self) -> None:
        """Copy every file that has changed, the state first: what is logged later than a state is cut off when a run
        goes on from it."""
        first = RunDir(self.folder).state
        files = [path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        for path in sorted(files, key=lambda each: (each != first, each)):
            if path.name == RunDir(self.folder).live.name:
                continue
            try:
                self._copy(path)
            except InputError as error:
                warn(f"The mirror is behind: {error}")
                return
            except OSError:  # gone meanwhile
                continue

    def _copy(self, path: Path) -> None:
        name, stamp = path.relative_to(self.folder).as_posix(), _stamp(path)
        if stamp is not None and self.copied.get(name) != stamp:
            self.objects.replace(name, path.read_bytes())
            self.copied[name] = stamp


def _stamp(path: Path) -> Stamp | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns
