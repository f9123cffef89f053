"""Parquet files of a folder: which part each belongs to, their rows as one table, and the pictures that lie beside
them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..runtime.errors import InputError
from .columns import Values, image_columns, kind_of, label_columns
from .splits import split_of

SHARD = re.compile(r"[-_.]?\d+[-_.]of[-_.]\d+.*$|[-_.]?\d+$")
"""The number of a file among those of one part: train-00000-of-00002."""
BATCH = 100
"""Rows that are copied at once."""
FEW = 16
"""Rows of a column that are looked at together."""


def split_files(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of the parts 'train', 'test' and 'validation' by a word of their name, else of the folders they lie
    in; files without any are the training part where no others are, and otherwise belong to none.

    Hidden files and folders are left out. Raises InputError where the files of a part lie in several folders, or are
    called as several sets are.
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
    for part, its in parts.items():
        _check_one_folder(folder, part, its)
        named = sorted({_base(file.relative_to(folder)) for file in its})
        if len(named) > 1:
            raise InputError(
                f"{folder} holds several sets of {_called(part)} files ({', '.join(named)}); keep the files of one set "
                "in a folder of its own, and name it with --data."
            )
    return parts


def _check_one_folder(folder: Path, part: str, files: Sequence[Path]) -> None:
    places = sorted({file.parent.relative_to(folder).as_posix() for file in files})
    if len(places) > 1:
        raise InputError(
            f"{folder} holds {_called(part)} files in several folders ({', '.join(places)}); name one of them with "
            "--data."
        )


def _called(part: str) -> str:
    return {"train": "training"}.get(part, part)


def part_of(file: Path) -> str:
    """The part that a file's name speaks of, or else the nearest of its folders; '' for none."""
    names = (file.stem, *(place.name for place in file.parents if place.name))
    return next((part for name in names if (part := split_of(name))), "")


def _base(file: Path) -> str:
    """What the numbered files of one part have in common: nothing where the folder tells the part."""
    return SHARD.sub("", file.stem) if split_of(file.stem) else ""


def pictures_beside(files: Sequence[Path], image: str | None = None) -> dict[str, Path]:
    """The regular files below the folders in which the parquet files lie, by their whole true path, where some cell of
    the column `image`, or of one that could be the pictures, may name a picture by a path instead of holding its bytes;
    none where no cell does.

    Links to folders are not gone into, and hidden folders are left out.
    """
    places = sorted({file.parent for file in files if _may_name_files(file, image)})
    return {
        str(path.resolve()): path
        for place in places
        for path in _regular_files(place)
        if path.suffix.lower() != ".parquet" and path not in files
    }


def _regular_files(place: Path) -> list[Path]:
    regular = []
    for root, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(root) / name for name in sorted(names))
        regular += [path for path in paths if stat.S_ISREG(path.lstat().st_mode)]
    return regular


def may_be_set(file: Path, image: str | None, label: str | None) -> bool:
    """Whether a file may hold pictures, or name them, beside labels; also where it cannot be read, which is said when
    it is."""
    try:
        with _looked_into(file) as (features, values):
            pictures = [image] if image is not None else image_columns(features, label, values)
            labels = [label] if label is not None else [*map(str, label_columns(features, (pictures or [""])[0]))]
            return any(name in features for name in pictures) and any(name in features for name in labels)
    except Exception:  # pyarrow raises a dozen unrelated types for a broken file
        return True


@contextmanager
def _looked_into(file: Path) -> Iterator[tuple[Mapping[str, Any], Values]]:
    """The columns of a file as Hugging Face types, and their values, which are read as they are asked for."""
    import datasets
    from pyarrow import parquet

    with parquet.ParquetFile(file, pre_buffer=False) as opened:

        def values(name: str) -> Iterator[Any]:
            for batch in opened.iter_batches(batch_size=FEW, columns=[name]):
                yield from batch.column(0).to_pylist()

        yield datasets.Features.from_arrow_schema(_undivided(opened.schema_arrow)), values


def _may_name_files(file: Path, image: str | None) -> bool:
    """Whether pictures may lie outside: their column is text, or a column of paths has some beside which no bytes are.

    Of the rows no more is read than tells which column holds the pictures. A file that cannot be read is refused later.
    """
    from pyarrow import parquet

    try:
        told = parquet.read_metadata(file)
        kept = {
            told.row_group(0).column(number).path_in_schema: _nulls(told, number)
            for number in range(told.num_columns if told.num_row_groups else 0)
        }
        with _looked_into(file) as (features, values):
            pictures = [image] if image in features else image_columns(features, None, values)
            texts = any(kind_of(features[name]) == "text" for name in pictures if name is not None)
    except Exception:  # as above
        return False
    paths = [path for path in kept if path.endswith(".path") and f"{path[:-5]}.bytes" not in kept]
    return texts or bool(paths) or any(nulls for path, nulls in kept.items() if path.endswith(".bytes"))


def _nulls(told: Any, column: int) -> int:
    """Rows without a value in a column; one where the file does not tell."""
    chunks = [told.row_group(group).column(column) for group in range(told.num_row_groups)]
    counts = [chunk.statistics.null_count if chunk.is_stats_set else None for chunk in chunks]
    return sum(1 if count is None else count for count in counts)


def copied(files: Sequence[Path], place: Path) -> Any:
    """The rows of some files as one Hugging Face data set, whose pictures stay in a file at `place`.

    Raises InputError for a broken file, and for files whose columns or class names differ.
    """
    import datasets
    import pyarrow
    from datasets.table import table_cast

    try:
        features = _features(files)
        schema = features.arrow_schema
        with pyarrow.OSFile(str(place), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
            for file in files:
                for batch in _batches(file):
                    writer.write_table(table_cast(batch, schema))
        return datasets.Dataset.from_file(str(place))
    except InputError:
        raise
    except Exception as error:  # as above
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise InputError(f"{_named(files)} cannot be read ({reason}); replace the broken file.") from error


def _named(files: Sequence[Path]) -> str:
    more = f" and {len(files) - 1} more of that part" * (len(files) > 1)
    return f"The parquet file {files[0]}{more}"


def _batches(file: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    with parquet.ParquetFile(file, pre_buffer=False) as opened:
        for batch in opened.iter_batches(batch_size=BATCH):
            table = pyarrow.Table.from_batches([batch])
            yield table.cast(_undivided(table.schema))


def _features(files: Sequence[Path]) -> Any:
    """The columns of all files together, as Hugging Face types."""
    import datasets
    import pyarrow
    from pyarrow import parquet

    schemas = []
    for file in files:
        try:
            schemas.append(_undivided(parquet.read_schema(file)))
        except Exception as error:  # as above
            raise InputError(f"The parquet file {file} cannot be read ({error}); replace the broken file.") from error
    first, told = schemas[0], datasets.Features.from_arrow_schema(schemas[0])
    for file, schema in zip(files, schemas, strict=True):
        _check_same(told, datasets.Features.from_arrow_schema(schema), files[0], file)
    try:
        whole = pyarrow.unify_schemas([schema.remove_metadata() for schema in schemas], promote_options="permissive")
    except pyarrow.ArrowException as error:
        raise InputError(
            f"The parquet files beside {files[0]} have columns of different types ({error}); write them alike."
        ) from error
    return datasets.Features.from_arrow_schema(whole.with_metadata(first.metadata))


def _check_same(first: Mapping[str, Any], other: Mapping[str, Any], one: Path, file: Path) -> None:
    if set(first) != set(other):
        raise InputError(
            f"{one.name} has the columns {', '.join(first)} and {file.name} has {', '.join(other)}; give files with "
            "the same columns."
        )
    for name in first:
        names = [getattr(feature, "names", None) for feature in (first[name], other[name])]
        if names[0] != names[1]:
            raise InputError(
                f"The class names of column {name} differ between {one.name} and {file.name}; write both with the same."
            )


def _undivided(schema: Any) -> Any:
    """The columns with categories as what they stand for."""
    import pyarrow

    fields = [
        field.with_type(field.type.value_type) if pyarrow.types.is_dictionary(field.type) else field for field in schema
    ]
    return pyarrow.schema(fields, metadata=schema.metadata)
