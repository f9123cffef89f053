"""Tiny ImageNet as it was published: tiny-imagenet-200.zip, or the folder that it unpacks to."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ..runtime.errors import InputError
from .decoding import Encoded, EncodedPart, file_bytes
from .image_folders import is_picture, picture_files
from .imagenet import words_of

NAME = "tiny_imagenet"
MARKS = ("wnids.txt", "val/val_annotations.txt")
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
    return path.suffix.lower() == ".zip" if path.is_file() else all((path / mark).is_file() for mark in MARKS)


def content_files(path: Path) -> list[Path]:
    """The files that decide what is read."""
    if path.is_file():
        return [path]
    return [*(path / name for name in (*MARKS, "words.txt") if (path / name).is_file()), *picture_files(path)]


@contextmanager
def tiny_imagenet(path: Path) -> Iterator[Encoded]:
    """The pictures in `train/<wnid>/images/`, and those in `val/images/` that val_annotations.txt labels, for as long
    as the block lasts.

    Classes are those of wnids.txt in sorted order, as on the hub, named by words.txt. The pictures in `test/` have no
    labels and are left out. Raises InputError for an archive of something else and for a validation picture that is
    absent.
    """
    if path.is_dir():
        names = tuple(file.relative_to(path).as_posix() for file in content_files(path))
        yield _encoded(Tree(str(path), names, lambda name: file_bytes(path / name)))
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} cannot be read as a zip archive ({error}); download it again, or give the unpacked folder."
        ) from error
    with archive:
        inside = archive.namelist()
        mark = next((name for name in inside if name.rpartition("/")[2] == MARKS[0]), None)
        root = "" if mark is None else mark.removesuffix(MARKS[0])
        names = tuple(sorted(name.removeprefix(root) for name in inside if name.startswith(root)))
        if not set(MARKS) <= set(names):
            raise InputError(
                f"{path} holds no {' and '.join(MARKS)}, so it is not Tiny ImageNet; unpack it and give the folder."
            )
        yield _encoded(Tree(str(path), names, lambda name: _unzipped(archive, root + name, path)))


def _encoded(tree: Tree) -> Encoded:
    wnids = sorted(set(tree.text("wnids.txt").split()))
    classes = words_of(wnids, tree.text("words.txt") if "words.txt" in tree.names else "")
    label = {wnid: number for number, wnid in enumerate(wnids)}
    train = sorted((label[wnid], name) for name in tree.names if (wnid := _class_of(name)) in label)
    return Encoded(NAME, classes, _part(tree, train), _part(tree, _validation(tree, label)))


def _class_of(name: str) -> str:
    """The identifier in 'train/<wnid>/…' of a picture; nothing for any other file."""
    parts = name.split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "train" and is_picture(parts[-1]) else ""


def _validation(tree: Tree, label: dict[str, int]) -> list[tuple[int, str]]:
    """Label and path of every annotated picture whose class is among `label`, by class and name."""
    rows = [line.split() for line in tree.text(MARKS[1]).splitlines() if line.strip()]
    known, found = set(tree.names), []
    for file, wnid, *_ in (row for row in rows if len(row) >= 2):
        if wnid not in label:
            raise InputError(
                f"{MARKS[1]} of {tree.where} names class {wnid}, which wnids.txt does not; take whole files."
            )
        if (name := f"val/images/{file}") not in known:
            raise InputError(f"{tree.where} has no {name}, which {MARKS[1]} names; unpack the archive again.")
        found.append((label[wnid], name))
    return sorted(found)


def _part(tree: Tree, labelled: Sequence[tuple[int, str]]) -> EncodedPart:
    labels = torch.tensor([number for number, _ in labelled], dtype=torch.int64)

    def fetch(rows: Sequence[int]) -> list[bytes]:
        return [tree.read(labelled[row][1]) for row in rows]

    return EncodedPart(labels, fetch, lambda row: f"{tree.where}, {labelled[row][1]}")


def _unzipped(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        return archive.read(name)
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{name} in {path} cannot be read ({error}); download the archive again.") from error
