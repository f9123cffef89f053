"""Reads the raw images of a data source, given its name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..runtime.errors import InputError, suggestion
from ..runtime.shapes import Pixels
from ..runtime.text import many
from . import medmnist, saved
from .array_files import ArrayChoice, array_folder, from_array_file
from .cache import PixelAllocator, cached_data
from .dataset import DataConfig, RawData, Resize, Source, Split, Summary, rows_of
from .decoding import decoded, padded, resized
from .digests import FileSet
from .hub import (
    ParquetFolder,
    from_hub,
    from_parquet,
    hub_file,
    parquet_file,
    parquet_folder,
    picture_reader,
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
from .label_tables import LabelTables, is_table, label_table, label_tables, other_classes, tables_of
from .layouts import UNNAMED, PartNames, unwrapped
from .levels import Opening
from .listing import NAMED, Listing, UnlabelledError, Walked, kind_of, some, text_of
from .parquet import may_be_set
from .picture_lists import by_lists, divided_tables, names_lists
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
"""The image shape that is padded and the side it is padded to, as in all published trajectory matching."""
DIGITS_TEST = 360
IN_MEMORY = "tensors:"
BY_PICTURE = (
    "the test part is drawn picture by picture, so that those of one folder are in both parts (a column called split "
    "in the table, with train and test, keeps them apart)"
)
"""A note where a table labels folders, such as those of patients."""
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and deviation per channel."""
Opened = AbstractContextManager[Source]
"""A context manager of a source, which can be read inside the block."""
CIFAR: Statistics = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""For CIFAR-100 too."""
IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


USUAL_OPENING = Opening()


@dataclass(frozen=True)
class Request:
    """The options of a read that determine which pixels are decoded."""

    choice: ClassChoice
    size: int | None
    resize: Resize
    image_column: str | None
    label_column: str | None
    opening: Opening = USUAL_OPENING
    parts: PartNames = UNNAMED
    verify: bool = False
    """Whether every byte is read and checked, including files that did not change."""
    look: Callable[[Source], RawData] | None = None
    """Called with a source of pictures, instead of decoding them."""

    def key(self, of: str) -> list[object]:
        """A JSON-ready key that differs whenever the decoded pixels of content `of` would."""
        names = [of, self.choice.classes, self.choice.first, self.size, self.image_column, self.label_column]
        resizing = [{"resize": self.resize}] * (self.size is not None and self.resize != "crop")
        opening = [asdict(self.opening)] * (self.opening != USUAL_OPENING)
        return [*names, *resizing, *opening]

    def of_arrays(self) -> ArrayChoice:
        """The options that apply to arrays."""
        return ArrayChoice(self.image_column, self.label_column, self.opening.white_level)

    def check_no_columns(self, source: str) -> None:
        """Raise InputError if a column is named but the source has none."""
        for kind, name in (("image", self.image_column), ("label", self.label_column)):
            if name is not None:
                raise InputError(
                    f"--data.{kind}-column {name} names a column of a table or an array of a file, and {source} has "
                    "neither; leave it out."
                )

    def sized(self, pixels: Pixels) -> Pixels:
        """The images in the requested size."""
        return resized(pixels, self.size, self.resize)


def read(config: DataConfig, verify: bool = False) -> RawData:
    """The images that a configuration names: chosen classes, one size, still uint8 and without preprocessing.

    The source is looked up as a known name, then as an existing path, then as a hub name 'owner/name' or
    'owner/name:configuration'. A known name is read from the folder of that name in `$ASTDISTILL_DATA` if there is one,
    otherwise from the hub; ImageNet and its subsets only from the folder `imagenet` there, at 128 px. Single-channel
    28×28 images of any source are padded to 32×32. `config.size` overrides both sizes.
    Raises InputError for any other source and for all errors in the data.
    """
    request = _make_request(config, verify=verify)
    size = request.size
    raw = bordered(_read_source(config.source, request), size)
    if size is None:
        return raw
    return replace(raw, summary=raw.summary + Summary((f"images of {size}×{size} pixels: {RESIZED[config.resize]}",)))


def looked_at(config: DataConfig, look: Callable[[Source], RawData]) -> RawData:
    """The images that a configuration names; a source of pictures is passed to `look` instead of being decoded. Nothing
    is resized."""
    return _read_source(config.source, _make_request(config, look=look))


def _make_request(config: DataConfig, **options: Any) -> Request:
    return Request(
        ClassChoice(config.classes, config.first_classes),
        config.size or DEFAULT_SIZES.get(config.source),
        config.resize,
        config.image_column,
        config.label_column,
        Opening(config.background, config.white_level),
        PartNames(config.train_part, config.test_part),
        **options,
    )


def _read_source(source: str, request: Request) -> RawData:
    path = _local_path(source)
    kind = kind_of(path)
    if request.parts != UNNAMED and kind != "folder" and not (kind == "file" and is_table(path)):
        raise _no_parts_error(source)
    if not source:
        raise InputError("--data is empty; name a data set, a folder or a file, or '.' for the folder you are in.")
    if source == "digits":
        request.check_no_columns(source)
        raw = _select_and_resize(digits(), request)
    elif source in medmnist.NAMES:
        raw = _from_file(medmnist.file_of(source), request)
    elif source in IMAGENET_NAMES:
        raw = _from_imagenet(path, request, source)
    elif source in HUB and kind != "folder":
        _check_data_folder()
        raw = _from_known(source, request)
    elif kind:
        raw = _from_path(path, kind, request)
    elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?", source) and not source.endswith(".npz"):
        raw = _from_hub(source, source.partition(":")[0].rpartition("/")[2], request)
    else:
        raise _not_found_error(source)
    return replace(raw, summary=raw.summary + Summary(guessed=_namesake_note(source, path)))


def _from_path(path: Path, kind: str, request: Request) -> RawData:
    if kind == "folder":
        return _from_folder(path, request)
    if kind == "file":
        return _from_file(path, request)
    raise InputError(f"{text_of(path)} is a pipe, device or socket; name a file or folder with --data.")


def _namesake_note(source: str, path: Path) -> tuple[str, ...]:
    """A note if a known name is also a local file or folder, or a local folder has the name of a hub set; else
    empty."""
    local_path = Path(source)
    if source in NAMES and path != local_path and kind_of(local_path):
        return (f"the known data set {source}, not {local_path.absolute()} (--data ./{source} reads that)",)
    if source == "digits" and kind_of(local_path):
        return (f"scikit-learn's digits, not {local_path.absolute()} (--data ./digits reads that)",)
    if source in HUB.values() and path == local_path:
        return (f"the folder {local_path.absolute()}, not the hub's {source} (which a start in another folder reads)",)
    return ()


def _from_known(source: str, request: Request) -> RawData:
    """Read a hub set by its known name."""
    try:
        return _from_hub(HUB[source], source, request)
    except InputError as error:
        raise _with_local_hint(error, source) from error


def _with_local_hint(error: InputError, source: str) -> InputError:
    """The error for an unavailable known set, with a hint if the working folder has something of that name."""
    if not kind_of(Path(source)):
        return error
    return InputError(f"{error} To read the {source} in this folder, give --data ./{source}.")


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


@cache  # parsing the text file of scikit-learn takes 20 ms
def _all_digits() -> Split:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels = torch.as_tensor(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)  # stored as 0..16
    return Split(pixels, torch.as_tensor(bunch.target, dtype=torch.int64))


def bordered(raw: RawData, size: int | None) -> RawData:
    """The set with single-channel 28×28 images padded to 32×32, unless a `size` is requested."""
    parts = [part for part in (raw.train, raw.test) if part is not None]
    if size is not None or any(tuple(part.images.shape[1:]) != UNPADDED for part in parts):
        return raw
    summary = raw.summary + Summary((f"images of 28×28 padded to {PADDED}×{PADDED}",))
    return replace(raw.map_pixels(lambda pixels: padded(pixels, PADDED)), summary=summary)


def _local_path(source: str) -> Path:
    """The local path of a source; os.devnull for a known name without `$ASTDISTILL_DATA`."""
    root = os.environ.get("ASTDISTILL_DATA")
    if source not in (*HUB, *IMAGENET_NAMES):
        return Path(os.path.expanduser(source))
    name = "imagenet" if source in IMAGENET_NAMES else source
    return Path(os.path.expanduser(root)) / name if root else Path(os.devnull)


def _check_data_folder() -> None:
    """Raise InputError if `$ASTDISTILL_DATA` is not a folder: it is set to avoid the download of large sets."""
    root = os.environ.get("ASTDISTILL_DATA")
    if root and not Path(os.path.expanduser(root)).is_dir():
        raise InputError(f"ASTDISTILL_DATA names {root}, which is no folder; correct it, or unset it to use the hub.")


def published_name(name: str) -> str:
    """The known name that matches a source or folder name ('CIFAR-100' is cifar100), else the name itself."""
    return next((each for each in NAMES if _normalise_name(each) == _normalise_name(name)), name)


def published_statistics(name: str) -> Statistics | None:
    """The mean and deviation of all published trajectory-matching code for sets of that name, if they are fixed
    (docs/method.md, section 6).

    Names that begin with 'imagenet', 'tiny-imagenet' or 'ilsvrc' count as derived from ImageNet.
    """
    if published_name(name) in ("cifar10", "cifar100"):
        return CIFAR
    return IMAGENET if _normalise_name(name).startswith(("imagenet", "tinyimagenet", "ilsvrc")) else None


def _normalise_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _decode_cached(
    name: str, files: FileSet, key: Callable[[str], object], open_source: Callable[[], Opened], request: Request
) -> RawData:
    """The requested pictures of a source, decoded or from the cache.

    `open_source` is called only if the cache has no entry for `key`, the source has no files, or `request.look` is set.
    """

    def build(allocator: PixelAllocator) -> RawData:
        with open_source() as source:
            return decoded(source, request.choice, request.sized, allocator, request.opening)

    if request.look is not None:
        with open_source() as source:
            return request.look(source)
    if not files.files:
        with open_source() as source:
            return decoded(source, request.choice, request.sized, opening=request.opening)
    return cached_data(name, files, key, build, request.verify)


def _from_hub(repository: str, name: str, request: Request) -> RawData:
    splits = from_hub(repository)
    files = prepared_files(splits)

    def open_source() -> Opened:
        readers = dict.fromkeys(splits, hub_file)
        return nullcontext(table_source(name, splits, files, request.image_column, request.label_column, readers))

    return _decode_cached(name, files, request.key, open_source, request)


def _from_imagenet(folder: Path, request: Request, source: str) -> RawData:
    """Read ImageNet or a subset of it; the request may choose classes of the subset."""
    if not folder.is_dir():
        raise _with_local_hint(no_imagenet(source), source)
    folders, subset = class_folders(folder, Listing()), subset_classes(source)
    if named_by_wnid(folders):
        check_all_classes(folder, folders, source)
    choice = request.choice if subset is None else ClassChoice(subset)
    raw = replace(_from_folder(folder, replace(request, choice=choice)), name=source)
    return raw if subset is None else with_classes(raw, request.choice)


def _from_folder(folder: Path, request: Request) -> RawData:
    listing = Listing()
    subfolders = listing.entries(folder).folders
    tiny_folders = [each for each in (folder, *subfolders * (len(subfolders) == 1)) if is_tiny_imagenet(each)]
    arrays = None if tiny_folders else _from_arrays(folder, request, listing)
    parquet, ignored = ([], []) if tiny_folders or arrays is not None else _parquet_files(folder, request, listing)
    if not tiny_folders and not parquet and arrays is None:
        return _with_left_out(_from_pictures(folder, request, listing), folder, ignored)
    if arrays is not None:
        return arrays
    if request.parts != UNNAMED:
        raise _no_parts_error(str(folder))
    if parquet:
        return _with_left_out(_from_parquet(folder, parquet, request, listing), folder, ignored)
    raw = _from_tiny_imagenet(tiny_folders[0], request)
    notes = (f"everything lies in folder {text_of(tiny_folders[0].name)}",) * (tiny_folders[0] != folder)
    return replace(raw, summary=raw.summary + Summary(notes))


def _from_arrays(folder: Path, request: Request, listing: Listing) -> RawData | None:
    """Read a folder of `datasets.save_to_disk` or of array files; None for any other folder. Pictures beside array
    files are read instead if these are no set of images and labels, or if the user named parts."""
    if saved.is_saved(folder):
        if request.parts != UNNAMED:
            raise _no_parts_error(str(folder))
        return _from_saved(folder, request)
    arrays = array_folder(folder, listing)
    if arrays is None:
        return None
    beside = listing.entries(folder).pictures
    try:
        if request.parts != UNNAMED:
            raise _no_parts_error(str(folder))
        raw = _select_and_resize(arrays.read(request.of_arrays()), request)
    except InputError as error:
        if not beside or arrays.folder != folder:
            raise
        return _from_pictures_beside(folder, request, listing, error)
    picture_folders = [
        each for each in listing.entries(folder).folders if each != arrays.folder and _has_pictures(each, listing)
    ]
    notes = (f"folders of pictures beside the arrays ({some(picture_folders)})",) * bool(picture_folders)
    notes += (f"{many(len(beside), 'picture')} beside the arrays ({some(beside)})",) * bool(beside)
    return replace(raw, summary=raw.summary + Summary(left_out=notes))


def _from_pictures_beside(folder: Path, request: Request, listing: Listing, error: InputError) -> RawData:
    """Read the pictures of a folder whose array files are no set, as `error` says, which is raised if the pictures have
    no labels."""
    try:
        raw = _from_pictures(folder, request, listing)
    except UnlabelledError:
        raise error from None
    note = f"the pictures, not the array files beside them ({str(error).split('; ')[0]})"
    return replace(raw, summary=raw.summary + Summary(guessed=(note,)))


def _has_pictures(folder: Path, listing: Listing) -> bool:
    """Whether a folder holds pictures; False if it cannot be listed."""
    try:
        return listing.has_pictures(folder)
    except InputError:
        return False


def _parquet_files(folder: Path, request: Request, listing: Listing) -> tuple[list[Path], list[Path]]:
    """The parquet files of a folder to read, and those to ignore: in a folder that also holds pictures, tables without
    pictures or paths of pictures. Folders in ImageNet's layout are not searched, since they hold a million files."""
    root = unwrapped(folder, listing)
    for each in (root, *listing.entries(root).folders):
        if named_by_wnid([path.name for path in listing.entries(each).folders]):
            return [], []
    found = [path for path in listing.walk(folder).others if path.suffix.lower() == ".parquet"]
    if not found or not listing.has_pictures(folder):
        return found, []
    ignored = [path for path in found if not may_be_set(path, request.image_column, request.label_column)]
    return [path for path in found if path not in ignored], ignored


def _with_left_out(raw: RawData, folder: Path, ignored: list[Path]) -> RawData:
    """The set with a note on the ignored parquet files."""
    if not ignored:
        return raw
    names = ", ".join(text_of(path.relative_to(folder).as_posix()) for path in ignored[:NAMED])
    more = f" and {len(ignored) - NAMED} more" * (len(ignored) > NAMED)
    note = f"parquet files without a column of pictures and one of labels: {names}{more}"
    return replace(raw, summary=raw.summary + Summary(left_out=(note,)))


def _from_parquet(folder: Path, paths: list[Path], request: Request, listing: Listing) -> RawData:
    parquet = parquet_folder(folder, paths, request.image_column)
    raw = _from_tables(parquet, request)
    walked, referenced = listing.walk(folder), set(parquet.pictures.values())
    pictures = [path for path in walked.pictures if path not in referenced]
    notes = (f"{len(pictures)} picture files beside the parquet files ({some(pictures)})",) * bool(pictures)
    tables = [path for path in walked.others if is_table(path)]
    notes += (f"{many(len(tables), 'table')} beside the parquet files ({some(tables)})",) * bool(tables)
    skipped = Walked(hidden=walked.hidden, special=walked.special, written=walked.written).left_out()
    return replace(raw, summary=raw.summary + Summary(left_out=notes + skipped))


def _from_tables(parquet: ParquetFolder, request: Request) -> RawData:
    def open_source() -> Opened:
        return from_parquet(parquet, request.image_column, request.label_column)

    return _decode_cached(
        parquet.name, parquet.files(), lambda content: [parquet.name, *request.key(content)], open_source, request
    )


def _from_saved(folder: Path, request: Request) -> RawData:
    name, files = folder.resolve().name, saved.saved_files(folder)

    def open_source() -> Opened:
        splits = saved.from_saved(folder)
        readers = dict.fromkeys(splits, picture_reader(folder, saved.files_below(folder)))
        return nullcontext(table_source(name, splits, files, request.image_column, request.label_column, readers))

    return _decode_cached(name, files, lambda content: [name, *request.key(content)], open_source, request)


def _from_pictures(folder: Path, request: Request, listing: Listing) -> RawData:
    if not listing.has_pictures(folder):
        name, note = text_of(folder), " and ".join(listing.walk(folder).left_out())
        raise InputError(
            f"{name} holds no parquet files and no pictures{note and f', but {note}'}; expected {name}/train-*.parquet "
            f"or {name}/train/<class>/*.png."
        )
    columns = request.image_column, request.label_column
    tables = label_tables(folder, listing, *columns) if any(columns) else None
    if tables is not None:
        return _from_label_tables(divided_tables(tables, listing, request.parts, columns[1]), request, listing)
    request.check_no_columns(text_of(folder))
    choice = request.choice
    if choice.classes is not None:  # class names are folder names in printable form
        choice = replace(choice, classes=tuple(map(text_of, choice.classes)))
    found = _files_or_tables(folder, choice, request, listing)
    if isinstance(found, LabelTables):
        return _from_label_tables(found, request, listing)
    return _from_files(folder, found, replace(request, choice=choice), listing)


def _files_or_tables(folder: Path, choice: ClassChoice, request: Request, listing: Listing) -> Source | LabelTables:
    """The picture files of a folder by class folders and lists; by tables of labels if no folders tell the classes."""
    by_names = names_lists(folder, request.parts)
    with_lists = by_names or request.parts == UNNAMED
    try:
        source = from_picture_folder(folder, choice, listing, UNNAMED if by_names else request.parts)
    except UnlabelledError as error:
        found = _without_class_folders(folder, request, listing)
        if found is not None:
            return found
        tables = tables_of(folder, listing)
        if not tables:
            raise
        advice = f"name the table that labels these pictures, --data {text_of(tables[0])}"
        raise UnlabelledError(f"{str(error).rstrip('.')}, or {advice}.") from error
    return by_lists(folder, listing, source, request.parts) if with_lists else source


def _without_class_folders(folder: Path, request: Request, listing: Listing) -> Source | LabelTables | None:
    """The pictures of a folder by lists that the user named, if these label them; otherwise by tables of labels, which
    lists may divide; otherwise by lists; None if nothing labels them."""
    by_names = names_lists(folder, request.parts)
    if by_names:
        with suppress(UnlabelledError):
            return by_lists(folder, listing, None, request.parts)
    tables = label_tables(folder, listing, request.image_column, request.label_column)
    if tables is not None:
        return divided_tables(tables, listing, request.parts)
    return by_lists(folder, listing, None, request.parts) if by_names or request.parts == UNNAMED else None


def _from_files(folder: Path, source: Source, request: Request, listing: Listing) -> RawData:
    """Read the picture files of a folder, in classes by folders or by lists."""

    def key(content: str) -> list[object]:
        return [source.name, *request.key(content), *source.external_names, *source.places, *source.lists]

    raw = _decode_cached(source.name, source.files, key, lambda: nullcontext(source), request)
    # The notes are those of the current listing: the cache key does not cover ignored files, and an entry of an earlier
    # version lacks the notes that this version adds.
    found, stored = source.summary, raw.summary
    summary = Summary(
        (*found.read, *(note for note in stored.read if note not in found.read)),
        found.left_out,
        (*found.guessed, *(note for note in stored.guessed if note not in found.guessed)),
    )
    return replace(raw, summary=summary + Summary(guessed=other_classes(folder, listing, source)))


def _from_label_tables(tables: LabelTables, request: Request, listing: Listing) -> RawData:
    if request.parts != UNNAMED and not tables.lists:
        raise InputError(
            "--data.train-part and --data.test-part name folders of class folders or lists of pictures, and the "
            f"classes of {text_of(tables.folder)} stand in a table; name lists, or leave them out."
        )

    def key(content: str) -> list[object]:
        return [tables.name, "tables", *map(str, tables.parts), *request.key(content), *tables.lists]

    raw = _decode_cached(tables.name, tables.files(), key, lambda: tables.opened(request.label_column), request)
    # Notes on what the cache key does not cover.
    notes = tables.notes + Summary(guessed=(BY_PICTURE,) * (tables.by_folder and raw.test is None))
    return replace(raw, summary=raw.summary + Summary(left_out=tables.left_out(listing)) + notes)


def _no_parts_error(source: str) -> InputError:
    return InputError(
        f"--data.train-part and --data.test-part name folders of pictures, and {text_of(source)} is no folder of "
        "pictures; leave them out."
    )


def _from_tiny_imagenet(path: Path, request: Request) -> RawData:
    request.check_no_columns(text_of(path))
    name, files = TINY_IMAGENET, tiny_imagenet_files(path)
    return _decode_cached(
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
    return _select_and_resize(raw, request)


def _from_label_table(path: Path, request: Request, listing: Listing) -> RawData:
    tables = label_table(path, listing, request.image_column, request.label_column)
    if tables is None:
        raise InputError(
            f"{text_of(path)} is no table, in UTF-8, with a column that names pictures below {text_of(path.parent)}; "
            "write it with the columns file_name and label, name its columns with --data.image-column and "
            "--data.label-column, or name a folder that holds the table and the pictures."
        )
    return _from_label_tables(divided_tables(tables, listing, request.parts, request.label_column), request, listing)


def _select_and_resize(raw: RawData, request: Request) -> RawData:
    chosen = with_classes(raw, request.choice)
    return alike(chosen.map_pixels(request.sized))


def alike(raw: RawData) -> RawData:
    """The set itself. Raises InputError unless training and test images have the same channels, height and width."""
    if raw.test is not None and raw.train.images.shape[1:] != raw.test.images.shape[1:]:
        shapes = [tuple(part.images.shape[1:]) for part in (raw.train, raw.test)]
        raise InputError(
            f"Training images of {raw.name} are {shapes[0]} and test images {shapes[1]}; give both the same channels "
            f"and size."
        )
    return raw


def _not_found_error(source: str) -> InputError:
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
    return InputError(
        f"There is no data set, folder or file '{source}'.{suggestion(source, NAMES)} Name a folder, an .npz file, a "
        f"hub name 'owner/name', or one of {', '.join(NAMES)}."
    )
