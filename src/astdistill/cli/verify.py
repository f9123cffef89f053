"""`astdistill verify`: whether a store, a run or a file is undamaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

from rich.console import Console

from ..experts.cloud import EXPERT
from ..experts.partial import ENDING, check_rows
from ..experts.store import RECIPE, TrajectoryStore
from ..runtime.config import PathOrUrl, Record
from ..runtime.errors import InputError
from ..runtime.files import DIGESTS, load_tensors, open_tensors, read_json
from ..runtime.objects import MARKER, Objects, Url
from ..runtime.status import size
from ..runtime.text import many
from .commands import command
from .flags import Word

ROWS, TENSORS, JSON = "rows.bin", ".safetensors", ".json"


class Verify(Record):
    """Check every file of an expert store, a run or a distilled set against its digests."""

    path: Annotated[PathOrUrl, Word(positional=True)]
    """A folder of experts, a run folder, or one file; or the address of experts, as s3://BUCKET/FOLDER."""


@command("verify")
def verify(options: Verify) -> int:
    """Check every digest, and return the exit code: 1 if something is damaged."""
    if not isinstance(options.path, Url) and not options.path.exists():
        raise InputError(
            f"There is no file or folder {options.path}; name a run folder, a folder of experts or a file: "
            "astdistill verify runs/demo"
        )
    checks = checks_of(options.path)
    if not checks:
        raise InputError(
            f"{options.path} has no files of astdistill; name a run folder, a folder of experts or a file: "
            "astdistill verify runs/demo"
        )
    console, damaged, undigested, volume = Console(stderr=False), 0, 0, 0
    for file_size, run_check in checks:
        volume += file_size
        try:
            undigested += not run_check()
        except InputError as error:
            damaged += 1
            console.print(f"[red]damaged[/red]  {error}", highlight=False)
    summary = f"{many(len(checks), 'file')}, {size(volume)}: {damaged or 'none'} damaged"
    if undigested:
        summary += f"; {undigested} are of an earlier version, without digests, and could only be read"
    console.print(f"{summary}.", highlight=False)
    return int(damaged > 0)


def checks_of(path: Path) -> list[tuple[int, Callable[[], bool]]]:
    """The size in bytes, and the check (see `check`), of each file or object that can be checked."""
    if not isinstance(path, Url):
        return [(file.stat().st_size, partial(check, file)) for file in files_of(path)]
    objects, sizes = Objects(path), Objects(path).sizes()
    names = [name for name in sorted(sizes) if _is_ours(Path(name)) and name != MARKER]
    return [(sizes[name], partial(_check_object, objects, name)) for name in names]


def _check_object(objects: Objects, name: str) -> bool:
    """Like `check`, for an object: it is downloaded to a file, with the description of its store next to it if it is an
    expert."""
    store, _, file_name = name.rpartition("/")
    recipe = f"{store}/{RECIPE}".lstrip("/")
    with objects.brought(name) as file:
        expert = EXPERT.fullmatch(file_name)
        if expert is None or store.endswith(ENDING):
            return check(file)
        file.with_name(RECIPE).write_bytes(objects.read_all(recipe))
        renamed = file.rename(file.with_name(f"{expert['expert']}{TENSORS}"))
        try:
            return check(renamed)
        except InputError as error:
            raise InputError(str(error).replace(str(renamed), str(file))) from error


def files_of(path: Path) -> list[Path]:
    """The file, or all files below a folder that can be checked."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and _is_ours(file))


def _is_ours(file: Path) -> bool:
    return not file.name.startswith(".") and (file.suffix in (TENSORS, JSON) or file.name == ROWS)


def check(file: Path) -> bool:
    """Whether the file has digests, which are all correct. Raises InputError for a damaged file."""
    if file.name == ROWS:
        return _check_partial(file.parent)
    if file.suffix == JSON:
        _check_json(file)
        return True
    if file.stem.isdigit() and (file.parent / RECIPE).exists():
        _check_expert(file)
    else:
        load_tensors(file)
    return _has_digests(file)


def _check_expert(file: Path) -> None:
    """Check every row of one expert, a few at a time."""
    store, expert = TrajectoryStore.open(file.parent), int(file.stem)
    for first, last in _row_ranges(store.trained_epochs(expert) + 1):
        store.rows(expert, first, last)


def _row_ranges(count: int, size: int = 16) -> Iterator[tuple[int, int]]:
    return ((first, min(first + size, count)) for first in range(0, count, size))


def _check_partial(folder: Path) -> bool:
    """Check the rows of a half-trained expert against the digests in its state."""
    state = folder / f"state{TENSORS}"
    if not folder.name.endswith(ENDING) or not state.exists():
        return True
    identity = TrajectoryStore.open(folder.parent).identity
    return check_rows(folder, int(folder.name.partition(".")[0]), identity.parameters)


def _check_json(file: Path) -> None:
    read_json(file)
    if file.name == RECIPE:
        TrajectoryStore.open(file.parent)


def _has_digests(file: Path) -> bool:
    with open_tensors(file) as opened:
        return DIGESTS in (opened.metadata() or {})
