"""What is particular to ImageNet: folders named by WordNet identifiers, words for them, and the ten-class subsets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..runtime.errors import InputError

CLASSES = 1000
SIZE = 128
"""Pixels a side where no other size is asked for, as in MTT (arXiv 2203.11932)."""
SUBSETS: dict[str, tuple[int, ...]] = {
    "nette": (0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "woof": (193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "meow": (281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "squawk": (84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
    "fruit": (953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "yellow": (309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
}
"""Class indices of ILSVRC-2012, which number the WordNet identifiers in their sorted order; a class's label is its
place here."""
NAMES = ("imagenet", *(f"imagenet-{name}" for name in SUBSETS))
WORDS = ("words.txt", "LOC_synset_mapping.txt")
WNID = re.compile(r"n\d{8}")


def subset(source: str) -> tuple[str, ...] | None:
    """The class indices of a ten-class subset such as 'imagenet-nette', as `ClassChoice` takes them; None for all of
    'imagenet'."""
    numbers = SUBSETS.get(source.removeprefix("imagenet-"))
    return None if numbers is None else tuple(map(str, numbers))


def named_by_wnid(classes: Sequence[str]) -> bool:
    """Whether class folders carry WordNet identifiers (n01440764), all of them."""
    return bool(classes) and all(WNID.fullmatch(name) for name in classes)


def words_in(folder: Path) -> str | None:
    """The text of words.txt (or of Kaggle's LOC_synset_mapping.txt) in a folder, if it has one."""
    found = next((folder / name for name in WORDS if (folder / name).is_file()), None)
    return None if found is None else found.read_text(encoding="utf-8", errors="replace")


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
    if len(classes) != CLASSES:
        raise InputError(
            f"{source} numbers classes among the {CLASSES} of ILSVRC-2012, but {folder} holds {len(classes)} class "
            f"folders; give a whole "
            f"copy, or take all classes of this one with --data.source {folder}."
        )


def nowhere(source: str) -> InputError:
    """The error for a subset without ImageNet on this machine."""
    return InputError(
        f"{source} is cut out of a local copy of ILSVRC-2012; let the environment variable ASTDISTILL_DATA name the "
        f"folder that holds "
        "imagenet/train/<wnid>/*.JPEG and imagenet/val/<wnid>/*.JPEG (or its parquet files)."
    )
