"""Reads the parquet files of a folder: assigns them to parts, joins their rows into one table, and finds the picture
files that they refer to."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..runtime.errors import InputError
from .columns import Values, image_columns, kind_of, label_columns
from .splits import split_of

SHARD = re.compile(r"[-_.]?\d+[-_.]of[-_.]\d+.*$|[-_.]?\d+$")
"""The shard number in a file name, as in train-00000-of-00002."""
BATCH = 100
"""Number of rows copied per batch."""
FEW = 16
"""Number of rows per batch when the values of a column are inspected."""


def split_files(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of the parts 'train', 'test' and 'validation', identified by a word in the file name, else in the names
    of the parent folders; files without such a word are the training part if no other file is, and are ignored
    otherwise.

    Hidden files and folders are left out. Raises InputError if the files of a part are in several folders, or have the
    names of several sets.
    """
    parts: dict[str, list[Path]] = {}
    for file in files:
        if not any(piece.startswith(".") for piece in file.relative_to(folder).parts):
            parts.setdefault(part_of(file.relative_to(folder)), []).append(file)
    if "train" not in parts and "" in parts:
        parts["train"] = parts.pop("")
        if len(parts) == 1:
            _check_one_folder(folder, "train", parts["train"])
            return parts
    parts.pop("", None)
    for part, paths in parts.items():
        _check_one_folder(folder, part, paths)
        base_names = sorted({_base_name(file.relative_to(folder)) for file in paths})
        if len(base_names) > 1:
            raise InputError(
                f"{folder} holds several sets of {_display_name(part)} files ({', '.join(base_names)}); keep the files "
                "of one set in a folder of its own, and name it with --data."
            )
    return parts


def _check_one_folder(folder: Path, part: str, files: Sequence[Path]) -> None:
    folders = sorted({file.parent.relative_to(folder).as_posix() for file in files})
    if len(folders) > 1:
        raise InputError(
            f"{folder} holds {_display_name(part)} files in several folders ({', '.join(folders)}); name one of them "
            "with --data."
        )


def _display_name(part: str) -> str:
    return {"train": "training"}.get(part, part)


def part_of(file: Path) -> str:
    """The part in the name of a file, else of the nearest parent folder that has one; '' if there is none."""
    names = (file.stem, *(parent.name for parent in file.parents if parent.name))
    return next((part for name in names if (part := split_of(name))), "")


def _base_name(file: Path) -> str:
    """The file name without shard number; '' if the part is given by the folder."""
    return SHARD.sub("", file.stem) if split_of(file.stem) else ""


def find_picture_files(files: Sequence[Path], image: str | None = None) -> dict[str, Path]:
    """The regular files below the folders of those parquet files that may refer to pictures by path, by resolved path.
    A parquet file may do so if a cell of the column `image`, or of a possible picture column, holds a path instead of
    bytes.

    Links to folders are not followed, and hidden folders are left out.
    """
    folders = sorted({file.parent for file in files if _may_name_files(file, image)})
    return {
        str(path.resolve()): path
        for folder in folders
        for path in _regular_files(folder)
        if path.suffix.lower() != ".parquet" and path not in files
    }


def _regular_files(folder: Path) -> list[Path]:
    regular = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(root) / name for name in sorted(names))
        regular += [path for path in paths if stat.S_ISREG(path.lstat().st_mode)]
    return regular


def may_be_set(file: Path, image: str | None, label: str | None) -> bool:
    """Whether a file may contain labels and pictures, or paths of pictures; True if it cannot be read, which is
    reported when it is loaded."""
    try:
        with _open_columns(file) as (features, values):
            pictures = [image] if image is not None else image_columns(features, label, values)
            labels = [label] if label is not None else [*map(str, label_columns(features, (pictures or [""])[0]))]
            pictures = [
                name for name in pictures if name in features and _may_be_pictures(features[name], values(name))
            ]
            return bool(pictures) and any(name in features for name in labels)
    except Exception:  # pyarrow raises many unrelated types for a broken file
        return True


def _may_be_pictures(feature: Any, values: Iterable[Any]) -> bool:
    """False for a column of flat lists of numbers that are no squares, such as features."""
    first = next((value for value in values if value is not None), None)
    if (
        kind_of(feature) != "list"
        or not isinstance(first, list)
        or not all(isinstance(each, float | int) for each in first)
    ):
        return True
    return math.isqrt(len(first)) ** 2 == len(first)


@contextmanager
def _open_columns(file: Path) -> Iterator[tuple[Mapping[str, Any], Values]]:
    """Context manager that yields the columns of a file as Hugging Face types, and a function that iterates lazily over
    the values of a column."""
    import datasets
    from pyarrow import parquet

    with parquet.ParquetFile(file, pre_buffer=False) as opened:

        def values(name: str) -> Iterator[Any]:
            for batch in opened.iter_batches(batch_size=FEW, columns=[name]):
                yield from batch.column(0).to_pylist()

        yield datasets.Features.from_arrow_schema(_decode_dictionaries(opened.schema_arrow)), values


def _may_name_files(file: Path, image: str | None) -> bool:
    """Whether pictures may be separate files: the picture column is text, or a column of paths has rows without bytes.

    Only the rows needed to identify the picture column are read. A file that cannot be read is refused later.
    """
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(file)
        null_counts = {
            metadata.row_group(0).column(number).path_in_schema: _null_count(metadata, number)
            for number in range(metadata.num_columns if metadata.num_row_groups else 0)
        }
        with _open_columns(file) as (features, values):
            pictures = [image] if image in features else image_columns(features, None, values)
            has_text = any(kind_of(features[name]) == "text" for name in pictures if name is not None)
    except Exception:  # as above
        return False
    paths = [path for path in null_counts if path.endswith(".path") and f"{path[:-5]}.bytes" not in null_counts]
    return has_text or bool(paths) or any(nulls for path, nulls in null_counts.items() if path.endswith(".bytes"))


def _null_count(metadata: Any, column: int) -> int:
    """The number of null rows in a column; 1 for every row group without statistics."""
    chunks = [metadata.row_group(group).column(column) for group in range(metadata.num_row_groups)]
    counts = [chunk.statistics.null_count if chunk.is_stats_set else None for chunk in chunks]
    return sum(1 if count is None else count for count in counts)


def copied(files: Sequence[Path], path: Path) -> Any:
    """The rows of some files as one Hugging Face data set that is stored in a file at `path`.

    Raises InputError for a broken file, and for files whose columns or class names differ.
    """
    import datasets
    import pyarrow
    from datasets.table import table_cast

    try:
        features = _features(files)
        schema = features.arrow_schema
        with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
            for file in files:
                for batch in _batches(file):
                    writer.write_table(table_cast(batch, schema))
        return datasets.Dataset.from_file(str(path))
    except InputError:
        raise
    except Exception as error:  # as above
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise InputError(f"{_describe_files(files)} cannot be read ({reason}); replace the broken file.") from error


def _describe_files(files: Sequence[Path]) -> str:
    more = f" and {len(files) - 1} more of that part" * (len(files) > 1)
    return f"The parquet file {files[0]}{more}"


def _batches(file: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    with parquet.ParquetFile(file, pre_buffer=False) as opened:
        for batch in opened.iter_batches(batch_size=BATCH):
            table = pyarrow.Table.from_batches([batch])
            yield table.cast(_decode_dictionaries(table.schema))


def _features(files: Sequence[Path]) -> Any:
    """The merged columns of all files, as Hugging Face types. Raises InputError if they differ."""
    import datasets
    import pyarrow
    from pyarrow import parquet

    schemas = []
    for file in files:
        try:
            schemas.append(_decode_dictionaries(parquet.read_schema(file)))
        except Exception as error:  # as above
            raise InputError(f"The parquet file {file} cannot be read ({error}); replace the broken file.") from error
    first, features = schemas[0], datasets.Features.from_arrow_schema(schemas[0])
    for file, schema in zip(files, schemas, strict=True):
        _check_same_columns(features, datasets.Features.from_arrow_schema(schema), files[0], file)
    try:
        merged = pyarrow.unify_schemas([schema.remove_metadata() for schema in schemas], promote_options="permissive")
    except pyarrow.ArrowException as error:
        raise InputError(
            f"The parquet files beside {files[0]} have columns of different types ({error}); write them alike."
        ) from error
    return datasets.Features.from_arrow_schema(merged.with_metadata(first.metadata))


def _check_same_columns(first: Mapping[str, Any], other: Mapping[str, Any], first_file: Path, other_file: Path) -> None:
    if set(first) != set(other):
        raise InputError(
            f"{first_file.name} has the columns {', '.join(first)} and {other_file.name} has {', '.join(other)}; give "
            "files with the same columns."
        )
    for name in first:
        names = [getattr(feature, "names", None) for feature in (first[name], other[name])]
        if names[0] != names[1]:
            raise InputError(
                f"The class names of column {name} differ between {first_file.name} and {other_file.name}; write both "
                "with the same."
            )


def _decode_dictionaries(schema: Any) -> Any:
    """The schema with dictionary-encoded columns replaced by the type of their values."""
    import pyarrow

    fields = [
        field.with_type(field.type.value_type) if pyarrow.types.is_dictionary(field.type) else field for field in schema
    ]
    return pyarrow.schema(fields, metadata=schema.metadata)
