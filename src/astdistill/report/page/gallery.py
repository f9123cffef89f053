"""The images of one run as the page shows them: tiles by class, and a sprite sheet for each frame, written into the
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
from ...runtime.text import shown_name
from ..pictures import STRETCHED, colours, faint, stretched
from ..run import RunReader

BORDER = 1
"""Every image is framed by copies of its outermost pixels, so that no browser's rounding shows a neighbour's."""
QUALITIES = (95, 90, 85, 80, 75, 70, 60, 50, 40, 30, 20, 10)
LOSSLESS = 101


@dataclass(frozen=True)
class Sheets:
    """The frames that are shown, each with its sheet as a data URI, and how a sheet is laid out."""

    frames: list[Frame]
    addresses: list[str]
    columns: int
    rows: int
    width: int
    height: int
    lossless: bool

    def place(self, index: int) -> tuple[int, int]:
        """Column and row of one image."""
        row, column = divmod(index, self.columns)
        return column, row


def sheets(frames: Sequence[Frame], budget: int) -> Sheets:
    """Sheets of the frames that take at most `budget` bytes in the page.

    Lossless if that fits, else the best quality that does, else every second frame is left out, never the first or the
    last. Where the last frame is faint the images of every frame are stretched.
    """
    shown, stretch = list(frames), is_faint(frames)
    columns = math.ceil(math.sqrt(len(shown[-1].pixels)))
    while True:
        pictures = [laid_out(shown_colours(frame.pixels, stretch), columns) for frame in shown]
        for quality in (LOSSLESS, *QUALITIES):
            # The last frame is the busiest: where it alone promises too much, the others need not be tried.
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
    """Every second frame, with the first and the last, or the last alone where there are no others."""
    if len(frames) <= 2:
        return [frames[-1]]
    return [*frames[:-1:2], frames[-1]]


def shown_colours(pixels: UInt8[Tensor, "N C H W"], stretch: bool) -> UInt8[np.ndarray, "N H W 3"]:
    """The pixels of a frame in red, green and blue, each image stretched to its whole range where `stretch` says so."""
    images = pixels.float() / 255
    if stretch:
        images = stretched(images)
    return colours(images)


def laid_out(images: UInt8[np.ndarray, "N H W 3"], columns: int) -> UInt8[np.ndarray, "height width 3"]:
    """All images in rows of `columns`, each with its border."""
    framed = np.pad(images, ((0, 0), (BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="edge")
    rows = math.ceil(len(framed) / columns)
    whole = np.zeros((rows * columns, *framed.shape[1:]), dtype=np.uint8)
    whole[: len(framed)] = framed
    height, width = framed.shape[1:3]
    return (
        whole.reshape(rows, columns, height, width, 3)
        .transpose(0, 2, 1, 3, 4)
        .reshape(rows * height, columns * width, 3)
    )


def encoded(picture: UInt8[np.ndarray, "height width 3"], quality: int) -> bytes:
    """The picture as WebP, at a quality up to 100 or LOSSLESS."""
    from PIL import Image

    stream = io.BytesIO()
    lossless = quality == LOSSLESS
    if lossless:
        quality = 80  # then it says how long to look for a small file
    Image.fromarray(picture).save(stream, "WEBP", lossless=lossless, quality=quality, method=4)
    return stream.getvalue()


MOST_ACROSS = 10
"""Tiles side by side where there are not hundreds."""
FEWEST, MANY = 20, 120
"""Up to so many images are shown largest, and up to so many are shown large on a desk."""
LABELS, FEW = 5, 200
"""Classes named of a soft label; above so many images only three, because every frame has its own."""


@dataclass(frozen=True)
class Tile:
    """One image: its number in the set, its place in the sheet, and the name it is read out by."""

    index: int
    column: int
    row: int
    told: str


@dataclass(frozen=True)
class Gallery:
    """Tiles by class, the style that lays them out, and the data of the script; `start_style` lays out the same tiles
    of the first frame, where that is the start."""

    groups: list[tuple[str, list[Tile]]]
    single: bool
    few: bool
    style: str
    script: dict[str, Any]
    captions: list[str]
    note: str
    start_style: str | None


def gallery(run: RunReader, number: int, budget: int) -> Gallery | None:
    """The gallery of a run in at most `budget` bytes of pictures; None for a run without images."""
    if not run.frames or run.synthetic is None:
        return None
    classes = [shown_name(name) for name in run.synthetic.classes]
    written = sheets(run.frames, budget)
    count = len(written.frames[-1].pixels)
    ipc = count // len(classes)
    tiles = [
        Tile(index, *written.place(index), f"{classes[index // ipc]}, image {index % ipc + 1}")
        for index in range(count)
    ]
    captions = [f"iteration {frame.iteration:,}" for frame in written.frames]
    if written.frames[0].iteration == 0:
        captions[0] = f"initial, {captions[0]}"
    captions[-1] = f"{run.ending}, iteration {written.frames[-1].iteration:,}"
    return Gallery(
        groups=[(name, tiles[label * ipc : (label + 1) * ipc]) for label, name in enumerate(classes)],
        single=ipc == 1,
        few=count <= FEWEST,
        style=_style(written, count, ipc),
        script={
            "run": number,
            "sheets": written.addresses[:-1],
            "captions": captions,
            "rates": [frame.lr for frame in written.frames],
            "ipc": ipc,
            "classes": classes,
            "soft": _soft_labels(run.synthetic, written.frames),
        },
        captions=captions,
        note=_note(ipc, run.synthetic, is_faint(run.frames), written.lossless),
        start_style=_start_style(written, count, ipc),
    )


def _start_style(written: Sheets, count: int, ipc: int) -> str | None:
    """The style of the tiles that the distillation started from, without their sheet, which the script has; None where
    the first frame is not the start, or the only one."""
    if len(written.frames) < 2 or written.frames[0].iteration != 0:
        return None
    wanted = 64, 64
    if count <= FEWEST:
        wanted = 96, 64
    across = _across(count, ipc)
    if ipc == 1:
        across = MOST_ACROSS
    return _layout(written, wanted, across)


def _style(shown: Sheets, count: int, ipc: int) -> str:
    """CSS variables of the gallery: the sheet of its last frame, and the layout."""
    wanted = 64, 64
    if count <= FEWEST:
        wanted = 192, 96
    elif count <= MANY:
        wanted = 96, 64
    return f"--sheet:url({shown.addresses[-1]});{_layout(shown, wanted, _across(count, ipc))}"


def _layout(shown: Sheets, wanted: tuple[int, int], across: int) -> str:
    """CSS variables: a sheet's size, the tile's on a desk and on a phone, in whole multiples of the image's own pixels,
    about as many CSS pixels as `wanted`, and how many tiles stand side by side."""
    large, small = (max(1, round(each / shown.width)) * shown.width for each in wanted)
    return (
        f"--width:{shown.width};--height:{shown.height};--border:{BORDER};"
        f"--columns:{shown.columns};--rows:{shown.rows};"
        f"--large:{large}px;--small:{small}px;--across:{across}"
    )


def _across(count: int, ipc: int) -> int:
    """How many tiles stand side by side."""
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
    """The most probable classes of every image in every frame; None where labels are hard."""
    if synthetic.labels == "hard":
        return None
    most = 3
    if len(frames[-1].pixels) <= FEW:
        most = LABELS
    return [_soft(frame, most) for frame in frames]


def _soft(frame: Frame, most: int) -> list[list[list[int]]]:
    """For every image its most probable classes with percent, rounded; a class below half a percent is left out."""
    values, places = frame.probabilities.topk(min(most, frame.probabilities.shape[1]), dim=1)
    return [
        [[place, round(100 * value)] for place, value in zip(*both, strict=True) if value >= 0.005]
        for both in zip(places.tolist(), values.tolist(), strict=True)
    ]


def _note(shown: int, synthetic: SyntheticSet, stretch: bool, lossless: bool) -> str:
    words = []
    if shown != synthetic.ipc:
        words.append(f"The first {shown} of {synthetic.ipc} images of each class.")
    if synthetic.canvas > 1:
        crops = "a random crop"
        if synthetic.canvas_samples > 1:
            crops = f"{synthetic.canvas_samples} random crops"
        words.append(
            f"Textures, {synthetic.canvas} times as high and wide as an image; networks see {crops} of each in a step."
        )
    if stretch:
        words.append(f"{STRETCHED}.")
    if not lossless:
        words.append("Compressed for this page; the exact images are in the run’s synthetic.safetensors.")
    return " ".join(words)
