"""From the name of a source to its raw images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..runtime.errors import InputError, unknown
from ..runtime.shapes import Pixels
from . import medmnist, saved
from .array_files import Wanted, array_folder, from_array_file
from .cache import PixelAllocator, cached_data
from .dataset import DataConfig, RawData, Resize, Source, Split, Summary, rows_of
from .decoding import decoded, padded, resized
from .digests import FileSet
from .hub import (
    ParquetFolder,
    file_beside,
    from_hub,
    from_parquet,
    hub_file,
    parquet_file,
    parquet_folder,
    prepared_files,
    table_source,
)
from .image_folders import (
    IMAGENET_NAMES,
    IMAGENET_SIZE,
    TINY_IMAGENET,
    check_all_classes,
    class_folders,
    from_picture_folder,
    is_tiny_imagenet,
    named_by_wnid,
    no_imagenet,
    subset_classes,
    tiny_imagenet,
    tiny_imagenet_files,
)
from .label_tables import LabelTables, is_table, label_table, label_tables, other_classes
from .layouts import UNNAMED, PartNames, unwrapped
from .levels import Opening
from .listing import NAMED, Listing, UnlabelledError, Walked, kind_of, some, text_of
from .parquet import may_be_set
from .selection import ClassChoice, stratified, with_classes

HUB = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "svhn": "ufldl-stanford/svhn:cropped_digits",
    "tiny_imagenet": "zh-plus/tiny-imagenet",
}
NAMES = ("digits", *HUB, *IMAGENET_NAMES, *medmnist.SETS)
DEFAULT_SIZES = dict.fromkeys(IMAGENET_NAMES, IMAGENET_SIZE)
RESIZED: dict[Resize, str] = {
    "crop": "short side resized, centre cropped",
    "squash": "squashed, not antialiased",
}
UNPADDED, PADDED = (1, 28, 28), 32
"""Channels, height and width that get a border, and the side they get, as in all published trajectory matching."""
DIGITS_TEST = 360
IN_MEMORY = "tensors:"
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and deviation per channel."""
Opened = AbstractContextManager[Source]
"""A source that can be read for as long as the block lasts."""
CIFAR: Statistics = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""For CIFAR-100 too."""
IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


USUAL_OPENING = Opening()


@dataclass(frozen=True)
class Request:
    """What of a source is wanted, as far as it decides which pixels are decoded."""

    choice: ClassChoice
    size: int | None
    resize: Resize
    image_column: str | None
    label_column: str | None
    opening: Opening = USUAL_OPENING
    parts: PartNames = UNNAMED
    verify: bool = False
    """Whether every byte is read and checked, also of files that did not change."""
    look: Callable[[Source], RawData] | None = None
    """What is done with pictures in the place of decoding them."""

    def key(self, of: str) -> list[object]:
        """A JSON-ready value that differs when the decoded pixels of content `of` would."""
        names = [of, self.choice.classes, self.choice.first, self.size, self.image_column, self.label_column]
        unusual = [{"resize": self.resize}] * (self.size is not None and self.resize != "crop")
        opened = [asdict(self.opening)] * (self.opening != USUAL_OPENING)
        return [*names, *unusual, *opened]

    def of_arrays(self) -> Wanted:
        """What of this arrays can have."""
        return Wanted(self.image_column, self.label_column, self.opening.white_level)

    def check_no_columns(self, source: str) -> None:
        """Raise InputError where a column was named of a source that has none."""
        for kind, name in (("image", self.image_column), ("label", self.label_column)):
            if name is not None:
                raise InputError(
                    f"--data.{kind}-column {name} names a column of a table or an array of a file, and {source} has "
                    "neither; leave it out."
                )

    def sized(self, pixels: Pixels) -> Pixels:
        """The images in the size that is wanted."""
        return resized(pixels, self.size, self.resize)


def read(config: DataConfig, verify: bool = False) -> RawData:
    """The images that a configuration names: chosen classes, one size, still uint8 and without preprocessing.

    A known name comes first, then a path that exists, then a hub name 'owner/name' or 'owner/name:configuration'. A
    known name is read from the folder of that name in `ASTDISTILL_DATA`, where the environment names one that has it,
    and from the hub otherwise; ImageNet and its subsets only from the folder `imagenet` there, at 128 px.
    Single-channel 28×28 images of any source are padded to 32×32. A `config.size` changes both.
    Raises InputError for anything else and for every fault of the data itself.
    """
    request = _request(config, verify=verify)
    size = request.size
    raw = bordered(_found(config.source, request), size)
    if size is None:
        return raw
    return replace(raw, summary=raw.summary + Summary((f"images of {size}×{size} pixels: {RESIZED[config.resize]}",)))


def looked_at(config: DataConfig, look: Callable[[Source], RawData]) -> RawData:
    """The images that a configuration names, where these are pictures what `look` makes of them in the place of
    decoding; nothing is resized."""
    return _found(config.source, _request(config, look=look))


def _request(config: DataConfig, **how: Any) -> Request:
    return Request(
        ClassChoice(config.classes, config.first_classes),
        config.size or DEFAULT_SIZES.get(config.source),
        config.resize,
        config.image_column,
        config.label_column,
        Opening(config.background, config.white_level),
        PartNames(config.train_part, config.test_part),
        **how,
    )


def _found(source: str, request: Request) -> RawData:
    path = _local(source)
    kind = kind_of(path)
    if request.parts != UNNAMED and kind != "folder":
        raise _no_parts(source)
    if not source:
        raise InputError("--data is empty; name a data set, a folder or a file, or '.' for the folder you are in.")
    if source == "digits":
        request.check_no_columns(source)
        raw = _shaped(digits(), request)
    elif source in medmnist.NAMES:
        raw = _from_file(medmnist.file_of(source), request)
    elif source in IMAGENET_NAMES:
        raw = _from_imagenet(path, request, source)
    elif source in HUB and kind != "folder":
        _check_root()
        raw = _from_known(source, request)
    elif kind:
        raw = _from_path(path, kind, request)
    elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?", source) and not source.endswith(".npz"):
        raw = _from_hub(source, source.partition(":")[0].rpartition("/")[2], request)
    else:
        raise _nowhere(source)
    return replace(raw, summary=raw.summary + Summary(guessed=_namesake(source, path)))


def _from_path(path: Path, kind: str, request: Request) -> RawData:
    if kind == "folder":
        return _from_folder(path, request)
    if kind == "file":
        return _from_file(path, request)
    raise InputError(f"{text_of(path)} is a pipe, device or socket; name a file or folder with --data.")


def _namesake(source: str, path: Path) -> tuple[str, ...]:
    """A note where a known name is also that of a file or folder here, or a folder is called as a set of the hub."""
    here = Path(source)
    if source in NAMES and path != here and kind_of(here):
        return (f"the known data set {source}, not {here.absolute()} (--data ./{source} reads that)",)
    if source == "digits" and kind_of(here):
        return (f"scikit-learn's digits, not {here.absolute()} (--data ./digits reads that)",)
    if source in HUB.values() and path == here:
        return (f"the folder {here.absolute()}, not the hub's {source} (which a start in another folder reads)",)
    return ()


def _from_known(source: str, request: Request) -> RawData:
    """A set of the hub by its known name."""
    try:
        return _from_hub(HUB[source], source, request)
    except InputError as error:
        raise _pointed_here(error, source) from error


def _pointed_here(error: InputError, source: str) -> InputError:
    """The error for a known set that cannot be had, which points to what is called so in the working folder."""
    if not kind_of(Path(source)):
        return error
    return InputError(f"{error} What is called {source} here is read with --data ./{source}.")


def digits() -> RawData:
    """Scikit-learn's 1,797 grey 8×8 digits, 1,437 for training and 360 for testing, divided per class by a fixed
    seed."""
    whole = _all_digits()
    division = stratified(whole.labels, 10, DIGITS_TEST, 0, "digits test part")
    return RawData(
        "digits",
        tuple(map(str, range(10))),
        rows_of(whole, division.stay),
        rows_of(whole, division.held_out),
        Summary((f"test part: {DIGITS_TEST} of its images, drawn of every class by a fixed seed",)),
    )


@cache  # the text that scikit-learn keeps them in takes 20 ms to read
def _all_digits() -> Split:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels = torch.as_tensor(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)  # stored as 0..16
    return Split(pixels, torch.as_tensor(bunch.target, dtype=torch.int64))


def bordered(raw: RawData, size: int | None) -> RawData:
    """The set with its single-channel 28×28 images, whatever its name, padded to 32×32 unless a `size` was asked
    for."""
    parts = [part for part in (raw.train, raw.test) if part is not None]
    if size is not None or any(tuple(part.images.shape[1:]) != UNPADDED for part in parts):
        return raw
    summary = raw.summary + Summary((f"images of 28×28 padded to {PADDED}×{PADDED}",))
    return replace(raw.map_pixels(lambda pixels: padded(pixels, PADDED)), summary=summary)


def _local(source: str) -> Path:
    """Where a source lies on this machine, if it does."""
    root = os.environ.get("ASTDISTILL_DATA")
    if source not in (*HUB, *IMAGENET_NAMES):
        return Path(os.path.expanduser(source))
    name = "imagenet" if source in IMAGENET_NAMES else source
    return Path(os.path.expanduser(root)) / name if root else Path(os.devnull)


def _check_root() -> None:
    """Refuse a folder of data that is not there: it was named to keep large sets from being downloaded."""
    root = os.environ.get("ASTDISTILL_DATA")
    if root and not Path(os.path.expanduser(root)).is_dir():
        raise InputError(
            f"ASTDISTILL_DATA names {root}, which is no folder; correct it, or unset it to let the hub be asked."
        )


def published_name(name: str) -> str:
    """The known name that a source or folder name spells ('CIFAR-100' is cifar100), or the name itself."""
    return next((known for known in NAMES if _plain(known) == _plain(name)), name)


def published_statistics(name: str) -> Statistics | None:
    """The mean and deviation of all published trajectory-matching code for sets of that name, where they are fixed
    (docs/method.md, section 6).

    Whatever begins with 'imagenet', 'tiny-imagenet' or 'ilsvrc' counts as derived from ImageNet.
    """
    if published_name(name) in ("cifar10", "cifar100"):
        return CIFAR
    return IMAGENET if _plain(name).startswith(("imagenet", "tinyimagenet", "ilsvrc")) else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _decoded(
    name: str, files: FileSet, key: Callable[[str], object], opened: Callable[[], Opened], request: Request
) -> RawData:
    """The wanted pictures of a source, which is opened only where the cache, asked by `key`, has not decoded it, or
    where it has no files."""

    def build(allocator: PixelAllocator) -> RawData:
        with opened() as source:
            return decoded(source, request.choice, request.sized, allocator, request.opening)

    if request.look is not None:
        with opened() as source:
            return request.look(source)
    if not files.files:
        with opened() as source:
            return decoded(source, request.choice, request.sized, opening=request.opening)
    return cached_data(name, files, key, build, request.verify)


def _from_hub(repository: str, name: str, request: Request) -> RawData:
    splits = from_hub(repository)
    files = prepared_files(splits)

    def opened() -> Opened:
        confined = dict.fromkeys(splits, hub_file)
        return nullcontext(table_source(name, splits, files, request.image_column, request.label_column, confined))

    return _decoded(name, files, request.key, opened, request)


def _from_imagenet(folder: Path, request: Request, source: str) -> RawData:
    """ImageNet, or a subset of it, of which the request may choose classes in turn."""
    if not folder.is_dir():
        raise _pointed_here(no_imagenet(source), source)
    folders, wanted = class_folders(folder, Listing()), subset_classes(source)
    if named_by_wnid(folders):
        check_all_classes(folder, folders, source)
    first = request.choice if wanted is None else ClassChoice(wanted)
    raw = replace(_from_folder(folder, replace(request, choice=first)), name=source)
    return raw if wanted is None else with_classes(raw, request.choice)


def _from_folder(folder: Path, request: Request) -> RawData:
    listing = Listing()
    inside = listing.entries(folder).folders
    tiny = [place for place in (folder, *inside * (len(inside) == 1)) if is_tiny_imagenet(place)]
    arrays = None if tiny else _arrays_in(folder, request, listing)
    parquet, passed = ([], []) if tiny or arrays is not None else _parquet_files(folder, request, listing)
    if not tiny and not parquet and arrays is None:
        return _with_left_out(_from_pictures(folder, request, listing), folder, passed)
    if request.parts != UNNAMED:
        raise _no_parts(str(folder))
    if arrays is not None:
        return arrays
    if parquet:
        return _with_left_out(_from_parquet(folder, parquet, request, listing), folder, passed)
    raw = _from_tiny_imagenet(tiny[0], request)
    through = (f"everything lies in folder {text_of(tiny[0].name)}",) * (tiny[0] != folder)
    return replace(raw, summary=raw.summary + Summary(through))


def _arrays_in(folder: Path, request: Request, listing: Listing) -> RawData | None:
    """What a folder holds that `datasets.save_to_disk` or a program that writes arrays made, or None."""
    if saved.is_saved(folder):
        return _from_saved(folder, request)
    arrays = array_folder(folder, listing)
    if arrays is None:
        return None
    raw = _shaped(arrays.read(request.of_arrays()), request)
    beside = [place for place in listing.entries(folder).folders if place != arrays.folder and _shows(place, listing)]
    words = (f"folders of pictures beside the arrays ({some(beside)})",) * bool(beside)
    return replace(raw, summary=raw.summary + Summary(left_out=words))


def _shows(folder: Path, listing: Listing) -> bool:
    """Whether a folder that is not read holds pictures, as far as it can be looked into."""
    try:
        return listing.has_pictures(folder)
    except InputError:
        return False


def _parquet_files(folder: Path, request: Request, listing: Listing) -> tuple[list[Path], list[Path]]:
    """The parquet files of a folder that are read, and those that are not: beside pictures, tables that neither hold
    nor name any. ImageNet has a million pictures, too many to look for anything else among them."""
    root = unwrapped(folder, listing)
    for place in (root, *listing.entries(root).folders):
        if named_by_wnid([path.name for path in listing.entries(place).folders]):
            return [], []
    found = [path for path in listing.walk(folder).others if path.suffix.lower() == ".parquet"]
    if not found or not listing.has_pictures(folder):
        return found, []
    passed = [path for path in found if not may_be_set(path, request.image_column, request.label_column)]
    return [path for path in found if path not in passed], passed


def _with_left_out(raw: RawData, folder: Path, passed: list[Path]) -> RawData:
    """The set, with a word on the parquet files that were passed over."""
    if not passed:
        return raw
    named = ", ".join(text_of(path.relative_to(folder).as_posix()) for path in passed[:NAMED])
    more = f" and {len(passed) - NAMED} more" * (len(passed) > NAMED)
    word = f"parquet files without a column of pictures and one of labels: {named}{more}"
    return replace(raw, summary=raw.summary + Summary(left_out=(word,)))


def _from_parquet(folder: Path, paths: list[Path], request: Request, listing: Listing) -> RawData:
    given = parquet_folder(folder, paths, request.image_column)
    raw = _from_tables(given, request)
    walked, named = listing.walk(folder), set(given.beside.values())
    pictures = [path for path in walked.pictures if path not in named]
    beside = (f"{len(pictures)} picture files beside the parquet files ({some(pictures)})",) * bool(pictures)
    unseen = Walked(hidden=walked.hidden, special=walked.special, written=walked.written).left_out()
    return replace(raw, summary=raw.summary + Summary(left_out=beside + unseen))


def _from_tables(given: ParquetFolder, request: Request) -> RawData:
    def opened() -> Opened:
        return from_parquet(given, request.image_column, request.label_column)

    return _decoded(given.name, given.files(), lambda content: [given.name, *request.key(content)], opened, request)


def _from_saved(folder: Path, request: Request) -> RawData:
    name, files = folder.resolve().name, saved.saved_files(folder)

    def opened() -> Opened:
        splits = saved.from_saved(folder)
        confined = dict.fromkeys(splits, file_beside(folder, saved.files_below(folder)))
        return nullcontext(table_source(name, splits, files, request.image_column, request.label_column, confined))

    return _decoded(name, files, lambda content: [name, *request.key(content)], opened, request)


def _from_pictures(folder: Path, request: Request, listing: Listing) -> RawData:
    if not listing.has_pictures(folder):
        where, why = text_of(folder), " and ".join(listing.walk(folder).left_out())
        raise InputError(
            f"{where} holds no parquet files and no pictures{why and f', but {why}'}; expected {where}/train-*.parquet "
            f"or {where}/train/<class>/*.png."
        )
    columns = request.image_column, request.label_column
    tables = label_tables(folder, listing, *columns) if any(columns) else None
    if tables is not None:
        return _from_label_tables(tables, request, listing)
    request.check_no_columns(text_of(folder))
    choice = request.choice
    if choice.classes is not None:  # names of folders are written so that every terminal shows them
        choice = replace(choice, classes=tuple(map(text_of, choice.classes)))
    try:
        source = from_picture_folder(folder, choice, listing, request.parts)
    except UnlabelledError:
        tables = label_tables(folder, listing, *columns)
        if tables is None:
            raise
        return _from_label_tables(tables, request, listing)
    request = replace(request, choice=choice)

    def key(content: str) -> list[object]:
        return [source.name, *request.key(content), *source.words, *source.places]

    raw = _decoded(source.name, source.files, key, lambda: nullcontext(source), request)
    # What is left out is said as it is now: the cache does not follow files that do not count.
    said = replace(raw.summary, left_out=source.summary.left_out)
    return replace(raw, summary=said + Summary(guessed=other_classes(folder, listing, source)))


def _from_label_tables(given: LabelTables, request: Request, listing: Listing) -> RawData:
    if request.parts != UNNAMED:
        raise InputError(
            "--data.train-part and --data.test-part name folders of class folders, and the classes of "
            f"{text_of(given.folder)} stand in a table; leave them out."
        )

    def key(content: str) -> list[object]:
        return [given.name, "tables", *map(str, given.parts), *request.key(content)]

    raw = _decoded(given.name, given.files(), key, lambda: given.opened(request.label_column), request)
    return replace(raw, summary=raw.summary + Summary(left_out=given.left_out(listing)))


def _no_parts(source: str) -> InputError:
    return InputError(
        f"--data.train-part and --data.test-part name folders of pictures, and {text_of(source)} is no folder of "
        "pictures; leave them out."
    )


def _from_tiny_imagenet(path: Path, request: Request) -> RawData:
    request.check_no_columns(text_of(path))
    name, files = TINY_IMAGENET, tiny_imagenet_files(path)
    return _decoded(
        name, files, lambda content: [name, *request.key(content)], lambda: tiny_imagenet(path, files), request
    )


def _from_file(path: Path, request: Request) -> RawData:
    if is_tiny_imagenet(path):
        return _from_tiny_imagenet(path, request)
    if path.suffix.lower() == ".parquet":
        return _from_tables(parquet_file(path, request.image_column), request)
    if is_table(path):
        return _from_label_table(path, request, Listing())
    raw = from_array_file(path, request.of_arrays())
    if raw is None:
        raise InputError(
            f"{path} is a file that cannot be read as data; give a .parquet, .csv, .npz, .mat or IDX file, "
            "tiny-imagenet-200.zip, or a folder of pictures, parquet files or arrays."
        )
    return _shaped(raw, request)


def _from_label_table(path: Path, request: Request, listing: Listing) -> RawData:
    tables = label_table(path, listing, request.image_column, request.label_column)
    if tables is None:
        raise InputError(
            f"{text_of(path)} is no table, in UTF-8, with a column that names pictures below {text_of(path.parent)}; "
            "write it with the columns file_name and label, or name its columns with --data.image-column and "
            "--data.label-column."
        )
    return _from_label_tables(tables, request, listing)


def _shaped(raw: RawData, request: Request) -> RawData:
    chosen = with_classes(raw, request.choice)
    return alike(chosen.map_pixels(request.sized))


def alike(raw: RawData) -> RawData:
    """The set. Raises InputError unless training and test images have the same channels, height and width."""
    if raw.test is not None and raw.train.images.shape[1:] != raw.test.images.shape[1:]:
        shapes = [tuple(part.images.shape[1:]) for part in (raw.train, raw.test)]
        raise InputError(
            f"Training images of {raw.name} are {shapes[0]} and test images {shapes[1]}; give both the same channels "
            f"and size."
        )
    return raw


def _nowhere(source: str) -> InputError:
    if source.startswith(IN_MEMORY):
        return InputError(
            f"'{source}' was made from tensors in memory; build it again with dataset_from_tensors, or give --data a "
            f"source on disk."
        )
    if "/" in source or "\\" in source or source.startswith((".", "~")) or source.endswith(".npz"):
        return InputError(
            f"There is no file or folder {source}; check the path, or name one of {', '.join(NAMES)} or a hub name "
            f"'owner/name'."
        )
    return unknown("data source", source, [*NAMES, "a folder", "an .npz file", "a hub name 'owner/name'"])
