"""What an estimate needs to know of data that have no name: counts and sizes, without decoding the pictures."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..data.dataset import DataConfig, RawData, Split
from ..data.description import Description
from ..data.loading import assemble
from ..data.selection import ClassChoice
from ..data.sources import DEFAULT_SIZES, PADDED, RESIZED, UNPADDED, bordered, looked_at
from ..data.survey import Look
from ..runtime.errors import InputError


def described_by_headers(data: DataConfig, ipc: int = 1) -> Description:
    """What a description of the data says, as far as names and labels tell, and of pictures the headers of some: a
    folder of 20,000 takes a second or two. Arrays are read whole, since they are there at once.

    Raises InputError as reading the data does, but for what only decoding shows.
    """
    look = Look(ClassChoice(data.classes, data.first_classes))
    raw = looked_at(data, look)
    if not look.channels:
        return Description.of(assemble(bordered(raw, data.size), data.replace(whiten="none")), ipc)
    count = sum(len(part) for part in (raw.train, raw.test) if part is not None)
    said = [f"for this estimate the headers of {len(look.sizes):,} of {count:,} pictures; the run reads them all"]
    if look.broken:
        said.append(
            f"not readable, so that the run will stop: {', '.join(look.broken[:3])}{', …' * (len(look.broken) > 3)}"
        )
    if data.size is not None:
        said.append(f"images of {data.size}×{data.size} pixels: {RESIZED[data.resize]}")
    raw = replace(_counted(raw), summary=raw.summary.with_read(*said))
    dataset = assemble(raw, data.replace(whiten="none", memory="uint8"))
    return Description.of(dataset, ipc).replace(shape=_shape(data, look, raw.name))


def _shape(data: DataConfig, look: Look, name: str) -> tuple[int, int, int]:
    """Channels, height and width of the images as they will be read. Raises InputError where sizes differ and none was
    asked for."""
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


def _counted(raw: RawData) -> RawData:
    """The set with a few bytes in the place of each image, no two of them alike and none of one colour, so that nothing
    is found in the images that nobody has looked at."""
    test = raw.test
    if test is not None:
        test = Split(_numbered(len(raw.train), len(test)), test.labels)
    return replace(raw, train=Split(_numbered(0, len(raw.train)), raw.train.labels), test=test)


def _numbered(first: int, count: int) -> torch.Tensor:
    numbers = torch.arange(first, first + count)
    digits = [(numbers >> shift) & 255 for shift in (24, 16, 8, 0)]
    dark, bright = torch.zeros_like(numbers), torch.full_like(numbers, 255)
    return torch.stack([dark, bright, *digits], dim=1).to(torch.uint8).view(count, 1, 1, 6)
