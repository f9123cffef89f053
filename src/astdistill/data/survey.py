"""A survey of pictures without decoding them: images per class, sizes, grey or colour; and the description of data
that an estimate needs, from picture headers."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from ..runtime.errors import InputError
from ..runtime.seeds import rng
from .dataset import DataConfig, RawData, Source, Split, Summary
from .decoding import size_in_memory, stored_shape
from .description import Description
from .loading import assemble
from .selection import ClassChoice, chosen_labels, renumbered
from .sources import DEFAULT_SIZES, PADDED, RESIZED, UNPADDED, bordered, looked_at

MOST_HEADERS = 200
"""The most training pictures, evenly spaced, whose headers are read."""
MOST_BYTES = 1 << 26
"""Bytes of pictures after which no further header is read."""


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
    """Training images by class; of a source without a test part, some of them become test images."""
    test: int
    """Test images; 0 where the source has no test part."""
    sizes: tuple[PictureSize, ...]
    """One for arrays; for picture files, those of at most `MOST_HEADERS` readable training pictures."""
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
    """Records sizes and channels of a source's pictures; represents the pixels of each by one byte."""

    choice: ClassChoice
    sizes: tuple[PictureSize, ...] = ()
    channels: int = 0
    broken: tuple[str, ...] = ()
    """Pictures whose header cannot be read."""

    def __call__(self, source: Source) -> RawData:
        class_labels = chosen_labels(source.classes, self.choice)
        chosen = {part: renumbered(labels, class_labels) for part, labels in source.labels.items()}
        rows = chosen["train"].rows
        spaced = rows[torch.linspace(0, len(rows) - 1, min(MOST_HEADERS, len(rows))).round().to(torch.int64)]
        # Shuffled, so that the pictures before the limit on bytes are of all classes.
        sampled = spaced[torch.randperm(len(spaced), generator=rng(0, "survey"))]
        broken: list[str] = []
        headers = list(_read_headers(source, sampled.tolist(), broken))
        self.broken = tuple(sorted(broken))
        self.sizes = tuple(size for size, _ in headers)
        self.channels = max((channels for _, channels in headers), default=3)
        parts = {
            part: Split(torch.zeros(len(each.rows), 1, 1, 1, dtype=torch.uint8), each.labels)
            for part, each in chosen.items()
        }
        names = tuple(source.classes[label] for label in class_labels)
        return RawData(source.name, names, parts["train"], parts.get("test"), source.summary)


def survey(config: DataConfig) -> Survey:
    """Survey the chosen classes of the source of a configuration. Raises InputError as reading it does."""
    look = Look(ClassChoice(config.classes, config.first_classes))
    raw = looked_at(config, look)
    channels, height, width = raw.train.shape
    sizes = look.sizes
    if not look.channels:  # no pictures, but arrays of one size
        sizes = (PictureSize(height, width),)
    counts = torch.bincount(raw.train.labels, minlength=len(raw.classes)).tolist()
    test = [] if raw.test is None else raw.test
    return Survey(raw.name, raw.classes, tuple(counts), len(test), sizes, look.channels or channels)


def _read_headers(source: Source, rows: list[int], broken: list[str]) -> Iterator[tuple[PictureSize, int]]:
    """Yield size and channels of pictures until `MOST_BYTES` are read; append names of unreadable ones to `broken`."""
    bytes_read = 0
    for row in rows:
        if bytes_read > MOST_BYTES:
            return
        try:
            (data,) = source.fetch("train", [row])
            bytes_read += size_in_memory(data)
            channels, height, width = stored_shape(data)
            yield PictureSize(height, width), channels
        except Exception:  # any error of a broken file: it is only noted here
            broken.append(source.locate("train", row))


def described_by_headers(data: DataConfig, ipc: int = 1) -> Description:
    """A description of the data from names, labels and the headers of some pictures: a folder of 20,000 takes a second
    or two. Arrays are read whole.

    Raises InputError as reading the data does, except for errors that only decoding finds.
    """
    look = Look(ClassChoice(data.classes, data.first_classes))
    raw = looked_at(data, look)
    if not look.channels:
        return Description.of(assemble(bordered(raw, data.size), data.replace(whiten="none")), ipc)
    count = sum(len(part) for part in (raw.train, raw.test) if part is not None)
    notes = [f"for this estimate the headers of {len(look.sizes):,} of {count:,} pictures; the run reads them all"]
    if look.broken:
        notes.append(
            f"not readable, so that the run will stop: {', '.join(look.broken[:3])}{', …' * (len(look.broken) > 3)}"
        )
    if data.size is not None:
        notes.append(f"images of {data.size}×{data.size} pixels: {RESIZED[data.resize]}")
    raw = replace(_with_placeholders(raw), summary=raw.summary + Summary(tuple(notes)))
    dataset = assemble(raw, data.replace(whiten="none", memory="uint8"))
    return Description.of(dataset, ipc).replace(shape=_image_shape(data, look, raw.name))


def _image_shape(data: DataConfig, look: Look, name: str) -> tuple[int, int, int]:
    """Channels, height and width of the images as they will be read. Raises InputError if sizes differ and none is
    requested."""
    size = data.size or DEFAULT_SIZES.get(data.source)
    if size is not None:
        return look.channels, size, size
    sizes = sorted(set(look.sizes))
    if len(sizes) > 1:
        small, large = (f"{each.height}×{each.width}" for each in (sizes[0], sizes[-1]))
        raise InputError(
            f"Images of {name} differ in size, such as {small} and {large}; choose one size with --data.size."
        )
    shape = look.channels, sizes[0].height, sizes[0].width
    if shape == UNPADDED:
        return look.channels, PADDED, PADDED
    return shape


def _with_placeholders(raw: RawData) -> RawData:
    """The set with a few bytes in place of each image, all different and none of a single colour, so that checks for
    duplicate or blank images find nothing."""
    test = raw.test
    if test is not None:
        test = Split(_placeholders(len(raw.train), len(test)), test.labels)
    return replace(raw, train=Split(_placeholders(0, len(raw.train)), raw.train.labels), test=test)


def _placeholders(first: int, count: int) -> torch.Tensor:
    numbers = torch.arange(first, first + count)
    digits = [(numbers >> shift) & 255 for shift in (24, 16, 8, 0)]
    dark, bright = torch.zeros_like(numbers), torch.full_like(numbers, 255)
    return torch.stack([dark, bright, *digits], dim=1).to(torch.uint8).view(count, 1, 1, 6)
