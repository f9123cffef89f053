"""Folders that a user names to write to: whether one can be there, and new ones, whole or absent."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError
from .runs import beside, naming


def check_folder(path: Path, flag: str, file: bool = False) -> None:
    """Raise InputError where `path`, which `flag` names and which need not be there, is a file or would lie in one.

    With `file`, `path` is to become a file, and only has to lie in a folder.
    """
    for place in path.parents if file else (path, *path.parents):
        if place.exists() and not place.is_dir():
            below = "" if place == path else f"would lie in {place}, which "
            raise InputError(f"{flag} {path} {below}is a file; name a folder.")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` when the block ends well, remove it when it does not.

    Raises InputError, before the block runs, unless `path` is absent or an empty folder.
    """
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"--out {path} is there already and is not an empty folder; name a new one, for example --out {path}-2")
    check_folder(path, "--out")
    temporary = beside(path, folder=True)
    try:
        with naming(path):
            yield temporary
            temporary.chmod(0o755)  # mkdtemp gives 0700; see `replacing`
            if path.exists():
                path.rmdir()  # an empty folder, which not every system lets a rename replace
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
