"""Images in any common form, .npz files and encoded pictures among them, as uint8 pixels `[N, C, H, W]`; resizing and
padding."""

from __future__ import annotations

import io
import itertools
import os
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from ..runtime import progress
from ..runtime.errors import InputError, unknown
from ..runtime.shapes import Pixels
from .dataset import RawData, Resize, Source, Split, Summary, checked_count, checked_labels, class_names
from .listing import text_of
from .selection import ClassChoice, kept_labels, renumbered
from .storage import StoredImages

Layout = Literal["NHWC", "NCHW"]
"""Channels last or first; only arrays need it, tensors are always `[N, C, H, W]`."""
ARRAY_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("images", "labels", "test_images", "test_labels"),
)
LAST_CHANNELS = 4
"""No image is so narrow, so a last axis of so few is not a width."""


def to_uint8(values: Tensor, where: str) -> Tensor:
    """The values as uint8, same shape: whole numbers 0..255 as they are, fractions in [0, 1] times 255, rounded.

    Raises InputError for anything else; float images in 0..255 or already normalised would be read wrongly.
    """
    if values.dtype == torch.uint8:
        return values
    if values.dtype == torch.bool or values.is_complex():
        raise InputError(f"The images of {where} are {values.dtype}; give uint8 0..255, or floats in [0, 1].")
    low, high = (float(values.min()), float(values.max())) if values.numel() else (0.0, 0.0)
    top = 1.0 if values.is_floating_point() else 255.0
    if not (low >= 0.0 and high <= top):
        kind = "Float" if values.is_floating_point() else "Integer"
        raise InputError(
            f"{kind} images of {where} lie in [{low:g}, {high:g}], not in [0, {top:g}]; undo their normalisation, or "
            f"give uint8."
        )
    return values.mul(255).round().to(torch.uint8) if values.is_floating_point() else values.to(torch.uint8)


def checked_layout(name: str) -> Layout:
    """The layout of that name. Raises InputError for any other than NHWC and NCHW."""
    found = next((layout for layout in get_args(Layout) if layout == name), None)
    if found is None:
        raise unknown("layout", name, get_args(Layout))
    return found


def from_array(array: Any, where: str, layout: Layout | None = None) -> Pixels:
    """Pixels of a numpy array: `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` with any number of channels, none of them
    dropped.

    Without a `layout`, the channels are the last axis or the one after N, whichever is shorter than both other axes of
    an image. Raises InputError where neither is (16 channels of 8×8), because it could be read both ways.
    """
    if array.dtype.kind not in "uif":
        raise InputError(f"The images of {where} are of type {array.dtype}; give uint8 0..255, or floats in [0, 1].")
    values = torch.from_numpy(
        np.ascontiguousarray(array.astype(np.int64) if array.dtype.kind in "ui" and array.dtype != np.uint8 else array)
    )
    if values.ndim == 3:
        values = values.unsqueeze(1)
    elif values.ndim != 4 or 0 in values.shape[1:]:
        raise InputError(
            f"The images of {where} have shape {tuple(array.shape)}; give [N, H, W], [N, H, W, C] or [N, C, H, W]."
        )
    elif (layout or _seen_layout(values, where)) == "NHWC":
        values = values.permute(0, 3, 1, 2)
    return to_uint8(values, where).contiguous()


def from_npz(path: Path) -> RawData:
    """The arrays of an .npz file: x_train, y_train and, if there, x_test, y_test (or images, labels); `classes` may
    name the classes.

    Images are uint8, or floats in [0, 1], `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` with any number of channels,
    all of which are kept; the channels are the axis that is shorter than height and width, or where `layout` ('NHWC' or
    'NCHW') in the file says. Nothing is unpickled.
    """
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} cannot be read as an .npz file, or is only a part of one; write it with numpy.savez.")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read as an .npz file of plain arrays ({error}); write it with numpy.savez."
        ) from error
    keys = next((keys for keys in ARRAY_KEYS if keys[0] in arrays and keys[1] in arrays), None)
    if keys is None:
        raise InputError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; it needs x_train and y_train (and x_test, y_test), or "
            f"images and labels."
        )
    names = [str(name) for name in arrays["classes"].tolist()] if "classes" in arrays else None
    classes = class_names(arrays[keys[1]], names, path.name)
    layout = checked_layout(str(arrays["layout"])) if "layout" in arrays else None
    train = _array_part(arrays[keys[0]], arrays[keys[1]], len(classes), layout, f"{path.name}, {keys[0]}")
    if (keys[2] in arrays) != (keys[3] in arrays):
        raise InputError(f"{path} holds only one of {keys[2]} and {keys[3]}; write both or neither.")
    test = (
        _array_part(arrays[keys[2]], arrays[keys[3]], len(classes), layout, f"{path.name}, {keys[2]}")
        if keys[2] in arrays
        else None
    )
    unread = [name for name in arrays if name not in (*keys, "classes", "layout")]
    summary = Summary(
        read=(f"arrays {', '.join(name for name in keys if name in arrays)}",),
        left_out=tuple(f"array {name}, which has no known name" for name in unread),
    )
    return RawData(path.stem, classes, train, test, summary)


def _array_part(images: Any, labels: Any, classes: int, layout: Layout | None, where: str) -> Split:
    return checked_count(from_array(images, where, layout), checked_labels(labels, classes, where), where)


def from_tensor(images: Tensor, where: str) -> Pixels:
    """Pixels of a tensor `[N, C, H, W]` with any number of channels, or `[N, H, W]`.

    Raises InputError for what was plainly meant as `[N, H, W, C]`: a last axis that is the shortest and either at most
    4 long, or behind two equal ones.
    """
    values = images.detach().to("cpu")
    values = values.unsqueeze(1) if values.ndim == 3 else values
    if values.ndim != 4:
        raise InputError(
            f"The images of {where} have shape {tuple(images.shape)}; give [N, C, H, W], or [N, H, W] for grey images."
        )
    first, middle, last = values.shape[1:]
    if last < min(first, middle) and (last <= LAST_CHANNELS or first == middle):
        raise InputError(
            f"The images of {where} have shape {tuple(images.shape)}, channels last; give images.permute(0, 3, 1, 2)."
        )
    return to_uint8(values, where).contiguous()


def _seen_layout(values: Tensor, where: str) -> Layout:
    first, middle, last = values.shape[1:]
    if last < min(first, middle):
        return "NHWC"
    if first < min(middle, last):
        return "NCHW"
    raise InputError(
        f"The images of {where} have shape {tuple(values.shape)}, which could be [N, H, W, C] or [N, C, H, W]; "
        "in an .npz file store layout='NHWC' or layout='NCHW' beside them, or give dataset_from_tensors a tensor [N, "
        "C, H, W]."
    )


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
    found = pixels.new_empty(*pixels.shape[:2], size, size)
    for start in range(0, len(pixels), CHUNK):
        block = pixels[start : start + CHUNK].to(torch.float32)
        block = torch.nn.functional.interpolate(block, size=(size, size), mode="bilinear", align_corners=False)
        found[start : start + CHUNK] = block.round().to(torch.uint8)
    return found


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
GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L")
"""Sixteen-bit grey; Pillow reads some of it into 32-bit integers."""


PARTS = {"train": "training part", "test": "test part"}
Sized = Callable[[Pixels], Pixels]


def in_memory(*shape: int) -> Pixels:
    """Room for images of `shape`, to be filled."""
    return torch.empty(shape, dtype=torch.uint8)


def decoded(source: Source, choice: ClassChoice, sized: Sized, allocator: Callable[..., Pixels] = in_memory) -> RawData:
    """The pixels of the chosen classes, all of one size and one number of channels (grey only if every picture is
    grey).

    `sized` changes the size of images `[N, C, H, W]`; `allocator(N, C, H, W)` makes the blocks of uint8 that they are
    written to.
    """
    kept = kept_labels(source.classes, choice)
    parts = {part: _decoded_part(source, part, kept, sized, allocator) for part in PARTS if part in source.labels}
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
    return RawData(source.name, tuple(source.classes[label] for label in kept), train, test, source.summary)


def picture_pixels(picture: Image.Image) -> UInt8[Tensor, "C H W"]:
    """The pixels of one picture, turned upright: one channel for grey modes, three for all others; transparency is
    dropped."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in DEEP_MODES:
        array = np.clip(np.asarray(upright, dtype=np.float64) / 257, 0, 255).round().astype(np.uint8)
    else:
        if upright.mode == "P" and "transparency" in upright.info:
            upright = upright.convert("RGBA")  # Pillow warns on the direct way
        array = np.array(upright.convert("L" if upright.mode in GREY_MODES else "RGB"))
    return torch.from_numpy(array).unsqueeze(0) if array.ndim == 2 else torch.from_numpy(array).permute(2, 0, 1)


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


def _decoded_part(
    source: Source, part: str, kept: Sequence[int], sized: Sized, allocator: Callable[..., Pixels]
) -> Split:
    name, chosen = f"{source.name} ({PARTS[part]})", renumbered(source.labels[part], kept)
    rows: list[int] = chosen.rows.tolist()
    if not rows:
        raise InputError(f"{name} holds no images of the classes asked for; choose others with --data.classes.")
    pictures = _pictures(source, part, rows, sized)
    pixels = stacked(pictures, len(rows), lambda place: source.where(part, rows[place]), allocator)
    return checked_count(pixels, chosen.labels, name)


def _pictures(source: Source, part: str, rows: list[int], sized: Sized) -> Iterator[UInt8[Tensor, "C H W"]]:
    """The pictures one after another. So many are fetched at once that their bytes stay near `FETCHED`, as far as those
    before tell."""
    with progress.bar("Decoding images", len(rows), unit="images") as bar:
        start, count, largest = 0, 1, 1
        while start < len(rows):
            chunk = rows[start : start + count]
            for row, data in zip(chunk, source.fetch(part, chunk), strict=True):
                largest = max(largest, len(data))
                yield sized(_decode(data, source.where(part, row)).unsqueeze(0))[0]
            bar.step(len(chunk))
            start, count = start + len(chunk), max(1, min(2 * count, CHUNK, FETCHED // largest))


def _decode(data: bytes, where: str) -> UInt8[Tensor, "C H W"]:
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MOST_PIXELS is the same bound
            with Image.open(stream, formats=readable_formats()) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise Image.DecompressionBombError
                return picture_pixels(picture)
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{where} has more than the {MOST_PIXELS:,} pixels that a picture may have; make it smaller or take it out."
        ) from error
    # what Pillow raises on broken files depends on the format
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        why = str(error).replace(f" {stream!r}", "")  # Pillow names the bytes' address, which nobody knows
        raise InputError(f"{where} cannot be read as an image ({why}); replace it or take it out.") from error


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
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InputError(f"{where} is a pipe, device or socket, not a picture file; take it out.")
            if found.st_size > LARGEST_FILE:
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
