"""The images of one run as the page shows them: tiles by class, and a sprite sheet for each frame, embedded in the
page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from ...data.synthetic import SyntheticSet
from ...distillation.snapshots import Frame
from ...runtime.text import display_name
from ..pictures import STRETCHED, colours, faint, stretched
from ..run import RunReader

BORDER = 1
"""Pixels of the border of each image, which repeats its outermost pixels, so that rounding in a browser does not show a
neighbouring image."""
QUALITIES = (95, 90, 85, 80, 75, 70, 60, 50, 40, 30, 20, 10)
LOSSLESS = 101


@dataclass(frozen=True)
class Sheets:
    """The frames that are shown, each with its sheet as a data URI, and the layout of a sheet."""

    frames: list[Frame]
    addresses: list[str]
    columns: int
    rows: int
    width: int
    height: int
    lossless: bool

    def position(self, index: int) -> tuple[int, int]:
        """Column and row of one image."""
        row, column = divmod(index, self.columns)
        return column, row


def sheets(frames: Sequence[Frame], budget: int) -> Sheets:
    """Sheets of the frames that take at most `budget` bytes in the page.

    They are lossless if that fits, otherwise of the best quality that fits, otherwise every second frame is left out,
    except for the first and the last. If the last frame is faint, the images of every frame are stretched.
    """
    shown, stretch = list(frames), is_faint(frames)
    columns = math.ceil(math.sqrt(len(shown[-1].pixels)))
    while True:
        pictures = [laid_out(to_rgb(frame.pixels, stretch), columns) for frame in shown]
        for quality in (LOSSLESS, *QUALITIES):
            # The last frame has the most detail: if frames of its size would be too large, the others are not encoded.
            if len(encoded(pictures[-1], quality)) * len(shown) * 4 / 3 > 1.1 * budget and quality != QUALITIES[-1]:
                continue
            addresses = [
                f"data:image/webp;base64,{base64.b64encode(encoded(each, quality)).decode()}" for each in pictures
            ]
            if sum(map(len, addresses)) <= budget or (len(shown) == 1 and quality == QUALITIES[-1]):
                rows, (height, width) = math.ceil(len(shown[-1].pixels) / columns), shown[-1].pixels.shape[-2:]
                return Sheets(shown, addresses, columns, rows, width, height, quality == LOSSLESS)
        shown = thinned(shown)


def is_faint(frames: Sequence[Frame]) -> bool:
    """Whether the last images have so little contrast that those of every frame are stretched."""
    return faint(frames[-1].pixels.float() / 255)


def thinned(frames: Sequence[Frame]) -> list[Frame]:
    """Every second frame, with the first and the last, or only the last if there are no more than two."""
    if len(frames) <= 2:
        return [frames[-1]]
    return [*frames[:-1:2], frames[-1]]


def to_rgb(pixels: UInt8[Tensor, "N C H W"], stretch: bool) -> UInt8[np.ndarray, "N H W 3"]:
    """The pixels of a frame as RGB, with each image stretched to its whole range if `stretch`."""
    images = pixels.float() / 255
    if stretch:
        images = stretched(images)
    return colours(images)


def laid_out(images: UInt8[np.ndarray, "N H W 3"], columns: int) -> UInt8[np.ndarray, "height width 3"]:
    """All images in rows of `columns`, each with its border."""
    framed = np.pad(images, ((0, 0), (BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="edge")
    rows = math.ceil(len(framed) / columns)
    padded = np.zeros((rows * columns, *framed.shape[1:]), dtype=np.uint8)
    padded[: len(framed)] = framed
    height, width = framed.shape[1:3]
    return (
        padded.reshape(rows, columns, height, width, 3)
        .transpose(0, 2, 1, 3, 4)
        .reshape(rows * height, columns * width, 3)
    )


def encoded(picture: UInt8[np.ndarray, "height width 3"], quality: int) -> bytes:
    """The picture as WebP, at a quality up to 100 or LOSSLESS."""
    from PIL import Image

    stream = io.BytesIO()
    lossless = quality == LOSSLESS
    if lossless:
        quality = 80  # for lossless files, the effort spent on a small size
    Image.fromarray(picture).save(stream, "WEBP", lossless=lossless, quality=quality, method=4)
    return stream.getvalue()


MOST_ACROSS = 10
"""Maximum number of tiles per row, unless there are hundreds."""
FEWEST, MANY = 20, 120
"""Up to these numbers of images, tiles are largest, or large on a desktop screen."""
LABELS, FEW = 5, 200
"""Number of classes listed for a soft label; above `FEW` images only three, because every frame has labels of its
own."""


@dataclass(frozen=True)
class Tile:
    """One image: its index in the set, its position in the sheet, and its name for screen readers."""

    index: int
    column: int
    row: int
    label: str


@dataclass(frozen=True)
class Gallery:
    """Tiles by class, the style that lays them out, and the data of the script. `start_style` lays out the same tiles
    of the first frame, if that is the start."""

    groups: list[tuple[str, list[Tile]]]
    single: bool
    large_tiles: bool
    style: str
    script: dict[str, Any]
    captions: list[str]
    note: str
    start_style: str | None


def gallery(run: RunReader, number: int, budget: int) -> Gallery | None:
    """The gallery of a run in at most `budget` bytes of pictures; None for a run without images."""
    if not run.frames or run.synthetic is None:
        return None
    classes = [display_name(name) for name in run.synthetic.classes]
    packed = sheets(run.frames, budget)
    count = len(packed.frames[-1].pixels)
    ipc = count // len(classes)
    tiles = [
        Tile(index, *packed.position(index), f"{classes[index // ipc]}, image {index % ipc + 1}")
        for index in range(count)
    ]
    captions = [f"iteration {frame.iteration:,}" for frame in packed.frames]
    if packed.frames[0].iteration == 0:
        captions[0] = f"initial, {captions[0]}"
    captions[-1] = f"{run.ending}, iteration {packed.frames[-1].iteration:,}"
    return Gallery(
        groups=[(name, tiles[label * ipc : (label + 1) * ipc]) for label, name in enumerate(classes)],
        single=ipc == 1,
        large_tiles=count <= FEWEST,
        style=_style(packed, count, ipc),
        script={
            "run": number,
            "sheets": packed.addresses[:-1],
            "captions": captions,
            "rates": [frame.lr for frame in packed.frames],
            "ipc": ipc,
            "classes": classes,
            "soft": _soft_labels(run.synthetic, packed.frames),
        },
        captions=captions,
        note=_note(ipc, run.synthetic, is_faint(run.frames), packed.lossless),
        start_style=_start_style(packed, count, ipc),
    )


def _start_style(packed: Sheets, count: int, ipc: int) -> str | None:
    """The style of the tiles that the distillation started from, without their sheet, which the script has; None if the
    first frame is not the start, or is the only one."""
    if len(packed.frames) < 2 or packed.frames[0].iteration != 0:
        return None
    sizes = 64, 64
    if count <= FEWEST:
        sizes = 96, 64
    per_row = _tiles_per_row(count, ipc)
    if ipc == 1:
        per_row = MOST_ACROSS
    return _layout(packed, sizes, per_row)


def _style(packed: Sheets, count: int, ipc: int) -> str:
    """CSS variables of the gallery: the sheet of its last frame, and the layout."""
    sizes = 64, 64
    if count <= FEWEST:
        sizes = 192, 96
    elif count <= MANY:
        sizes = 96, 64
    return f"--sheet:url({packed.addresses[-1]});{_layout(packed, sizes, _tiles_per_row(count, ipc))}"


def _layout(packed: Sheets, sizes: tuple[int, int], per_row: int) -> str:
    """CSS variables: the size of a sheet; the size of a tile on a desktop screen and on a phone, an integer multiple of
    the image's size near `sizes` CSS pixels; and the number of tiles per row."""
    large, small = (max(1, round(each / packed.width)) * packed.width for each in sizes)
    return (
        f"--width:{packed.width};--height:{packed.height};--border:{BORDER};"
        f"--columns:{packed.columns};--rows:{packed.rows};"
        f"--large:{large}px;--small:{small}px;--across:{per_row}"
    )


def _tiles_per_row(count: int, ipc: int) -> int:
    """Number of tiles per row."""
    if ipc == 1 and count <= FEWEST:
        return 5
    if ipc == 1:
        return MOST_ACROSS
    if count <= MANY:
        return min(ipc, MOST_ACROSS)
    if ipc <= 10:
        return min(ipc, 5)
    return min(ipc, 15)


def _soft_labels(synthetic: SyntheticSet, frames: Sequence[Frame]) -> list[list[list[list[int]]]] | None:
    """The most probable classes of every image in every frame; None if labels are hard."""
    if synthetic.labels == "hard":
        return None
    count = 3
    if len(frames[-1].pixels) <= FEW:
        count = LABELS
    return [_likely_classes(frame, count) for frame in frames]


def _likely_classes(frame: Frame, count: int) -> list[list[list[int]]]:
    """For every image its most probable classes with rounded percentages; a class below half a percent is left out."""
    values, labels = frame.probabilities.topk(min(count, frame.probabilities.shape[1]), dim=1)
    return [
        [[label, round(100 * value)] for label, value in zip(*pair, strict=True) if value >= 0.005]
        for pair in zip(labels.tolist(), values.tolist(), strict=True)
    ]


def _note(shown_ipc: int, synthetic: SyntheticSet, stretch: bool, lossless: bool) -> str:
    notes = []
    if shown_ipc != synthetic.ipc:
        notes.append(f"The first {shown_ipc} of {synthetic.ipc} images of each class.")
    if synthetic.canvas > 1:
        crops = "a random crop"
        if synthetic.canvas_samples > 1:
            crops = f"{synthetic.canvas_samples} random crops"
        notes.append(
            f"Textures, {synthetic.canvas} times as high and wide as an image; networks see {crops} of each in a step."
        )
    if stretch:
        notes.append(f"{STRETCHED}.")
    if not lossless:
        notes.append("Compressed for this page; the exact images are in the run’s synthetic.safetensors.")
    return " ".join(notes)
