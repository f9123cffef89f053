"""A copy of a run folder in the cloud, updated at each save."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError
from .files import warn
from .objects import MARKER, Objects, Url, path_or_url
from .run_dir import RunDir

LOOK_S = 1.0
"""Seconds between two checks for a newer state."""
Stamp = tuple[int, int]
"""Size and modification time of a file."""


@contextmanager
def mirrored(folder: Path, address: Path | None) -> Iterator[None]:
    """During the block, copy what is new in `folder` to `address` whenever a state is saved in it, and once at the end;
    do nothing for None. A failed copy is reported, and repeated at the next save.

    Raises InputError, before the block runs, if nothing can be written to `address`.
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
    url = path_or_url(address)
    if not isinstance(url, Url):
        raise InputError(f"--mirror {url} is a folder; name an address such as s3://BUCKET/FOLDER, or leave it out.")
    return url


class Mirror:
    """Copies the files of a folder, and keeps track of what has been copied."""

    def __init__(self, folder: Path, objects: Objects) -> None:
        self.folder, self.objects = folder, objects
        self.copied: dict[str, Stamp] = {}

    def follow(self, stop: threading.Event) -> None:
        """Copy at each save, until `stop` is set."""
        run, previous = RunDir(self.folder), None
        while not stop.wait(LOOK_S):
            stamps = [_stamp(run.state), _stamp(run.networks)]
            if stamps != previous:
                previous = stamps
                self.copy()

    def copy(self) -> None:
        """Copy every changed file, the state first: a resumed run cuts off what was logged after its state."""
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
            except OSError:  # deleted meanwhile
                continue

    def _copy(self, path: Path) -> None:
        name, stamp = path.relative_to(self.folder).as_posix(), _stamp(path)
        if stamp is not None and self.copied.get(name) != stamp:
            self.objects.replace(name, path.read_bytes())
            self.copied[name] = stamp


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
