"""Decoding of images to uint8 pixels `[N, C, H, W]`; resizing and padding."""

from __future__ import annotations

import io
import itertools
import math
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
from ..runtime.machine import free_memory
from ..runtime.shapes import Pixels
from ..runtime.status import size as size_text
from ..runtime.text import many
from .dataset import RawData, Resize, Source, Split, Summary, checked_count
from .levels import Levels, Opening, Values, header_shape, list_values, picture_values
from .listing import text_of
from .selection import ClassChoice, SelectedRows, by_number, chosen_labels, renumbered
from .storage import StoredImages


def resized(pixels: UInt8[Tensor, "N C h w"], size: int | None, how: Resize = "crop") -> Pixels:
    """Resize images to squares of `size` pixels a side; unchanged if they have that size or `size` is None.

    'crop' resizes the shorter side (bilinear, antialiased, aspect ratio kept) and crops the centre; for 'squash' see
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
        _check_room(*pixels.shape[:2], *target)
        pixels = torch.nn.functional.interpolate(pixels, size=target, mode="bilinear", antialias=True)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return pixels[:, :, top : top + size, left : left + size].contiguous()


def squashed(pixels: UInt8[Tensor, "N C h w"], size: int) -> Pixels:
    """Resize both sides of images to `size`, ignoring the aspect ratio, by bilinear interpolation without antialiasing.

    Each output pixel is a weighted mean of the four nearest input pixels, with pixels as centres of squares and a
    repeated border: `interpolate(mode="bilinear", align_corners=False)` in float32. This equals torchvision's
    `Resize((size, size))` on float tensors before it had `antialias`, and with `antialias=False` today. The result is
    rounded to 256 levels, whereas released code continues with fractions.
    """
    _check_room(*pixels.shape[:2], size, size)
    resized = pixels.new_empty(*pixels.shape[:2], size, size)
    for start in range(0, len(pixels), CHUNK):
        block = pixels[start : start + CHUNK].to(torch.float32)
        block = torch.nn.functional.interpolate(block, size=(size, size), mode="bilinear", align_corners=False)
        resized[start : start + CHUNK] = block.round().to(torch.uint8)
    return resized


def padded(pixels: UInt8[Tensor, "N C h w"], to: int) -> Pixels:
    """Pad images with black borders to `to` pixels a side."""
    down, across = to - pixels.shape[2], to - pixels.shape[3]
    borders = (across // 2, across - across // 2, down // 2, down - down // 2)
    return torch.nn.functional.pad(pixels, borders)


CHUNK = 1000
FETCHED = 1 << 24
"""Bytes of encoded images that are fetched together."""
LARGEST_FILE = 1 << 30
"""Most bytes of an image file."""
MOST_PIXELS = 89_478_485
"""Most pixels of an image, checked before it is decoded; above this number Pillow warns of a decompression bomb."""
FORMATS = (
    *("PNG", "JPEG", "MPO", "BMP", "DIB", "WEBP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "QOI", "SGI", "SUN", "PCX"),
    *("ICO", "TGA"),
)
"""Supported formats by Pillow's names, regardless of the extension of the file. None of them starts a program, as EPS
does, or opens another file. TGA, which has no signature, is tried last."""
PARTS = {"train": "training part", "test": "test part"}
NAMED = 3
"""Most unreadable images that an error message names."""
LOOKED_AT = 20_000
"""Most images that are checked to find further unreadable ones."""
UNCHECKED = 1 << 28
"""Bytes of images that are allocated without a look at the free memory."""
Sized = Callable[[Pixels], Pixels]


class Unreadable(InputError):
    """An image that cannot be read: `source` is its location, `why` the reason."""

    source = why = ""

    @staticmethod
    def of(source: str, why: str) -> Unreadable:
        """Create the error in a way that allows it to be sent to another process."""
        error = Unreadable(f"{source} cannot be read as an image ({why}); replace it or take it out.")
        error.source, error.why = source, why
        return error


def _check_room(*shape: int) -> None:
    """Raise InputError before allocation if uint8 images `[N, C, H, W]` do not fit into the free memory: the system
    would kill the process without a message."""
    needed = math.prod(shape)
    free = free_memory() if needed > UNCHECKED else None
    if free is not None and needed > free:
        count, height, width = shape[0], *shape[-2:]
        raise InputError(
            f"{many(count, 'image')} of {width}×{height} pixels take {size_text(needed)} of memory, and "
            f"{size_text(free)} are free; choose a smaller --data.size, or fewer images with --data.classes."
        )


def in_memory(*shape: int) -> Pixels:
    """Allocate uint8 images of `shape` in memory, to be filled by the caller. Raises InputError if they do not fit."""
    _check_room(*shape)
    return torch.empty(shape, dtype=torch.uint8)


def decoded(
    source: Source,
    choice: ClassChoice,
    sized: Sized,
    allocator: Callable[..., Pixels] = in_memory,
    opening: Opening | None = None,
) -> RawData:
    """Decode the images of the chosen classes to one block per part, all of one size and one number of channels (grey
    only if every image is grey), in 256 levels.

    `sized` resizes images `[N, C, H, W]`; `allocator(N, C, H, W)` allocates the uint8 blocks that they are written to.
    """
    class_labels = chosen_labels(source.classes, choice)
    opening = opening or Opening()
    chosen = {part: _select_rows(source, part, class_labels) for part in PARTS if part in source.labels}
    levels = Levels(opening, lambda: _all_values(source, chosen, opening))
    try:
        parts = {part: _decode_part(source, part, rows, sized, allocator, levels) for part, rows in chosen.items()}
    except Unreadable as error:
        joint_error = _error_for_all_unreadable(error, source, chosen, opening)
        if joint_error is None:
            raise
        raise joint_error from error
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
    notes = Summary(levels.notes(), guessed=(*levels.guesses(), *by_number(source.classes, choice)))
    return RawData(
        source.name, tuple(source.classes[label] for label in class_labels), train, test, source.summary + notes
    )


def _error_for_all_unreadable(
    first: Unreadable, source: Source, chosen: Mapping[str, SelectedRows], opening: Opening
) -> InputError | None:
    """One error for all images that cannot be read, which otherwise would be reported one per run; None if there is
    only one."""
    rows = ((part, row) for part, selected in chosen.items() for row in selected.rows.tolist())
    checked, unreadable = list(islice(rows, LOOKED_AT)), list[Unreadable]()
    capped = next(rows, None) is not None
    with progress.phase("looking for more pictures that cannot be read"):
        for part, row in checked:
            try:
                (data,) = source.fetch(part, [row])
                _decode(data, source.locate(part, row), opening)
            except Unreadable as error:
                unreadable.append(error)
            except InputError:  # for a file that cannot be opened, with its own message
                continue
    others = [error.source for error in unreadable if error.source != first.source]
    if not others:
        return None
    examples = ", ".join(others[:NAMED]) + ", …" * (len(others) > NAMED)
    return InputError(
        f"{first.source} cannot be read as an image ({first.why}), nor can {'at least ' * capped}{len(others):,} more "
        f"({examples}); replace them or take them out."
    )


def stacked(
    pictures: Iterator[UInt8[Tensor, "C H W"]],
    count: int,
    locate: Callable[[int], str],
    allocator: Callable[..., Pixels] = in_memory,
) -> Pixels:
    """Stack images into one block; if some are RGB, grey images are expanded to three channels.

    Raises InputError naming two images that differ otherwise; `locate` returns the location of the image in a row of
    the block.
    """
    first = next(pictures)
    block = allocator(count, *first.shape)
    for row, pixels in enumerate(itertools.chain([first], pictures)):
        if pixels.shape[1:] != first.shape[1:]:
            raise InputError(
                f"Images differ in size: {locate(0)} is {_size(first)} and {locate(row)} is {_size(pixels)}; "
                "choose one size with --data.size."
            )
        if len(pixels) != block.shape[1] and {len(pixels), block.shape[1]} != {1, 3}:
            raise InputError(
                f"Images differ in channels: {locate(0)} has {len(first)} and {locate(row)} has {len(pixels)}; "
                "give all the same number (only grey and RGB may be mixed)."
            )
        block = _with_channels(block, max(len(pixels), block.shape[1]), allocator)
        block[row] = pixels  # a grey image is broadcast to all three channels of an RGB block
    return block


def _select_rows(source: Source, part: str, class_labels: Sequence[int]) -> SelectedRows:
    chosen = renumbered(source.labels[part], class_labels)
    if not len(chosen.rows):
        raise InputError(
            f"{_part_name(source, part)} holds no images of the classes asked for; choose others with --data.classes."
        )
    return chosen


def _part_name(source: Source, part: str) -> str:
    return f"{source.name} ({PARTS[part]})"


def _decode_part(
    source: Source, part: str, chosen: SelectedRows, sized: Sized, allocator: Callable[..., Pixels], levels: Levels
) -> Split:
    rows: list[int] = chosen.rows.tolist()
    pictures = _decode_pictures(source, part, rows, sized, levels)
    pixels = stacked(pictures, len(rows), lambda index: source.locate(part, rows[index]), allocator)
    return checked_count(pixels, chosen.labels, _part_name(source, part))


def _decode_pictures(
    source: Source, part: str, rows: list[int], sized: Sized, levels: Levels
) -> Iterator[UInt8[Tensor, "C H W"]]:
    with progress.bar("Decoding images", len(rows), unit="images") as bar:
        for values in _read_values(source, part, rows, levels.opening):
            yield sized(levels.pixels(values).unsqueeze(0))[0]
            bar.step(1)


def _all_values(source: Source, chosen: Mapping[str, SelectedRows], opening: Opening) -> Iterator[Values]:
    """The values of all chosen images of all parts, to find their levels."""
    with progress.phase(f"finding the levels of the pictures of {source.name}"):
        for part, rows in chosen.items():
            for picture in _read_values(source, part, rows.rows.tolist(), opening):
                yield picture._replace(part=PARTS[part])


def _read_values(source: Source, part: str, rows: list[int], opening: Opening) -> Iterator[Values]:
    """The values of the images, one after another. The number fetched at once keeps their bytes near `FETCHED`,
    estimated from the largest image so far."""
    start, count, largest = 0, 1, 1
    while start < len(rows):
        chunk = rows[start : start + count]
        for row, data in zip(chunk, source.fetch(part, chunk), strict=True):
            largest = max(largest, size_in_memory(data))
            yield _decode(data, source.locate(part, row), opening)
        start, count = start + len(chunk), max(1, min(2 * count, CHUNK, FETCHED // largest))


def size_in_memory(data: bytes | np.ndarray) -> int:
    """Bytes of an encoded image or of the values of a list."""
    return data.nbytes if isinstance(data, np.ndarray) else len(data)


def _decode(data: bytes | np.ndarray, name: str, opening: Opening) -> Values:
    stream = io.BytesIO(b"" if isinstance(data, np.ndarray) else data)
    try:
        if isinstance(data, np.ndarray):
            return list_values(data)
        with opened_picture(stream) as picture:
            return picture_values(picture, opening)
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{name} has more than the {MOST_PIXELS:,} pixels that a picture may have; make it smaller or take it out."
        ) from error
    except Exception as error:  # what Pillow and its libraries raise on broken files depends on the format
        why = str(error).replace(f" {stream!r}", "")  # Pillow adds the address of the stream object
        raise Unreadable.of(name, why) from error


@contextmanager
def opened_picture(stream: IO[bytes]) -> Iterator[Image.Image]:
    """Open an image in one of the supported formats for the duration of the block, without decoding it.

    Raises Pillow's exceptions for anything else, and DecompressionBombError for more than `MOST_PIXELS`.
    """
    with warnings.catch_warnings():
        # Pillow warns of large images, which MOST_PIXELS bounds, and of every damaged tag of an intact image.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(stream, formats=readable_formats()) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            yield picture


def stored_shape(data: bytes | np.ndarray) -> tuple[int, int, int]:
    """Channels, height and width of an image after decoding, from its header only; of nested lists from their values.
    Raises Pillow's exceptions or ValueError for anything that is not an image."""
    if isinstance(data, np.ndarray):
        channels, height, width = list_values(data).values.shape
        return channels, height, width
    with opened_picture(io.BytesIO(data)) as picture:
        return header_shape(picture)


@cache
def readable_formats() -> tuple[str, ...]:
    """The supported formats that the installed Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def file_bytes(path: Path) -> bytes:
    """The bytes of a regular file. Raises InputError naming it if it cannot be read, is not a regular file, or is too
    large."""
    location = text_of(path)
    try:
        # Without O_NONBLOCK, opening a pipe that has no writer would block.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{location} is a pipe, device or socket, not a picture file; take it out.")
            if status.st_size > LARGEST_FILE:
                raise InputError(
                    f"{location} is larger than {LARGEST_FILE >> 20} MiB; make it smaller, or take it out."
                )
            return file.read()
    except OSError as error:
        raise InputError(f"{location} cannot be read ({error.strerror}); check its permissions.") from error


def _with_channels(block: UInt8[Tensor, "N c H W"], channels: int, allocator: Callable[..., Pixels]) -> Pixels:
    if block.shape[1] == channels:
        return block
    wider = allocator(len(block), channels, *block.shape[2:])
    for start in range(0, len(block), CHUNK):
        wider[start : start + CHUNK] = block[start : start + CHUNK]
    return wider


def _size(pixels: StoredImages) -> str:
    return f"{pixels.shape[-1]}×{pixels.shape[-2]}"
