"""What pictures are like before any of them is decoded: how many of each class, how large, grey or in colour."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..runtime.seeds import rng
from .dataset import DataConfig, RawData, Source, Split
from .decoding import size_in_memory, stored_shape
from .selection import ClassChoice, kept_labels, renumbered
from .sources import looked_at

MOST_HEADERS = 200
"""Training pictures, evenly chosen, whose headers are read."""
MOST_BYTES = 1 << 26
"""Bytes of pictures after which no further one is looked at."""


class PictureSize(NamedTuple):
    """Pixels of one picture, turned upright."""

    height: int
    width: int

    @property
    def side(self) -> int:
        """The short side, which is what resizing scales."""
        return min(self)


@dataclass(frozen=True)
class Survey:
    """Images of a source by class and part, and the sizes of some of them."""

    name: str
    classes: tuple[str, ...]
    train: tuple[int, ...]
    """Training images by class; a source without a test part gives some of them for testing."""
    test: int
    """Test images; 0 where the source has no test part."""
    sizes: tuple[PictureSize, ...]
    """Of arrays, one; of picture files, those of at most `MOST_HEADERS` training pictures that can be read."""
    channels: int

    @property
    def median(self) -> float:
        """The median short side in pixels."""
        return statistics.median(size.side for size in self.sizes)

    @property
    def alike(self) -> bool:
        """Whether all have the same size."""
        return len(set(self.sizes)) == 1


@dataclass
class Look:
    """Notes sizes and channels of a source's pictures; stands for the pixels of each by one byte."""

    choice: ClassChoice
    sizes: tuple[PictureSize, ...] = ()
    channels: int = 0
    broken: tuple[str, ...] = ()
    """Pictures whose header cannot be read."""

    def __call__(self, source: Source) -> RawData:
        kept = kept_labels(source.classes, self.choice)
        chosen = {part: renumbered(labels, kept) for part, labels in source.labels.items()}
        rows = chosen["train"].rows
        even = rows[torch.linspace(0, len(rows) - 1, min(MOST_HEADERS, len(rows))).round().to(torch.int64)]
        # In any order, so that those before a bound on the bytes are of all classes.
        few = even[torch.randperm(len(even), generator=rng(0, "survey"))]
        broken: list[str] = []
        seen = list(_headers(source, few.tolist(), broken))
        self.broken = tuple(sorted(broken))
        self.sizes = tuple(size for size, _ in seen)
        self.channels = max((channels for _, channels in seen), default=3)
        parts = {
            part: Split(torch.zeros(len(each.rows), 1, 1, 1, dtype=torch.uint8), each.labels)
            for part, each in chosen.items()
        }
        names = tuple(source.classes[label] for label in kept)
        return RawData(source.name, names, parts["train"], parts.get("test"), source.summary)


def survey(config: DataConfig) -> Survey:
    """What the source of a configuration holds, of the classes that it names. Raises InputError as reading it does."""
    look = Look(ClassChoice(config.classes, config.first_classes))
    raw = looked_at(config, look)
    channels, height, width = raw.train.shape
    sizes = look.sizes
    if not look.channels:  # no pictures, but arrays of one size
        sizes = (PictureSize(height, width),)
    counts = torch.bincount(raw.train.labels, minlength=len(raw.classes)).tolist()
    tested = [] if raw.test is None else raw.test
    return Survey(raw.name, raw.classes, tuple(counts), len(tested), sizes, look.channels or channels)


def _headers(source: Source, rows: list[int], broken: list[str]) -> Iterator[tuple[PictureSize, int]]:
    """Size and channels of some pictures, until many bytes are read; of one that cannot be read, its name goes into
    `broken`."""
    taken = 0
    for row in rows:
        if taken > MOST_BYTES:
            return
        try:
            (data,) = source.fetch("train", [row])
            taken += size_in_memory(data)
            channels, height, width = stored_shape(data)
            yield PictureSize(height, width), channels
        except Exception:  # whatever a broken file raises: this only looks
            broken.append(source.where("train", row))
