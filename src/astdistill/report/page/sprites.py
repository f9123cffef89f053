"""Many small images as few files: one sprite sheet a frame, written into the page, lossless where that is small enough."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from ...distillation.course import Frame

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

    Lossless if that fits, else the best quality that does, else every second frame is left out, never the first or the last.
    """
    shown = list(frames)
    columns = math.ceil(math.sqrt(len(shown[-1].pixels)))
    while True:
        pictures = [laid_out(colours(frame.pixels), columns) for frame in shown]
        for quality in (LOSSLESS, *QUALITIES):
            # The last frame is the busiest: where it alone promises too much, the others need not be tried.
            if len(encoded(pictures[-1], quality)) * len(shown) * 4 / 3 > 1.1 * budget and quality != QUALITIES[-1]:
                continue
            addresses = [f"data:image/webp;base64,{base64.b64encode(encoded(each, quality)).decode()}" for each in pictures]
            if sum(map(len, addresses)) <= budget or (len(shown) == 1 and quality == QUALITIES[-1]):
                rows, (height, width) = math.ceil(len(shown[-1].pixels) / columns), shown[-1].pixels.shape[-2:]
                return Sheets(shown, addresses, columns, rows, width, height, quality == LOSSLESS)
        shown = thinned(shown)


def thinned(frames: Sequence[Frame]) -> list[Frame]:
    """Every second frame, with the first and the last, or the last alone where there are no others."""
    return [*frames[:-1:2], frames[-1]] if len(frames) > 2 else [frames[-1]]


def colours(pixels: UInt8[Tensor, "N C H W"]) -> UInt8[np.ndarray, "N H W 3"]:
    """Pixels of any number of channels in red, green and blue: three as they are, others as the grey mean over their channels."""
    grey = pixels if pixels.shape[1] == 3 else pixels.float().mean(dim=1, keepdim=True).round().byte().expand(-1, 3, -1, -1)
    return grey.permute(0, 2, 3, 1).contiguous().numpy()


def laid_out(images: UInt8[np.ndarray, "N H W 3"], columns: int) -> UInt8[np.ndarray, "height width 3"]:
    """All images in rows of `columns`, each with its border."""
    framed = np.pad(images, ((0, 0), (BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="edge")
    rows = math.ceil(len(framed) / columns)
    whole = np.zeros((rows * columns, *framed.shape[1:]), dtype=np.uint8)
    whole[: len(framed)] = framed
    height, width = framed.shape[1:3]
    return whole.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)


def encoded(picture: UInt8[np.ndarray, "height width 3"], quality: int) -> bytes:
    """The picture as WebP, at a quality up to 100 or LOSSLESS."""
    from PIL import Image

    stream = io.BytesIO()
    lossless = quality == LOSSLESS
    Image.fromarray(picture).save(stream, "WEBP", lossless=lossless, quality=80 if lossless else quality, method=4)
    return stream.getvalue()
