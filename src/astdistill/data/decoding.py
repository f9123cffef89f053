"""Encoded pictures as uint8 pixels `[N, C, H, W]`; resizing and padding."""

from __future__ import annotations

import io
import itertools
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from ..runtime import progress
from ..runtime.errors import InputError
from ..runtime.shapes import Pixels
from .dataset import RawData, Resize, Source, Split, Summary, checked_count
from .levels import Levels, Opening, Values, header_shape, list_values, picture_values
from .listing import text_of
from .selection import ClassChoice, SelectedRows, by_number, kept_labels, renumbered
from .storage import StoredImages


def resized(pixels: UInt8[Tensor, "N C h w"], size: int | None, how: Resize = "crop") -> Pixels:
    """The images as squares of `size` pixels a side; as they are where they have that size, or none is asked for.

    'crop' resizes the short side (bilinear, antialiased, aspect ratio kept) and crops the centre; 'squash' see
    `squashed`.
    """
    if size is None or pixels.shape[2:] == (size, size):
        return pixels
    if how == "squash":
        return squashed(pixels, size)
    height, width = pixels.shape[2:]
    scale = size / min(height, width)
    target = (max(size, round(height * scale)), max(size, round(width * scale)))
    if target != (height, width):
        pixels = torch.nn.functional.interpolate(pixels, size=target, mode="bilinear", antialias=True)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return pixels[:, :, top : top + size, left : left + size].contiguous()


def squashed(pixels: UInt8[Tensor, "N C h w"], size: int) -> Pixels:
    """The images with both sides resized to `size`, the aspect ratio lost, by bilinear interpolation without
    antialiasing.

    A pixel is a mean of the four around its place, pixels counting as centres of squares and the border repeated:
    `interpolate(mode="bilinear", align_corners=False)` in float32, which is what torchvision's `Resize((size, size))`
    made of float tensors before it had `antialias`, and what it does now with `antialias=False`. The result is rounded
    to 256 levels, where released code goes on with fractions.
    """
    resized = pixels.new_empty(*pixels.shape[:2], size, size)
    for start in range(0, len(pixels), CHUNK):
        block = pixels[start : start + CHUNK].to(torch.float32)
        block = torch.nn.functional.interpolate(block, size=(size, size), mode="bilinear", align_corners=False)
        resized[start : start + CHUNK] = block.round().to(torch.uint8)
    return resized


def padded(pixels: UInt8[Tensor, "N C h w"], to: int) -> Pixels:
    """The images with black borders up to `to` pixels a side."""
    down, across = to - pixels.shape[2], to - pixels.shape[3]
    borders = (across // 2, across - across // 2, down // 2, down - down // 2)
    return torch.nn.functional.pad(pixels, borders)


CHUNK = 1000
FETCHED = 1 << 24
"""Bytes of encoded pictures that are held at once, where they are fetched together."""
LARGEST_FILE = 1 << 30
"""Bytes of one picture's file."""
MOST_PIXELS = 89_478_485
"""Pixels of one picture, known before it is decoded; from here on Pillow warns of a bomb."""
FORMATS = (
    *("PNG", "JPEG", "MPO", "BMP", "DIB", "WEBP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "QOI", "SGI", "SUN", "PCX"),
    *("ICO", "TGA"),
)
"""Formats by Pillow's names, whatever the ending of the file. None of them starts a program, as EPS does, or opens
another file; TGA, which begins with nothing of its own, is tried last."""
PARTS = {"train": "training part", "test": "test part"}
NAMED = 3
"""Broken pictures that a sentence names."""
LOOKED_AT = 20_000
"""Pictures that are looked at to find more broken ones."""
Sized = Callable[[Pixels], Pixels]


class Unreadable(InputError):
    """A picture that cannot be read: `where` it is and `why`."""

    where = why = ""

    @staticmethod
    def of(where: str, why: str) -> Unreadable:
        """The error; made so that it can be sent to another process."""
        error = Unreadable(f"{where} cannot be read as an image ({why}); replace it or take it out.")
        error.where, error.why = where, why
        return error


def in_memory(*shape: int) -> Pixels:
    """Room for images of `shape`, to be filled."""
    return torch.empty(shape, dtype=torch.uint8)


def decoded(
    source: Source,
    choice: ClassChoice,
    sized: Sized,
    allocator: Callable[..., Pixels] = in_memory,
    opening: Opening | None = None,
) -> RawData:
    """The pixels of the chosen classes, all of one size and one number of channels (grey only if every picture is
    grey), in 256 levels.

    `sized` changes the size of images `[N, C, H, W]`; `allocator(N, C, H, W)` makes the blocks of uint8 that they are
    written to.
    """
    kept = kept_labels(source.classes, choice)
    opening = opening or Opening()
    chosen = {part: _chosen(source, part, kept) for part in PARTS if part in source.labels}
    levels = Levels(opening, lambda: _every_picture(source, chosen, opening))
    try:
        parts = {part: _decoded_part(source, part, rows, sized, allocator, levels) for part, rows in chosen.items()}
    except Unreadable as error:
        every = _with_all_broken(error, source, chosen, opening)
        if every is None:
            raise
        raise every from error
    train, test = parts["train"], parts.get("test")
    if test is not None:
        if train.images.shape[2:] != test.images.shape[2:]:
            raise InputError(
                f"Training images of {source.name} are {_size(train.images)} and test images {_size(test.images)}; "
                "choose one size with --data.size."
            )
        channels = max(train.images.shape[1], test.images.shape[1])
        train, test = (
            Split(_with_channels(part.images[:], channels, allocator), part.labels) for part in (train, test)
        )
    said = Summary(levels.words(), guessed=(*levels.guesses(), *by_number(source.classes, choice)))
    return RawData(source.name, tuple(source.classes[label] for label in kept), train, test, source.summary + said)


def _with_all_broken(
    first: Unreadable, source: Source, chosen: Mapping[str, SelectedRows], opening: Opening
) -> InputError | None:
    """The error for all pictures that cannot be read, of which each costs a start otherwise; None where there is one
    alone."""
    rows = ((part, row) for part, its in chosen.items() for row in its.rows.tolist())
    looked_at, broken = list(islice(rows, LOOKED_AT)), list[Unreadable]()
    more = next(rows, None) is not None
    with progress.phase("looking for more pictures that cannot be read"):
        for part, row in looked_at:
            try:
                (data,) = source.fetch(part, [row])
                _decode(data, source.where(part, row), opening)
            except Unreadable as error:
                broken.append(error)
            except InputError:  # of a file that cannot be opened, which has a sentence of its own
                continue
    others = [error.where for error in broken if error.where != first.where]
    if not others:
        return None
    named = ", ".join(others[:NAMED]) + ", …" * (len(others) > NAMED)
    return InputError(
        f"{first.where} cannot be read as an image ({first.why}), nor can {'at least ' * more}{len(others):,} more "
        f"({named}); replace them or take them out."
    )


def stacked(
    pictures: Iterator[UInt8[Tensor, "C H W"]],
    count: int,
    where: Callable[[int], str],
    allocator: Callable[..., Pixels] = in_memory,
) -> Pixels:
    """The pictures as one block, grey ones filling all three channels beside RGB.

    Raises InputError naming two that differ otherwise, as `where` calls the picture of a row of the block.
    """
    first = next(pictures)
    block = allocator(count, *first.shape)
    for row, pixels in enumerate(itertools.chain([first], pictures)):
        if pixels.shape[1:] != first.shape[1:]:
            raise InputError(
                f"Images differ in size: {where(0)} is {_size(first)} and {where(row)} is {_size(pixels)}; "
                "choose one size with --data.size."
            )
        if len(pixels) != block.shape[1] and {len(pixels), block.shape[1]} != {1, 3}:
            raise InputError(
                f"Images differ in channels: {where(0)} has {len(first)} and {where(row)} has {len(pixels)}; "
                "give all the same number (only grey and RGB may be mixed)."
            )
        block = _with_channels(block, max(len(pixels), block.shape[1]), allocator)
        block[row] = pixels  # a grey picture fills all three channels of a block in colour
    return block


def _chosen(source: Source, part: str, kept: Sequence[int]) -> SelectedRows:
    chosen = renumbered(source.labels[part], kept)
    if not len(chosen.rows):
        raise InputError(
            f"{_named(source, part)} holds no images of the classes asked for; choose others with --data.classes."
        )
    return chosen


def _named(source: Source, part: str) -> str:
    return f"{source.name} ({PARTS[part]})"


def _decoded_part(
    source: Source, part: str, chosen: SelectedRows, sized: Sized, allocator: Callable[..., Pixels], levels: Levels
) -> Split:
    rows: list[int] = chosen.rows.tolist()
    pictures = _pictures(source, part, rows, sized, levels)
    pixels = stacked(pictures, len(rows), lambda place: source.where(part, rows[place]), allocator)
    return checked_count(pixels, chosen.labels, _named(source, part))


def _pictures(
    source: Source, part: str, rows: list[int], sized: Sized, levels: Levels
) -> Iterator[UInt8[Tensor, "C H W"]]:
    with progress.bar("Decoding images", len(rows), unit="images") as bar:
        for values in _opened(source, part, rows, levels.opening):
            yield sized(levels.pixels(values).unsqueeze(0))[0]
            bar.step(1)


def _every_picture(source: Source, chosen: Mapping[str, SelectedRows], opening: Opening) -> Iterator[Values]:
    """The values of all chosen pictures of all parts, to find their levels."""
    with progress.phase(f"finding the levels of the pictures of {source.name}"):
        for part, rows in chosen.items():
            for picture in _opened(source, part, rows.rows.tolist(), opening):
                yield picture._replace(part=PARTS[part])


def _opened(source: Source, part: str, rows: list[int], opening: Opening) -> Iterator[Values]:
    """The values of the pictures, one after another. So many are fetched at once that their bytes stay near `FETCHED`,
    as far as those before tell."""
    start, count, largest = 0, 1, 1
    while start < len(rows):
        chunk = rows[start : start + count]
        for row, data in zip(chunk, source.fetch(part, chunk), strict=True):
            largest = max(largest, size_in_memory(data))
            yield _decode(data, source.where(part, row), opening)
        start, count = start + len(chunk), max(1, min(2 * count, CHUNK, FETCHED // largest))


def size_in_memory(data: bytes | np.ndarray) -> int:
    """Bytes of an encoded picture or of a list's values."""
    return data.nbytes if isinstance(data, np.ndarray) else len(data)


def _decode(data: bytes | np.ndarray, where: str, opening: Opening) -> Values:
    stream = io.BytesIO(b"" if isinstance(data, np.ndarray) else data)
    try:
        if isinstance(data, np.ndarray):
            return list_values(data)
        with opened_picture(stream) as picture:
            return picture_values(picture, opening)
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{where} has more than the {MOST_PIXELS:,} pixels that a picture may have; make it smaller or take it out."
        ) from error
    except Exception as error:  # what Pillow and its libraries raise on broken files depends on the format
        why = str(error).replace(f" {stream!r}", "")  # Pillow names the bytes' address, which nobody knows
        raise Unreadable.of(where, why) from error


@contextmanager
def opened_picture(stream: IO[bytes]) -> Iterator[Image.Image]:
    """A picture of one of the formats that are read, for as long as the block lasts; nothing is decoded yet.

    Raises what Pillow does for anything else, and DecompressionBombError for more than `MOST_PIXELS`.
    """
    with warnings.catch_warnings():
        # Of Pillow, which bounds pixels as MOST_PIXELS does, and tells of every damaged tag beside a sound picture.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(stream, formats=readable_formats()) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            yield picture


def stored_shape(data: bytes | np.ndarray) -> tuple[int, int, int]:
    """Channels, height and width of a picture once it is read, by its header alone; of nested lists by their values.
    Raises what Pillow does, or ValueError, for what is no picture."""
    if isinstance(data, np.ndarray):
        channels, height, width = list_values(data).values.shape
        return channels, height, width
    with opened_picture(io.BytesIO(data)) as picture:
        return header_shape(picture)


@cache
def readable_formats() -> tuple[str, ...]:
    """The formats that are read, as far as this Pillow knows them."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def file_bytes(path: Path) -> bytes:
    """The bytes of a regular file. Raises InputError naming it when it cannot be read, is none, or is too large."""
    where = text_of(path)
    try:
        # A pipe without a writer would hold up an open that waits.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{where} is a pipe, device or socket, not a picture file; take it out.")
            if status.st_size > LARGEST_FILE:
                raise InputError(f"{where} is larger than {LARGEST_FILE >> 20} MiB; make it smaller, or take it out.")
            return file.read()
    except OSError as error:
        raise InputError(f"{where} cannot be read ({error.strerror}); check its permissions.") from error


def _with_channels(block: UInt8[Tensor, "N c H W"], channels: int, allocator: Callable[..., Pixels]) -> Pixels:
    if block.shape[1] == channels:
        return block
    wider = allocator(len(block), channels, *block.shape[2:])
    for start in range(0, len(block), CHUNK):
        wider[start : start + CHUNK] = block[start : start + CHUNK]
    return wider


def _size(pixels: StoredImages) -> str:
    return f"{pixels.shape[-1]}×{pixels.shape[-2]}"
