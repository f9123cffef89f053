"""From the name of a source to its raw images."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, unknown
from .cache import cached_data, content
from .config import DataConfig
from .files import digits, from_npz, from_picture_folder, picture_files
from .hub import from_hub, from_parquet
from .pictures import decoded
from .pixels import padded, resized
from .raw import RawData
from .selection import ClassChoice, with_classes

HUB = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "svhn": "ufldl-stanford/svhn:cropped_digits",
}
NAMES = ("digits", *HUB)
UNPADDED, PADDED = (1, 28, 28), 32
"""Channels, height and width that get a border, and the side they get, as in all published trajectory matching."""
IN_MEMORY = "tensors:"


@dataclass(frozen=True)
class Request:
    """What of a source is wanted, as far as it decides which pixels are decoded."""

    choice: ClassChoice
    size: int | None
    image_column: str | None
    label_column: str | None

    def key(self, of: str) -> list[object]:
        """A JSON-ready value that differs when the decoded pixels of content `of` would."""
        return [of, self.choice.classes, self.choice.first, self.size, self.image_column, self.label_column]


def read(config: DataConfig) -> RawData:
    """The images that a configuration names: chosen classes, one size, still uint8 and without preprocessing.

    A known name comes first, then a path that exists, then a hub name 'owner/name' or 'owner/name:configuration'. A known name is read
    from the folder of that name in `ASTDISTILL_DATA`, where the environment names one that has it, and from the hub otherwise.
    Single-channel 28×28 images of any source are padded to 32×32 unless `config.size` is given.
    Raises InputError for anything else and for every fault of the data itself.
    """
    request = Request(ClassChoice(config.classes, config.first_classes), config.size, config.image_column, config.label_column)
    source, path = config.source, _local(config.source)
    if source == "digits":
        raw = _shaped(digits(), request)
    elif source in HUB and not path.is_dir():
        raw = _from_hub(HUB[source], source, request)
    elif path.is_dir():
        raw = _from_folder(path, request)
    elif path.is_file():
        raw = _from_file(path, request)
    elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?", source) and not source.endswith(".npz"):
        raw = _from_hub(source, source.partition(":")[0].rpartition("/")[2], request)
    else:
        raise _nowhere(source)
    return bordered(raw, config.size)


def bordered(raw: RawData, size: int | None) -> RawData:
    """The set with its single-channel 28×28 images, whatever its name, padded to 32×32 unless a `size` was asked for."""
    parts = [part for part in (raw.train, raw.test) if part is not None]
    if size is not None or any(tuple(part.pixels.shape[1:]) != UNPADDED for part in parts):
        return raw
    return raw.map_pixels(lambda pixels: padded(pixels, PADDED))


def _local(source: str) -> Path:
    """Where a source lies on this machine, if it does."""
    root = os.environ.get("ASTDISTILL_DATA")
    if source not in HUB:
        return Path(source).expanduser()
    return Path(root).expanduser() / source if root else Path(os.devnull)


def published_name(name: str) -> str:
    """The known name that a source or folder name spells ('CIFAR-100' is cifar100), or the name itself."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((known for known in NAMES if known.replace("_", "") == plain), name)


def _from_hub(repository: str, name: str, request: Request) -> RawData:
    table = from_hub(repository, name, request.image_column, request.label_column)
    files = table.files()
    if not files:
        return decoded(table.encoded(), request.choice, request.size)
    return cached_data(name, request.key(content(files)), lambda: decoded(table.encoded(), request.choice, request.size))


def _from_folder(folder: Path, request: Request) -> RawData:
    parquet = sorted(folder.rglob("*.parquet"))
    files = parquet or picture_files(folder)
    if not files:
        raise InputError(
            f"{folder} holds no parquet files and no pictures; expected {folder}/train-*.parquet or {folder}/train/<class>/*.png."
        )

    def build() -> RawData:
        if not parquet:
            return decoded(from_picture_folder(folder), request.choice, request.size)
        with from_parquet(folder, parquet, request.image_column, request.label_column) as table:
            return decoded(table.encoded(), request.choice, request.size)

    name = folder.resolve().name
    return cached_data(name, [name, *request.key(content(files, folder))], build)


def _from_file(path: Path, request: Request) -> RawData:
    if path.suffix != ".npz":
        raise InputError(f"{path} is a file that cannot be read as data; give an .npz file, or a folder of parquet files or pictures.")
    return _shaped(from_npz(path), request)


def _shaped(raw: RawData, request: Request) -> RawData:
    chosen = with_classes(raw, request.choice)
    return chosen.map_pixels(lambda pixels: resized(pixels, request.size))


def _nowhere(source: str) -> InputError:
    if source.startswith(IN_MEMORY):
        return InputError(
            f"'{source}' was made from tensors in memory; build it again with dataset_from_tensors, or give --data a source on disk."
        )
    if "/" in source or "\\" in source or source.startswith((".", "~")) or source.endswith(".npz"):
        return InputError(
            f"There is no file or folder {source}; check the path, or name one of {', '.join(NAMES)} or a hub name 'owner/name'."
        )
    return unknown("data source", source, [*NAMES, "a folder", "an .npz file", "a hub name 'owner/name'"])
