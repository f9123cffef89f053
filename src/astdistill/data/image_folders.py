"""Image folders with one subfolder per class, including ImageNet (folders named by WordNet identifiers, with its
ten-class subsets) and Tiny ImageNet as published: tiny-imagenet-200.zip or the folder that it unpacks to."""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..runtime.errors import InputError
from ..runtime.shapes import Labels
from .dataset import Source, Summary
from .decoding import LARGEST_FILE, file_bytes
from .digests import FileSet
from .layouts import UNNAMED, PartNames, folder_layout
from .listing import WNID, Listing, UnlabelledError, Walked, is_picture, some, text_of, unread_labels
from .selection import ClassChoice, chosen_labels


def class_folders(folder: Path, listing: Listing) -> tuple[str, ...]:
    """The names of the class folders in the training part, or in the folder itself if there is no training part;
    sorted alphabetically."""
    return folder_layout(folder, listing).classes


def from_picture_folder(folder: Path, choice: ClassChoice, listing: Listing, parts: PartNames = UNNAMED) -> Source:
    """The pictures of a folder with the layout found by `folder_layout`; classes in alphabetical order.

    Only the folders of the chosen classes are read. Classes named by WordNet identifiers get readable names if
    words.txt is in the folder that contains the training part. Raises InputError for a folder without pictures, a class
    without pictures, or a test class that the training part does not have.
    """
    layout = folder_layout(folder, listing, parts)
    folders, parents = layout.classes, sorted(layout.parents)
    wnid_names = next((found for parent in parents if (found := _read_wnid_names(parent, folders))), ())
    class_names = wnid_names or _printable_names(folders)
    chosen = {label: folders[label] for label in chosen_labels(class_names, choice)} if folders else {}
    skipped, pictures = _files_outside_classes(parents, listing), dict[str, list[tuple[int, Path]]]()
    for part in ("train", "test"):
        pictures[part] = _labelled_pictures(getattr(layout, part) or {}, chosen, listing, skipped)
    if not pictures["train"]:
        raise _no_pictures(folder, skipped)
    _check_classes(folder, layout.train, chosen, pictures["train"], listing, skipped)
    if not pictures["test"] and layout.test is None:
        del pictures["test"]
    part_folders = {"train": layout.train, "test": layout.test or {}}
    summary = Summary(left_out=skipped.left_out(), guessed=tuple(_notes_on_copies(pictures, folders)))
    source = source_of_files(folder, class_names, pictures, layout.summary + summary)
    places = (
        (part, label, part_folders[part][name].relative_to(folder).as_posix())
        for part in part_folders
        for label, name in sorted(chosen.items())
        if name in part_folders[part]
    )
    return replace(source, external_names=wnid_names, places=tuple(places))


def source_of_files(
    folder: Path,
    classes: tuple[str, ...],
    pictures: Mapping[str, Sequence[tuple[int, Path]]],
    summary: Summary,
    lists: Iterable[Path] = (),
) -> Source:
    """The picture files of each part, given as pairs (label, path); `lists` are further files that determine what is
    read."""
    files = [path for pairs in pictures.values() for _, path in pairs]
    return Source(
        text_of(folder.resolve().name),
        classes,
        {part: _labels_of(pairs) for part, pairs in pictures.items()},
        lambda part, rows: (file_bytes(pictures[part][row][1]) for row in rows),
        lambda part, row: text_of(pictures[part][row][1]),
        FileSet(sorted([*files, *lists]), folder, LARGEST_FILE),
        summary,
    )


def _labelled_pictures(
    folders: Mapping[str, Path], chosen: Mapping[int, str], listing: Listing, skipped: Walked
) -> list[tuple[int, Path]]:
    """Pairs (label, path) of the chosen classes, sorted by label, then by path. Files that are not used are added to
    `skipped`."""
    labelled = list[tuple[int, Path]]()
    for label, name in sorted(chosen.items()):
        if name in folders:
            contents = listing.walk(folders[name])
            labelled += [(label, path) for path in contents.pictures]
            skipped.add(contents)
    skipped.pictures.clear()
    return labelled


def _files_outside_classes(folders: Iterable[Path], listing: Listing) -> Walked:
    """The files in the folders that contain the class folders, without the contents of the class folders."""
    skipped = Walked()
    for folder in folders:
        skipped.add(listing.entries(folder))
    skipped.others = [path for path in skipped.others if path.name not in WORDS]
    return skipped


def _check_classes(
    folder: Path,
    folders: Mapping[str, Path],
    chosen: Mapping[int, str],
    pictures: Sequence[tuple[int, Path]],
    listing: Listing,
    skipped: Walked,
) -> None:
    """Raise InputError for a single class with an unread file of labels, and for a class without pictures; the message
    lists what its folder contains instead."""
    hint = unread_labels(skipped.others)
    if len(folders) == 1 and hint:
        (name,) = folders
        raise UnlabelledError(f"{text_of(folder)} holds pictures of one class alone, folder {text_of(name)}{hint}.")
    filled = {label for label, _ in pictures}
    for label, name in chosen.items():
        if label not in filled:
            contents = " and ".join(listing.walk(folders[name]).left_out()) or "no files"
            raise UnlabelledError(
                f"Class '{text_of(name)}' has no training images: {text_of(folders[name])} holds {contents}; give "
                "pictures that end in .png, .jpg or another known format, or leave the class out with --data.classes."
            )


def _no_pictures(folder: Path, skipped: Walked) -> InputError:
    reason = " and ".join(skipped.left_out())
    return UnlabelledError(
        f"{text_of(folder)} holds no pictures in class folders{reason and f', but {reason}'}"
        f"{unread_labels(skipped.others)}; expected "
        f"{text_of(folder)}/train/<class>/*.png, or {text_of(folder)}/<class>/*.png."
    )


DERIVED_WORD = r"(?:masks?|seg(?:mentation)?|labels?|gt|annotations?|thumb(?:nail)?s?|preview|small)"
DERIVED = re.compile(rf"(.+?)[-_ .]+{DERIVED_WORD}(?:[-_ ]?\d+)?|{DERIVED_WORD}[-_ .]+(.+)", re.IGNORECASE)
"""Names of files derived from a picture: its name after or before a word such as mask or thumbnail."""
COPY = re.compile(r"(.+?)(?: ?- ?copy)?(?: ?\(\d+\))?", re.IGNORECASE)
"""Names that systems give to copies: `000 - Copy`, `000 (1)`."""


def _notes_on_copies(pictures: Mapping[str, Sequence[tuple[int, Path]]], folders: Sequence[str]) -> Iterator[str]:
    """Notes on pictures whose name is that of another picture in the folder plus a word for masks or thumbnails, or
    differs from it in the ending only. They count as images of their class. Skipped for the million pictures of
    ImageNet."""
    if named_by_wnid(folders):
        return
    stems = Counter((path.parent, path.stem) for pairs in pictures.values() for _, path in pairs)
    paths = [path for pairs in pictures.values() for _, path in pairs]
    derived = [path for path in paths if any((path.parent, name) in stems for name in _originals(DERIVED, path))]
    copies = [path for path in paths if any((path.parent, name) in stems for name in _originals(COPY, path))]
    duplicates = [f"{name}.*" for (_, name), count in stems.items() if count > 1]
    kinds = {
        "another and a word such as mask or thumb": list(map(str, derived)),
        "another and a word or number of copies": list(map(str, copies)),
        "another but for the ending": duplicates,
    }
    for kind, names in kinds.items():
        if names:
            yield (
                f"{len(names)} pictures as images of their class, though their names are like {kind} "
                f"({some(map(Path, names))}): take them out where they are masks or copies"
            )


def _originals(pattern: re.Pattern[str], path: Path) -> list[str]:
    """The name of the picture from which the name of a file is derived, by a pattern; none if it is not."""
    match = pattern.fullmatch(path.stem)
    return [name for name in (match.groups() if match else ()) if name and name != path.stem]


def _printable_names(folders: Sequence[str]) -> tuple[str, ...]:
    """The class names as printable text. Raises InputError if two names become equal."""
    printed = tuple(map(text_of, folders))
    duplicates = [name for name in printed if printed.count(name) > 1]
    if duplicates:
        raise InputError(f"Two class folders are both called {duplicates[0]} when written as text; rename one of them.")
    return printed


def _labels_of(labelled: Sequence[tuple[int, Path | str]]) -> Labels:
    return torch.tensor([label for label, _ in labelled], dtype=torch.int64)


IMAGENET_CLASSES = 1000
IMAGENET_SIZE = 128
"""Default height and width in pixels, as in MTT (arXiv 2203.11932)."""
IMAGENET_SUBSETS: dict[str, tuple[int, ...]] = {
    "nette": (0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "woof": (193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "meow": (281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "squawk": (84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
    "fruit": (953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "yellow": (309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
}
"""Class indices of ILSVRC-2012, which are positions in the sorted list of WordNet identifiers. The label of a class is
its position in the tuple."""
IMAGENET_NAMES = ("imagenet", *(f"imagenet-{name}" for name in IMAGENET_SUBSETS))
WORDS = ("words.txt", "LOC_synset_mapping.txt")


def subset_classes(source: str) -> tuple[str, ...] | None:
    """The class indices of a ten-class subset such as 'imagenet-nette', as `ClassChoice` takes them; None for all of
    'imagenet'."""
    numbers = IMAGENET_SUBSETS.get(source.removeprefix("imagenet-"))
    return None if numbers is None else tuple(map(str, numbers))


def is_imagenet(folder: Path) -> bool:
    """Whether a folder or its subfolder `train` contains the 1000 class folders of ILSVRC-2012, named by WordNet
    identifiers."""
    candidates = [candidate for candidate in (folder, folder / "train") if candidate.is_dir()]
    return any(
        sum(bool(WNID.fullmatch(subfolder.name)) for subfolder in candidate.iterdir()) == IMAGENET_CLASSES
        for candidate in candidates
    )


def named_by_wnid(classes: Sequence[str]) -> bool:
    """Whether all class folders are named by WordNet identifiers (n01440764)."""
    return bool(classes) and all(WNID.fullmatch(name) for name in classes)


def _read_wnid_names(folder: Path, wnids: tuple[str, ...]) -> tuple[str, ...]:
    """Names for class folders named by WordNet identifiers, from words.txt (or Kaggle's LOC_synset_mapping.txt) in
    `folder`; empty if there is no such file, or if a class folder has another kind of name."""
    files = [folder / name for name in WORDS if (folder / name).is_file()]
    if not files or not named_by_wnid(wnids):
        return ()
    return synset_names(wnids, files[0].read_text(encoding="utf-8", errors="replace"))


def synset_names(wnids: Sequence[str], text: str) -> tuple[str, ...]:
    """A name for every WordNet identifier, from lines 'n02119789 kit fox, Vulpes macrotis'.

    The name is the first synonym if it is unique among these classes (ImageNet has two classes 'crane'), else all
    synonyms, else the identifier.
    """
    lines = (line.strip().split(maxsplit=1) for line in text.splitlines())
    descriptions = {parts[0]: parts[1] for parts in lines if len(parts) == 2}
    names = [(descriptions.get(wnid, wnid).split(",")[0].strip(), descriptions.get(wnid, wnid), wnid) for wnid in wnids]
    columns = [[row[column] for row in names] for column in range(3)]
    return tuple(
        next(name for name, column in zip(row, columns, strict=True) if name and column.count(name) == 1)
        for row in names
    )


def check_all_classes(folder: Path, classes: Sequence[str], source: str) -> None:
    """Raise InputError unless all 1000 classes of ILSVRC-2012 are present, as class indices require."""
    if len(classes) != IMAGENET_CLASSES:
        raise InputError(
            f"{source} numbers classes among the {IMAGENET_CLASSES} of ILSVRC-2012, but {folder} holds {len(classes)} "
            f"class folders; give a whole copy, or take all classes of this one with --data.source {folder}."
        )


def no_imagenet(source: str) -> InputError:
    """The error for an ImageNet subset when no copy of ImageNet is on this machine."""
    return InputError(
        f"{source} is cut out of a local copy of ILSVRC-2012; let the environment variable ASTDISTILL_DATA name the "
        "folder that holds imagenet/train/<wnid>/*.JPEG and imagenet/val/<wnid>/*.JPEG (or its parquet files)."
    )


TINY_IMAGENET = "tiny_imagenet"
TINY_MARKS = ("wnids.txt", "val/val_annotations.txt")
"""Files that identify the layout of Tiny ImageNet."""


@dataclass(frozen=True)
class Tree:
    """Files of a folder or an archive, by path relative to the root ('train/n01443537/images/n01443537_0.JPEG')."""

    source: str
    names: tuple[str, ...]
    read: Callable[[str], bytes]

    def text(self, name: str) -> str:
        return self.read(name).decode("utf-8", errors="replace")


def is_tiny_imagenet(path: Path) -> bool:
    """Whether a folder has the layout of Tiny ImageNet, or a file is a zip archive; no other format uses zip
    archives."""
    return (
        path.suffix.lower() == ".zip"
        if os.path.isfile(path)
        else all(os.path.isfile(path / mark) for mark in TINY_MARKS)
    )


def tiny_imagenet_files(path: Path) -> FileSet:
    """The files that determine the content of the data set."""
    if path.is_file():
        return FileSet([path])
    lists = [path / name for name in (*TINY_MARKS, "words.txt") if (path / name).is_file()]
    return FileSet([*lists, *Listing().walk(path).pictures], path)


@contextmanager
def tiny_imagenet(path: Path, files: FileSet) -> Iterator[Source]:
    """Context manager that yields the pictures in `train/<wnid>/images/`, and those in `val/images/` that
    val_annotations.txt labels. An archive stays open inside the block.

    Classes are those of wnids.txt in sorted order, as on the Hugging Face hub, with names from words.txt. The pictures
    in `test/` have no labels and are left out. Raises InputError for an archive of other data and for a missing
    validation picture.
    """
    if path.is_dir():
        names = tuple(file.relative_to(path).as_posix() for file in files.files)
        yield _tree_source(Tree(str(path), names, lambda name: file_bytes(path / name)), files)
        return
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # as in _unzipped
        raise InputError(
            f"{path} cannot be read as a zip archive ({error}); download it again, or give the unpacked folder."
        ) from error
    with archive:
        members = archive.namelist()
        marker = next((name for name in members if name.rpartition("/")[2] == TINY_MARKS[0]), None)
        root = "" if marker is None else marker.removesuffix(TINY_MARKS[0])
        names = tuple(sorted(name.removeprefix(root) for name in members if name.startswith(root)))
        if not set(TINY_MARKS) <= set(names):
            raise InputError(
                f"{path} holds no {' and '.join(TINY_MARKS)}, so it is not Tiny ImageNet; unpack it and give the "
                "folder."
            )
        yield _tree_source(Tree(str(path), names, lambda name: _unzipped(archive, root + name, path)), files)


def _tree_source(tree: Tree, files: FileSet) -> Source:
    wnids = sorted(set(tree.text("wnids.txt").split()))
    classes = synset_names(wnids, tree.text("words.txt") if "words.txt" in tree.names else "")
    label_of_wnid = {wnid: number for number, wnid in enumerate(wnids)}
    train = sorted((label_of_wnid[wnid], name) for name in tree.names if (wnid := _wnid_of(name)) in label_of_wnid)
    pictures = {"train": train, "test": _annotated_pictures(tree, label_of_wnid)}
    unlabelled = sum(name.startswith("test/") and is_picture(name.rpartition("/")[2]) for name in tree.names)
    return Source(
        TINY_IMAGENET,
        classes,
        {part: _labels_of(pairs) for part, pairs in pictures.items()},
        lambda part, rows: (tree.read(pictures[part][row][1]) for row in rows),
        lambda part, row: f"{tree.source}, {pictures[part][row][1]}",
        files,
        Summary(
            ("training part: folder train", "test part: folder val, labelled by val_annotations.txt"),
            (f"{unlabelled} pictures of folder test, which have no labels",) * bool(unlabelled),
        ),
    )


def _wnid_of(name: str) -> str:
    """The identifier in the path 'train/<wnid>/…' of a picture; '' for any other file."""
    parts = name.split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "train" and is_picture(parts[-1]) else ""


def _annotated_pictures(tree: Tree, label_of_wnid: dict[str, int]) -> list[tuple[int, str]]:
    """Pairs (label, path) of all annotated pictures, sorted. Raises InputError for an unknown class and for a missing
    picture."""
    rows = [line.split() for line in tree.text(TINY_MARKS[1]).splitlines() if line.strip()]
    existing, annotated = set(tree.names), []
    for file, wnid, *_ in (row for row in rows if len(row) >= 2):
        if wnid not in label_of_wnid:
            raise InputError(
                f"{TINY_MARKS[1]} of {tree.source} names class {wnid}, which wnids.txt does not; take whole files."
            )
        if (name := f"val/images/{file}") not in existing:
            raise InputError(f"{tree.source} has no {name}, which {TINY_MARKS[1]} names; unpack the archive again.")
        annotated.append((label_of_wnid[wnid], name))
    return sorted(annotated)


def _unzipped(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    if archive.getinfo(name).file_size > LARGEST_FILE:
        raise InputError(f"{name} in {path} is larger than {LARGEST_FILE >> 20} MiB; take it out of the archive.")
    try:
        return archive.read(name)
    except Exception as error:  # zipfile, zlib, bz2 and lzma raise a dozen unrelated types
        raise InputError(f"{name} in {path} cannot be read ({error}); download the archive again.") from error
