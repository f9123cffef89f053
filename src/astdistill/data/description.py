"""Description of a data set, as text and as JSON: classes with their counts, the origin of the test part, what was
resized, left out and guessed, and warnings."""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

import torch
from rich.cells import cell_len, set_cell_size

from ..runtime.config import Record
from .dataset import Dataset, Split
from .listing import PICTURED
from .splits import WORDS, split_of
from .storage import ByteImages

COLUMNS = 80
WHOLE = 30
"""Most classes that a description lists completely."""
FIRST, LAST = 8, 2
"""Classes at the start and at the end of a shortened list."""
NAME_COLUMNS = 40
NAMED = 3
"""Most classes that a warning names."""
FEW_TEST, FEW_TRAIN = 20, 5
HALF = 0.5
LOOKED_AT = 256
"""Training images that are checked for a single colour."""
COMPARED = 1 << 28
"""Most values of images in memory for which test images are searched among the training images."""
GLANCED_AT = 64
"""Values of an image that are compared first."""
TEST_PART = "test part"
"""Prefix of the summary note that gives the origin of the test images."""
OWN_TEST = "the source's own"
MASK_FOLDERS = frozenset(
    ("mask", "masks", "annotation", "annotations", "label", "labels", "gt", "groundtruth", "segmentation", "target")
)
"""Folders of segmentation data sets: the images, and masks drawn over them."""
COPY_FOLDERS = frozenset(("thumbnail", "thumbnails", "thumb", "thumbs", "resized", "preview", "previews", "small"))
"""Folders of the same images in another size."""
FOLD = re.compile(r"(cv|fold|split|part|batch|shard)[\W_]*\d+", re.IGNORECASE)


class ClassCounts(Record):
    """How many images of one class there are in each part."""

    name: str
    train: int
    validation: int
    test: int


class Description(Record):
    """Description of a data set, as text of 80 columns and as JSON (`to_json`). Names are escaped so that every
    terminal and file can hold them."""

    source: str
    """As it was named."""
    name: str
    shape: tuple[int, int, int]
    """Channels, height and width of every image."""
    classes: tuple[ClassCounts, ...]
    """In the order of their labels."""
    test_part: str
    """Where the test images come from."""
    read: tuple[str, ...] = ()
    """What was read and made of it, resizing included."""
    left_out: tuple[str, ...] = ()
    """What was not read, and why."""
    guessed: tuple[str, ...] = ()
    """What could have been read otherwise, and the flag that decides it."""
    warnings: tuple[str, ...] = ()
    """What is odd."""

    @staticmethod
    def of(dataset: Dataset, ipc: int = 1) -> Description:
        """Describe a data set from which `ipc` synthetic images per class are to be made."""
        read = [note for note in dataset.summary.read if not note.startswith(TEST_PART)]
        test_notes = [
            note[len(TEST_PART) :].lstrip(": ") for note in dataset.summary.read if note.startswith(TEST_PART)
        ]
        counts = _counts(dataset)
        return Description(
            source=printable(dataset.config.source),
            name=printable(dataset.name),
            shape=dataset.shape,
            classes=counts,
            test_part=printable("; ".join(test_notes) or OWN_TEST),
            read=tuple(map(printable, read)),
            left_out=tuple(map(printable, dataset.summary.left_out)),
            guessed=tuple(map(printable, dataset.summary.guessed)),
            warnings=tuple(
                [*_warnings_on_counts(counts, ipc), *_warnings_on_names(counts), *_warnings_on_images(dataset)]
            ),
        )

    @property
    def parts(self) -> dict[str, int]:
        """Images by part; the validation part only if there is one."""
        sums = {name: sum(getattr(each, field) for each in self.classes) for name, field in FIELDS.items()}
        return {name: count for name, count in sums.items() if count or name != "validation"}

    @property
    def line(self) -> str:
        """One line: the name, the images of each part, the classes and the shape."""
        images = ", ".join(f"{count:,} {name}" for name, count in self.parts.items())
        return f"{self.name}: {images} images of {len(self.classes)} classes, {shape_text(self.shape)}"

    def text(self) -> str:
        """The description in lines of at most 80 columns."""
        images = ", ".join(f"{count:,} {name}" for name, count in self.parts.items())
        lines = [_cut(f"Data: {self.source}", COLUMNS)]
        lines += item("images", f"{images}; {shape_text(self.shape)}")
        lines += item("test part", self.test_part)
        for head, notes in {"read": self.read, "left out": self.left_out, "guessed": self.guessed}.items():
            lines += [line for note in notes for line in item(head, note)]
        lines += item("classes", self._sizes())
        lines += self._table()
        lines += [line for warning in self.warnings for line in item("warning", warning)]
        return "\n".join(lines)

    def _sizes(self) -> str:
        least, most = (choose(self.classes, key=lambda each: each.train) for choose in (min, max))
        if least.train == most.train:
            return f"{len(self.classes)}, each with {least.train:,} training images"
        return (
            f"{len(self.classes)}, with {least.train:,} ({_cut(least.name, NAME_COLUMNS)}) to {most.train:,} "
            f"({_cut(most.name, NAME_COLUMNS)}) training images"
        )

    def rows(self) -> list[tuple[str, ...]]:
        """The classes with their counts, after a header row: all of them, or the first and the last of a long list."""
        heads = list(self.parts)
        rows = [(each.name, *(f"{getattr(each, FIELDS[head]):,}" for head in heads)) for each in self.classes]
        if len(rows) > WHOLE:
            ellipsis = f"… {len(rows) - FIRST - LAST} more"
            rows = [*rows[:FIRST], (ellipsis, *([""] * len(heads))), *rows[-LAST:]]
        return [("class", *heads), *rows]

    def _table(self) -> list[str]:
        rows = [(_cut(name, NAME_COLUMNS), *counts) for name, *counts in self.rows()]
        widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
        return [
            f"{INDENT}{set_cell_size(row[0], widths[0])}"
            + "".join(f"  {count:>{width}}" for count, width in zip(row[1:], widths[1:], strict=True))
            for row in rows
        ]


FIELDS = {"training": "train", "validation": "validation", "test": "test"}
"""Display names of the parts, with their fields of `ClassCounts`."""
INDENT = " " * 13


def printable(text: Any) -> str:
    """The text with unprintable characters (control characters, bytes that are not text) escaped."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in str(text))


def shape_text(shape: Sequence[int]) -> str:
    """Height, width and channels in words."""
    channels, height, width = shape
    kinds = {1: "grey (1 channel)", 3: "colour (3 channels)"}
    return f"{height}×{width} pixels, {kinds.get(channels) or f'{channels} channels'}"


def without_source(sentence: str, source: str) -> str:
    """The sentence with the path of the source replaced by its file name."""
    return sentence.replace(source, PurePath(source).name or source)


def item(head: str, sentence: str) -> list[str]:
    """A head and a sentence, in lines of at most 80 columns."""
    return textwrap.wrap(
        sentence, COLUMNS, initial_indent=f"  {head:<{len(INDENT) - 2}}", subsequent_indent=INDENT
    ) or [f"  {head}"]


def _cut(text: str, columns: int) -> str:
    if cell_len(text) <= columns:
        return text
    return set_cell_size(text, columns - 1) + "…"


def _counts(dataset: Dataset) -> tuple[ClassCounts, ...]:
    names, parts = dataset.classes, (dataset.train, dataset.validation, dataset.test)
    counts = [_per_class(part, len(names)) for part in parts]
    return tuple(
        ClassCounts(name=printable(name), train=train, validation=validation, test=test)
        for name, train, validation, test in zip(names, *counts, strict=True)
    )


def _per_class(part: Split | None, classes: int) -> list[int]:
    if part is None:
        return [0] * classes
    return torch.bincount(part.labels, minlength=classes).tolist()


def first_names(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    listed = ", ".join(_cut(name, NAME_COLUMNS) for name in names[:NAMED])
    if len(names) > NAMED:
        return f"{listed} and {len(names) - NAMED:,} more"
    return listed


def _warnings_on_counts(counts: Sequence[ClassCounts], ipc: int) -> Iterator[str]:
    train, test = (sum(getattr(each, field) for each in counts) for field in ("train", "test"))
    most = max(counts, key=lambda each: each.train)
    if len(counts) > 2 and most.train >= HALF * train:
        yield (
            f"class {_cut(most.name, NAME_COLUMNS)} has {most.train / train:.0%} of the training images; look at the "
            "balanced accuracy"
        )
    if test < FEW_TEST:
        yield f"only {test} test images: each counts {100 / test:.1f} points of accuracy"
    untested = [each.name for each in counts if not each.test]
    if untested:
        yield f"no test image of {len(untested)} of {len(counts)} classes ({first_names(untested)})"
    least = max(FEW_TRAIN, ipc)
    small = [f"{_cut(each.name, NAME_COLUMNS)} {each.train}" for each in counts if each.train < least]
    if small:
        yield f"fewer than {least} training images in {len(small)} of {len(counts)} classes ({first_names(small)})"


def _warnings_on_names(counts: Sequence[ClassCounts]) -> Iterator[str]:
    """Warnings on classes that are named like parts of a data set. A single one named train may well be a class."""
    names = [each.name for each in counts]
    parts = {name: split_of(name) for name in names if split_of(name) is not None}
    held_out = [name for name in parts if WORDS.get(name.lower()) in ("test", "validation")]
    folds = [name for name in names if FOLD.fullmatch(name)]
    if len(set(parts.values())) > 1 or held_out:
        yield (
            f"classes named like parts of a data set ({first_names(list(parts))}): does --data name the folder of the "
            "classes?"
        )
    elif other := _folders_besides_images({name.lower() for name in names}):
        yield (
            f"classes named like pictures and {other} ({first_names(names)}): does --data name the folder of the "
            "classes?"
        )
    elif len(folds) > 1:
        yield (
            f"classes named like folds of a data set ({first_names(folds)}): does --data name the folder of the "
            "classes?"
        )


def _folders_besides_images(names: set[str]) -> str:
    """What the data set contains besides its images, if some classes are named like image folders and others like
    folders of masks or copies; empty otherwise."""
    kinds = {"masks of them": MASK_FOLDERS, "copies of them in another size": COPY_FOLDERS}
    return next((kind for kind, folders in kinds.items() if names & PICTURED and names & folders), "")


def _warnings_on_images(dataset: Dataset) -> Iterator[str]:
    plain, checked = _count_single_colour(dataset)
    if plain and plain >= HALF * checked:
        share = "all"
        if plain < checked:
            share = f"{plain / checked:.0%} of"
        yield f"{share} training images are of one colour: are they masks, or is the range of their values wrong?"
    copies = _count_duplicates(dataset)
    if copies:
        yield f"{copies:,} of {len(dataset.test):,} test images are identical to training images"


def _count_single_colour(dataset: Dataset) -> tuple[int, int]:
    """Number of single-colour images among evenly spaced training images, and the number of images checked."""
    count = min(LOOKED_AT, len(dataset.train))
    rows = torch.linspace(0, len(dataset.train) - 1, count).round().to(torch.int64)
    images = next(dataset.train.batches(count, rows)).images
    pixels = dataset.preprocessing.invert(images).flatten(2)
    plain = (pixels.amax(2) - pixels.amin(2) < 1 / 512).all(1)
    return int(plain.sum()), count


def _count_duplicates(dataset: Dataset) -> int:
    """Number of test images that are equal to a training image in every bit; 0 if finding out would require reading or
    moving the images, or take long."""
    train, test = (_cpu_tensor(part) for part in (dataset.train, dataset.test))
    if train is None or test is None or train.numel() + test.numel() > COMPARED:
        return 0
    step = max(1, train[0].numel() // GLANCED_AT)
    partial_hashes = [_hashes(part.flatten(1)[:, ::step]) for part in (train, test)]
    train_hashes, test_hashes = map(set, partial_hashes)
    # Whole images are compared only where a few of their values agree.
    candidates = [
        [number for number, value in enumerate(hashes) if value in others]
        for hashes, others in zip(partial_hashes, (test_hashes, train_hashes), strict=True)
    ]
    full_train, full_test = (
        _hashes(part.flatten(1)[rows]) for part, rows in zip((train, test), candidates, strict=True)
    )
    shared = set(full_train)
    return sum(each in shared for each in full_test)


def _cpu_tensor(part: Split) -> torch.Tensor | None:
    images = part.images
    if isinstance(images, ByteImages):
        images = images.pixels
    if isinstance(images, torch.Tensor) and images.device.type == "cpu":
        return images
    return None


def _hashes(rows: torch.Tensor) -> list[bytes]:
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows.numpy()]
