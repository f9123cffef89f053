"""Folders that Hugging Face `datasets` wrote with `save_to_disk`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from ..runtime.errors import InputError
from ..runtime.files import check_regular, read_json, reading
from ..runtime.text import in_one_line
from .digests import FileSet

MARKS = ("state.json", "dataset_info.json")
"""Files of a saved data set, and of each split of a saved dictionary of data sets."""
DICTIONARY = "dataset_dict.json"


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (folder / DICTIONARY).is_file() or all((folder / mark).is_file() for mark in MARKS)


def saved_files(folder: Path) -> FileSet:
    """The files that determine what is read."""
    return FileSet(sorted(path for path in folder.rglob("*") if path.suffix in (".arrow", ".json")), folder)


def files_below(folder: Path) -> dict[str, Path]:
    """The files below the folder by real path: those that its tables may reference as pictures."""
    root = os.path.realpath(folder)
    files = {os.path.realpath(path): path for path in folder.rglob("*") if path.is_file()}
    return {real: path for real, path in files.items() if real.startswith(root + os.sep)}


def _check_names(folder: Path) -> None:
    """Raise InputError if the folder references files outside itself, which `datasets` would read silently, or has a
    file that is not regular."""
    for file in saved_files(folder).files:
        check_regular(file)
        if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
            raise _outside_error(folder, file.relative_to(folder))
    names = list[Any]()
    for file in (folder / DICTIONARY, *folder.rglob(MARKS[0])):
        if not file.is_file():
            continue
        content = read_json(file)
        with reading(file, "the files of a saved set", "save it again with datasets.save_to_disk"):
            names += [*content.get("splits", []), *(each["filename"] for each in content.get("_data_files", []))]
    for name in names:
        path = PurePath(str(name))
        if path.is_absolute() or ".." in path.parts:
            raise _outside_error(folder, name)


def _outside_error(folder: Path, name: object) -> InputError:
    return InputError(
        f"{folder} names the file {str(name)!r}, which lies outside it; a saved set reads only files of its own "
        "folder. Save it again with datasets.save_to_disk."
    )


def from_saved(folder: Path) -> Mapping[str, Any]:
    """The splits of a saved folder, memory-mapped from its files. Raises InputError if one is missing or broken. Tables
    are validated, because pyarrow trusts the offsets in a file and would crash the process on wrong ones."""
    import datasets

    _check_names(folder)
    try:
        loaded = datasets.load_from_disk(str(folder))
        splits: dict[str, Any] = {"train": loaded}
        if isinstance(loaded, datasets.DatasetDict):
            splits = {str(name): split for name, split in loaded.items()}
        for split in splits.values():
            split.data.table.validate(full=True)
    except Exception as error:  # datasets and pyarrow raise a dozen unrelated types
        reason = in_one_line(error)
        raise InputError(
            f"{folder} cannot be read as a folder of datasets.save_to_disk ({reason}); save it again."
        ) from error
    return splits
