"""Class folders of pictures, among them ImageNet (named by WordNet identifiers, with its ten-class subsets) and Tiny
ImageNet as it was published: tiny-imagenet-200.zip, or the folder that it unpacks to."""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ..runtime.errors import InputError
from ..runtime.shapes import Labels
from .dataset import Source, Summary
from .decoding import LARGEST_FILE, file_bytes
from .digests import FileSet
from .layouts import UNNAMED, PartNames, folder_layout
from .listing import WNID, Listing, UnlabelledError, Walked, is_picture, some, text_of, unread_labels
from .selection import ClassChoice, kept_labels


def class_folders(folder: Path, listing: Listing) -> tuple[str, ...]:
    """The names of the class folders of the training part, or of the folder itself where it has none; in alphabetical
    order."""
    return folder_layout(folder, listing).classes


def from_picture_folder(folder: Path, choice: ClassChoice, listing: Listing, parts: PartNames = UNNAMED) -> Source:
    """The pictures of a folder that is divided as `folder_layout` says; classes in alphabetical order.

    Only the folders of the chosen classes are read. Classes named by WordNet identifiers get words where words.txt
    lies beside the training part. Raises InputError for a folder without pictures, a class without any, or a test class
    that is not trained on.
    """
    layout = folder_layout(folder, listing, parts)
    folders, beside = layout.classes, sorted(layout.beside)
    words = next((words_there for place in beside if (words_there := _wnid_words(place, folders))), ())
    named = words or _printable(folders)
    chosen = {label: folders[label] for label in kept_labels(named, choice)} if folders else {}
    rest, pictures = _files_beside(beside, listing), dict[str, list[tuple[int, Path]]]()
    for part in ("train", "test"):
        pictures[part] = _labelled(getattr(layout, part) or {}, chosen, listing, rest)
    if not pictures["train"]:
        raise _no_pictures(folder, rest)
    _check_classes(folder, layout.train, chosen, pictures["train"], listing, rest)
    if not pictures["test"] and layout.test is None:
        del pictures["test"]
    said, places = layout.summary, {"train": layout.train, "test": layout.test or {}}
    return Source(
        text_of(folder.resolve().name),
        named,
        {part: _labels_of(pairs) for part, pairs in pictures.items()},
        lambda part, rows: (file_bytes(pictures[part][row][1]) for row in rows),
        lambda part, row: text_of(pictures[part][row][1]),
        FileSet(sorted(path for pairs in pictures.values() for _, path in pairs), folder, LARGEST_FILE),
        said + Summary(left_out=rest.left_out(), guessed=tuple(_derived(pictures, folders))),
        words,
        tuple(
            (part, label, places[part][name].relative_to(folder).as_posix())
            for part in places
            for label, name in sorted(chosen.items())
            if name in places[part]
        ),
    )


def _labelled(
    places: Mapping[str, Path], chosen: Mapping[int, str], listing: Listing, rest: Walked
) -> list[tuple[int, Path]]:
    """The pictures of the chosen labels with their labels: by label, then by path. All else goes to `rest`."""
    labelled = list[tuple[int, Path]]()
    for label, name in sorted(chosen.items()):
        if name in places:
            walked = listing.walk(places[name])
            labelled += [(label, path) for path in walked.pictures]
            rest.add(walked)
    rest.pictures.clear()
    return labelled


def _files_beside(folders: Iterable[Path], listing: Listing) -> Walked:
    """What lies in folders that hold class folders, beside these."""
    rest = Walked()
    for folder in folders:
        rest.add(listing.entries(folder))
    rest.others = [path for path in rest.others if path.name not in WORDS]
    return rest


def _check_classes(
    folder: Path,
    places: Mapping[str, Path],
    chosen: Mapping[int, str],
    pictures: Sequence[tuple[int, Path]],
    listing: Listing,
    rest: Walked,
) -> None:
    """Raise InputError for a single class beside a file of labels, and for a class without pictures, with what lies in
    its folder instead."""
    unread = unread_labels(rest.others)
    if len(places) == 1 and unread:
        (name,) = places
        raise UnlabelledError(f"{text_of(folder)} holds pictures of one class alone, folder {text_of(name)}{unread}.")
    filled = {label for label, _ in pictures}
    for label, name in chosen.items():
        if label not in filled:
            there = " and ".join(listing.walk(places[name]).left_out()) or "no files"
            raise UnlabelledError(
                f"Class '{text_of(name)}' has no training images: {text_of(places[name])} holds {there}; give pictures "
                "that end in .png, .jpg or another known format, or leave the class out with --data.classes."
            )


def _no_pictures(folder: Path, rest: Walked) -> InputError:
    why = " and ".join(rest.left_out())
    return UnlabelledError(
        f"{text_of(folder)} holds no pictures in class folders{why and f', but {why}'}{unread_labels(rest.others)}; "
        "expected "
        f"{text_of(folder)}/train/<class>/*.png, or {text_of(folder)}/<class>/*.png."
    )


DERIVED = re.compile(
    r"(.+?)[-_ .]+(masks?|seg(mentation)?|labels?|gt|annotations?|thumb(nail)?s?|preview|small)([-_ ]?\d+)?",
    re.IGNORECASE,
)
"""What a file is called that is made of a picture: its name, and what it is."""


def _derived(pictures: Mapping[str, Sequence[tuple[int, Path]]], folders: Sequence[str]) -> Iterator[str]:
    """A note on pictures that are called like another of their folder and a word for masks or thumbnails, or like it
    but for the ending. They count as images of their class. Not looked for among the million pictures of ImageNet."""
    if named_by_wnid(folders):
        return
    stems = Counter((path.parent, path.stem) for pairs in pictures.values() for _, path in pairs)
    made = [
        path
        for pairs in pictures.values()
        for _, path in pairs
        if (match := DERIVED.fullmatch(path.stem)) and (path.parent, match[1]) in stems
    ]
    twice = [f"{name}.*" for (_, name), count in stems.items() if count > 1]
    kinds = {"another and a word such as mask or thumb": list(map(str, made)), "another but for the ending": twice}
    for kind, names in kinds.items():
        if names:
            yield (
                f"{len(names)} pictures as images of their class, though they are called like {kind} "
                f"({some(map(Path, names))}): take them out where they are masks or copies"
            )


def _printable(folders: Sequence[str]) -> tuple[str, ...]:
    """The class names as text. Raises InputError where two become the same."""
    printed = tuple(map(text_of, folders))
    twice = [name for name in printed if printed.count(name) > 1]
    if twice:
        raise InputError(f"Two class folders are both called {twice[0]} when written as text; rename one of them.")
    return printed


def _labels_of(labelled: Sequence[tuple[int, Path | str]]) -> Labels:
    return torch.tensor([label for label, _ in labelled], dtype=torch.int64)


IMAGENET_CLASSES = 1000
IMAGENET_SIZE = 128
"""Pixels a side where no other size is asked for, as in MTT (arXiv 2203.11932)."""
IMAGENET_SUBSETS: dict[str, tuple[int, ...]] = {
    "nette": (0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "woof": (193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "meow": (281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "squawk": (84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
    "fruit": (953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "yellow": (309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
}
"""Class indices of ILSVRC-2012, which number the WordNet identifiers in their sorted order; a class's label is its
place here."""
IMAGENET_CLASSES = 1000
IMAGENET_NAMES = ("imagenet", *(f"imagenet-{name}" for name in IMAGENET_SUBSETS))
WORDS = ("words.txt", "LOC_synset_mapping.txt")


def subset_classes(source: str) -> tuple[str, ...] | None:
    """The class indices of a ten-class subset such as 'imagenet-nette', as `ClassChoice` takes them; None for all of
    'imagenet'."""
    numbers = IMAGENET_SUBSETS.get(source.removeprefix("imagenet-"))
    return None if numbers is None else tuple(map(str, numbers))


def is_imagenet(folder: Path) -> bool:
    """Whether a folder has the thousand class folders of ILSVRC-2012, called by WordNet identifiers, in itself or in
    `train`."""
    places = [place for place in (folder, folder / "train") if place.is_dir()]
    return any(sum(bool(WNID.fullmatch(each.name)) for each in place.iterdir()) == IMAGENET_CLASSES for place in places)


def named_by_wnid(classes: Sequence[str]) -> bool:
    """Whether class folders carry WordNet identifiers (n01440764), all of them."""
    return bool(classes) and all(WNID.fullmatch(name) for name in classes)


def _wnid_words(folder: Path, wnids: tuple[str, ...]) -> tuple[str, ...]:
    """Names for class folders called by WordNet identifiers, from words.txt (or Kaggle's LOC_synset_mapping.txt) in
    `folder`; nothing where there is none, or where they are called otherwise."""
    listed = [folder / name for name in WORDS if (folder / name).is_file()]
    if not listed or not named_by_wnid(wnids):
        return ()
    return words_of(wnids, listed[0].read_text(encoding="utf-8", errors="replace"))


def words_of(wnids: Sequence[str], text: str) -> tuple[str, ...]:
    """A name for every WordNet identifier, from lines 'n02119789 kit fox, Vulpes macrotis'.

    The first synonym where no other of these classes has it (two of ImageNet's are cranes), else all synonyms, else the
    identifier.
    """
    lines = (line.strip().split(maxsplit=1) for line in text.splitlines())
    whole = {parts[0]: parts[1] for parts in lines if len(parts) == 2}
    names = [(whole.get(wnid, wnid).split(",")[0].strip(), whole.get(wnid, wnid), wnid) for wnid in wnids]
    taken = [[row[column] for row in names] for column in range(3)]
    return tuple(
        next(name for name, column in zip(row, taken, strict=True) if name and column.count(name) == 1) for row in names
    )


def check_all_classes(folder: Path, classes: Sequence[str], source: str) -> None:
    """Raise InputError unless class folders can be told by their index among all 1000 of ILSVRC-2012."""
    if len(classes) != IMAGENET_CLASSES:
        raise InputError(
            f"{source} numbers classes among the {IMAGENET_CLASSES} of ILSVRC-2012, but {folder} holds {len(classes)} "
            f"class folders; give a whole copy, or take all classes of this one with --data.source {folder}."
        )


def no_imagenet(source: str) -> InputError:
    """The error for a subset without ImageNet on this machine."""
    return InputError(
        f"{source} is cut out of a local copy of ILSVRC-2012; let the environment variable ASTDISTILL_DATA name the "
        "folder that holds imagenet/train/<wnid>/*.JPEG and imagenet/val/<wnid>/*.JPEG (or its parquet files)."
    )


TINY_IMAGENET = "tiny_imagenet"
TINY_MARKS = ("wnids.txt", "val/val_annotations.txt")
"""Files that no other layout has."""


@dataclass(frozen=True)
class Tree:
    """Files of a folder or an archive by their paths below the root ('train/n01443537/images/n01443537_0.JPEG')."""

    where: str
    names: tuple[str, ...]
    read: Callable[[str], bytes]

    def text(self, name: str) -> str:
        return self.read(name).decode("utf-8", errors="replace")


def is_tiny_imagenet(path: Path) -> bool:
    """Whether a folder has this layout, or a file is a zip archive, which is read as no other."""
    return (
        path.suffix.lower() == ".zip"
        if os.path.isfile(path)
        else all(os.path.isfile(path / mark) for mark in TINY_MARKS)
    )


def tiny_imagenet_files(path: Path) -> FileSet:
    """The files that decide what is read."""
    if path.is_file():
        return FileSet([path])
    lists = [path / name for name in (*TINY_MARKS, "words.txt") if (path / name).is_file()]
    return FileSet([*lists, *Listing().walk(path).pictures], path)


@contextmanager
def tiny_imagenet(path: Path, files: FileSet) -> Iterator[Source]:
    """The pictures in `train/<wnid>/images/`, and those in `val/images/` that val_annotations.txt labels, for as long
    as the block lasts.

    Classes are those of wnids.txt in sorted order, as on the hub, named by words.txt. The pictures in `test/` have no
    labels and are left out. Raises InputError for an archive of something else and for a validation picture that is
    absent.
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
        inside = archive.namelist()
        mark = next((name for name in inside if name.rpartition("/")[2] == TINY_MARKS[0]), None)
        root = "" if mark is None else mark.removesuffix(TINY_MARKS[0])
        names = tuple(sorted(name.removeprefix(root) for name in inside if name.startswith(root)))
        if not set(TINY_MARKS) <= set(names):
            raise InputError(
                f"{path} holds no {' and '.join(TINY_MARKS)}, so it is not Tiny ImageNet; unpack it and give the "
                "folder."
            )
        yield _tree_source(Tree(str(path), names, lambda name: _unzipped(archive, root + name, path)), files)


def _tree_source(tree: Tree, files: FileSet) -> Source:
    wnids = sorted(set(tree.text("wnids.txt").split()))
    classes = words_of(wnids, tree.text("words.txt") if "words.txt" in tree.names else "")
    label = {wnid: number for number, wnid in enumerate(wnids)}
    train = sorted((label[wnid], name) for name in tree.names if (wnid := _wnid_of(name)) in label)
    pictures = {"train": train, "test": _annotated(tree, label)}
    without = sum(name.startswith("test/") and is_picture(name.rpartition("/")[2]) for name in tree.names)
    return Source(
        TINY_IMAGENET,
        classes,
        {part: _labels_of(pairs) for part, pairs in pictures.items()},
        lambda part, rows: (tree.read(pictures[part][row][1]) for row in rows),
        lambda part, row: f"{tree.where}, {pictures[part][row][1]}",
        files,
        Summary(
            ("training part: folder train", "test part: folder val, labelled by val_annotations.txt"),
            (f"{without} pictures of folder test, which have no labels",) * bool(without),
        ),
    )


def _wnid_of(name: str) -> str:
    """The identifier in 'train/<wnid>/…' of a picture; nothing for any other file."""
    parts = name.split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "train" and is_picture(parts[-1]) else ""


def _annotated(tree: Tree, label: dict[str, int]) -> list[tuple[int, str]]:
    """Label and path of every annotated picture whose class is among `label`, by class and name."""
    rows = [line.split() for line in tree.text(TINY_MARKS[1]).splitlines() if line.strip()]
    known, annotated = set(tree.names), []
    for file, wnid, *_ in (row for row in rows if len(row) >= 2):
        if wnid not in label:
            raise InputError(
                f"{TINY_MARKS[1]} of {tree.where} names class {wnid}, which wnids.txt does not; take whole files."
            )
        if (name := f"val/images/{file}") not in known:
            raise InputError(f"{tree.where} has no {name}, which {TINY_MARKS[1]} names; unpack the archive again.")
        annotated.append((label[wnid], name))
    return sorted(annotated)


def _unzipped(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    if archive.getinfo(name).file_size > LARGEST_FILE:
        raise InputError(f"{name} in {path} is larger than {LARGEST_FILE >> 20} MiB; take it out of the archive.")
    try:
        return archive.read(name)
    except Exception as error:  # zipfile, zlib, bz2 and lzma raise a dozen unrelated types
        raise InputError(f"{name} in {path} cannot be read ({error}); download the archive again.") from error
