"""Encoded pictures (PNG, JPEG, …) decoded to one block of pixels."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from .. import progress
from ..errors import InputError
from ..shapes import Labels, Pixels
from .pixel_file import PixelFile
from .pixels import resized
from .raw import RawData, RawPart, checked_count
from .selection import ClassChoice, kept_labels, renumbered

CHUNK = 1000
GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L")
"""Sixteen-bit grey; Pillow reads some of it into 32-bit integers."""


@dataclass(frozen=True)
class EncodedPart:
    """Labels `[N]` and undecoded pictures: `fetch(rows)` gives the bytes of some, `where(row)` names one in an error."""

    labels: Labels
    fetch: Callable[[Sequence[int]], Sequence[bytes]]
    where: Callable[[int], str]


@dataclass(frozen=True)
class Encoded:
    """A labelled set of pictures that are not decoded yet, so that classes can be chosen first."""

    name: str
    classes: tuple[str, ...]
    train: EncodedPart
    test: EncodedPart | None


@dataclass(frozen=True)
class Picture:
    pixels: UInt8[Tensor, "C H W"]
    where: str


def in_memory(*shape: int) -> Pixels:
    """Room for images of `shape`, to be filled."""
    return torch.empty(shape, dtype=torch.uint8)


def decoded(encoded: Encoded, choice: ClassChoice, size: int | None, room: Callable[..., Pixels] = in_memory) -> RawData:
    """The pixels of the chosen classes, all of one size and one number of channels (grey only if every picture is grey).

    `room(N, C, H, W)` makes the blocks of uint8 that they are written to.
    """
    kept = kept_labels(encoded.classes, choice)
    train = _decoded_part(encoded.train, kept, size, f"{encoded.name} (training part)", room)
    test = None if encoded.test is None else _decoded_part(encoded.test, kept, size, f"{encoded.name} (test part)", room)
    if test is not None:
        if train.pixels.shape[2:] != test.pixels.shape[2:]:
            raise InputError(
                f"Training images of {encoded.name} are {_size(train.pixels)} and test images {_size(test.pixels)}; "
                "choose one size with --data.size."
            )
        channels = max(train.pixels.shape[1], test.pixels.shape[1])
        train, test = (RawPart(_with_channels(part.pixels[:], channels, room), part.labels) for part in (train, test))
    return RawData(encoded.name, tuple(encoded.classes[label] for label in kept), train, test)


def picture_pixels(picture: Image.Image) -> UInt8[Tensor, "C H W"]:
    """The pixels of one picture, turned upright: one channel for grey modes, three for all others; transparency is dropped."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in DEEP_MODES:
        array = np.clip(np.asarray(upright, dtype=np.float64) / 257, 0, 255).round().astype(np.uint8)
    else:
        if upright.mode == "P" and "transparency" in upright.info:
            upright = upright.convert("RGBA")  # Pillow warns on the direct way
        array = np.array(upright.convert("L" if upright.mode in GREY_MODES else "RGB"))
    return torch.from_numpy(array).unsqueeze(0) if array.ndim == 2 else torch.from_numpy(array).permute(2, 0, 1)


def stacked(pictures: Iterator[Picture], count: int, room: Callable[..., Pixels] = in_memory) -> Pixels:
    """The pictures as one block, grey ones filling all three channels beside RGB. Raises InputError naming two that differ otherwise."""
    first = next(pictures)
    block = room(count, *first.pixels.shape)
    for row, picture in enumerate(itertools.chain([first], pictures)):
        if picture.pixels.shape[1:] != first.pixels.shape[1:]:
            raise InputError(
                f"Images differ in size: {first.where} is {_size(first.pixels)} and {picture.where} is {_size(picture.pixels)}; "
                "choose one size with --data.size."
            )
        if len(picture.pixels) != block.shape[1] and {len(picture.pixels), block.shape[1]} != {1, 3}:
            raise InputError(
                f"Images differ in channels: {first.where} has {len(first.pixels)} and {picture.where} has {len(picture.pixels)}; "
                "give all the same number (only grey and RGB may be mixed)."
            )
        block = _with_channels(block, max(len(picture.pixels), block.shape[1]), room)
        block[row] = picture.pixels  # a grey picture fills all three channels of a block in colour
    return block


def _decoded_part(part: EncodedPart, kept: Sequence[int], size: int | None, where: str, room: Callable[..., Pixels]) -> RawPart:
    chosen = renumbered(part.labels, kept)
    rows: list[int] = chosen.rows.tolist()
    if not rows:
        raise InputError(f"{where} holds no images of the classes asked for; choose others with --data.classes.")
    return checked_count(stacked(_pictures(part, rows, size), len(rows), room), chosen.labels, where)


def _pictures(part: EncodedPart, rows: list[int], size: int | None) -> Iterator[Picture]:
    with progress.bar("Decoding images", len(rows), unit="images") as bar:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            for row, data in zip(chunk, part.fetch(chunk), strict=True):
                pixels = _decode(data, part.where(row))
                yield Picture(resized(pixels.unsqueeze(0), size)[0], part.where(row))
            bar.step(len(chunk))


def _decode(data: bytes, where: str) -> UInt8[Tensor, "C H W"]:
    stream = io.BytesIO(data)
    try:
        with Image.open(stream) as picture:
            return picture_pixels(picture)
    # what Pillow raises on broken files depends on the format
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        why = str(error).replace(f" {stream!r}", "")  # Pillow names the bytes' address, which nobody knows
        raise InputError(f"{where} cannot be read as an image ({why}); replace it or take it out.") from error


def file_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises InputError naming it when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); check its permissions.") from error


def _with_channels(block: UInt8[Tensor, "N c H W"], channels: int, room: Callable[..., Pixels]) -> Pixels:
    if block.shape[1] == channels:
        return block
    wider = room(len(block), channels, *block.shape[2:])
    for start in range(0, len(block), CHUNK):
        wider[start : start + CHUNK] = block[start : start + CHUNK]
    return wider


def _size(pixels: Tensor | PixelFile) -> str:
    return f"{pixels.shape[-1]}×{pixels.shape[-2]}"
