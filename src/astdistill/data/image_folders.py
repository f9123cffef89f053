"""Class folders of pictures, among them ImageNet (named by WordNet identifiers, with its ten-class subsets) and Tiny
ImageNet as it was published: tiny-imagenet-200.zip, or the folder that it unpacks to."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ..runtime.errors import InputError
from ..runtime.shapes import Labels
from .dataset import Source, Summary
from .decoding import file_bytes
from .digests import FileSet
from .selection import ClassChoice, kept_labels

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
NAMED = 3
"""Files that a summary names of those that were left out."""


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the class folders in `train/`, or in the folder itself where it has no training part; in
    alphabetical order."""
    return tuple(place.name for place in _subfolders(_subfolder(folder, TRAIN_FOLDERS) or folder))


def from_picture_folder(folder: Path, choice: ClassChoice) -> Source:
    """The pictures in `train/<class>/` and `test|val/<class>/`, or in `<class>/` alone; classes in alphabetical order.

    Only the folders of the chosen classes are looked into. Classes named by WordNet identifiers get words where
    words.txt lies beside `train/`. Raises InputError for a folder without pictures, a class without any, or a test
    class that is not trained on.
    """
    train, folders = _subfolder(folder, TRAIN_FOLDERS), class_folders(folder)
    root, words = train or folder, _wnid_words(folder, folders)
    chosen = {label: folders[label] for label in kept_labels(words or folders, choice)} if folders else {}
    listed = {"train": _files_of(root, chosen)}
    if not any(is_picture(path.name) for _, path in listed["train"]):
        raise InputError(
            f"{folder} holds no pictures in class folders; expected {folder}/train/<class>/*.png, or "
            f"{folder}/<class>/*.png."
        )
    test = train and _test_folder(folder, folders)
    if test is not None:
        listed["test"] = _files_of(test, chosen)
    pictures = {part: [pair for pair in pairs if is_picture(pair[1].name)] for part, pairs in listed.items()}
    others = [path for pairs in listed.values() for _, path in pairs if not is_picture(path.name)]
    return Source(
        folder.resolve().name,
        words or folders,
        {part: _labels_of(pairs) for part, pairs in pictures.items()},
        lambda part, rows: [file_bytes(pictures[part][row][1]) for row in rows],
        lambda part, row: str(pictures[part][row][1]),
        FileSet(sorted(path for pairs in pictures.values() for _, path in pairs), folder),
        _folder_summary(folder, root, test, [path for path in others if path.is_file()]),
        words,
    )


def _files_of(root: Path, chosen: Mapping[int, str]) -> list[tuple[int, Path]]:
    """Everything below the class folders of the chosen labels, with its label: by label, then by path."""
    return [(label, path) for label in sorted(chosen) for path in sorted((root / chosen[label]).rglob("*"))]


def _labels_of(labelled: Sequence[tuple[int, Path | str]]) -> Labels:
    return torch.tensor([label for label, _ in labelled], dtype=torch.int64)


def _folder_summary(folder: Path, root: Path, test: Path | None, others: Sequence[Path]) -> Summary:
    named = {"training": root, "test": test}
    read = [f"{part} part: folder {place.name}" for part, place in named.items() if place is not None]
    unused = [name for name in (*TRAIN_FOLDERS, *TEST_FOLDERS) if (folder / name).is_dir()]
    left_out = [f"folder {name}, which is not read" for name in unused if folder / name not in (root, test)]
    if others:
        left_out.append(f"{len(others)} files that are no pictures ({', '.join(path.name for path in others[:NAMED])})")
    return Summary(tuple(read), tuple(left_out))


def picture_files(folder: Path) -> list[Path]:
    """Every picture below a folder, sorted by path."""
    return sorted(path for path in folder.rglob("*") if is_picture(path.name))


def has_pictures(folder: Path) -> bool:
    """Whether there is any picture below a folder."""
    return any(is_picture(path.name) for path in folder.rglob("*"))


def is_picture(name: str) -> bool:
    """Whether a file name ends as a picture's does; hidden files are none."""
    return name.lower().endswith(PICTURES) and not name.startswith(".")


def _test_folder(folder: Path, classes: Sequence[str]) -> Path | None:
    """The first test part with class folders: ImageNet's own `test/` has none."""
    parts = [folder / name for name in TEST_FOLDERS if (folder / name).is_dir()]
    for part in parts:
        names = [place.name for place in _subfolders(part)]
        foreign = [name for name in names if name not in classes]
        if foreign:
            raise InputError(
                f"{part} holds a class '{foreign[0]}' that the training part does not; rename it or take it out."
            )
        if names:
            return part
    return parts[0] if parts else None


def _subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


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
IMAGENET_NAMES = ("imagenet", *(f"imagenet-{name}" for name in IMAGENET_SUBSETS))
WORDS = ("words.txt", "LOC_synset_mapping.txt")
WNID = re.compile(r"n\d{8}")


def subset_classes(source: str) -> tuple[str, ...] | None:
    """The class indices of a ten-class subset such as 'imagenet-nette', as `ClassChoice` takes them; None for all of
    'imagenet'."""
    numbers = IMAGENET_SUBSETS.get(source.removeprefix("imagenet-"))
    return None if numbers is None else tuple(map(str, numbers))


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
    return path.suffix.lower() == ".zip" if path.is_file() else all((path / mark).is_file() for mark in TINY_MARKS)


def tiny_imagenet_files(path: Path) -> FileSet:
    """The files that decide what is read."""
    if path.is_file():
        return FileSet([path])
    lists = [path / name for name in (*TINY_MARKS, "words.txt") if (path / name).is_file()]
    return FileSet([*lists, *picture_files(path)], path)


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
    except (OSError, zipfile.BadZipFile) as error:
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
        lambda part, rows: [tree.read(pictures[part][row][1]) for row in rows],
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
    known, found = set(tree.names), []
    for file, wnid, *_ in (row for row in rows if len(row) >= 2):
        if wnid not in label:
            raise InputError(
                f"{TINY_MARKS[1]} of {tree.where} names class {wnid}, which wnids.txt does not; take whole files."
            )
        if (name := f"val/images/{file}") not in known:
            raise InputError(f"{tree.where} has no {name}, which {TINY_MARKS[1]} names; unpack the archive again.")
        found.append((label[wnid], name))
    return sorted(found)


def _unzipped(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        return archive.read(name)
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{name} in {path} cannot be read ({error}); download the archive again.") from error
