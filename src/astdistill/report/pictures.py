"""Distilled images as pictures, with whitening undone and every pixel as a sharp square; textures as files that can be
tiled."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from ..data.synthetic import SyntheticSet
from ..runtime.errors import InputError
from ..runtime.files import replacing
from ..runtime.shapes import Images
from ..runtime.text import display_name, file_name
from .figures import INK, blank, save, unwarned

DPI = 100
MARGIN, GAP, BETWEEN = 16, 3, 14
"""Output pixels around everything, between images, between classes."""
IMAGE_SIZES = (20, 128), (200, 96), (math.inf, 56)
"""Approximate width of an image in output pixels, by the maximum number of images."""
LONGEST_STRIP = 10
"""Maximum number of images of one class in a line."""
SMALLEST_FONT, LARGEST_FONT = 8.0, 13.0
FAINT = 0.25
"""Fraction of the range from black to white. If all images of a set have less contrast, they are stretched to be
visible."""
STRETCHED = "These images have hardly any contrast: each is shown from its smallest value, black, to its largest, white"


@dataclass(frozen=True)
class Layout:
    """Positions in output pixels from the top left. A strip holds the images of one class and its name.

    `label_left` and `label_top` are the space for the name; one of them is 0.
    """

    cell: int
    strip_columns: int
    strip_rows: int
    columns: int
    rows: int
    label_left: int
    label_top: int

    @property
    def strip_width(self) -> int:
        return self.label_left + self.strip_columns * (self.cell + GAP) - GAP

    @property
    def strip_height(self) -> int:
        return self.label_top + self.strip_rows * (self.cell + GAP) - GAP

    @property
    def between_rows(self) -> int:
        """The space between rows. Classes with one line of images each may be as close as images are."""
        if self.label_left and self.strip_rows == 1:
            return GAP
        return BETWEEN

    @property
    def width(self) -> int:
        return 2 * MARGIN + self.columns * (self.strip_width + BETWEEN) - BETWEEN

    @property
    def height(self) -> int:
        return 2 * MARGIN + self.rows * (self.strip_height + self.between_rows) - self.between_rows

    def strip(self, label: int) -> tuple[int, int]:
        """Left and top of the strip of one class."""
        row, column = divmod(label, self.columns)
        return MARGIN + column * (self.strip_width + BETWEEN), MARGIN + row * (self.strip_height + self.between_rows)

    def image(self, label: int, index: int) -> tuple[int, int]:
        """Left and top of one image."""
        left, top = self.strip(label)
        row, column = divmod(index, self.strip_columns)
        return left + self.label_left + column * (self.cell + GAP), top + self.label_top + row * (self.cell + GAP)


def save_grid(synthetic: SyntheticSet, path: str | Path, columns: int | None = None, tiles: int = 1) -> None:
    """Write all images of the set as one PNG, grouped by class, under the class's name or (several per class) next to
    it.

    One channel is shown grey, three as RGB, any other number as the grey mean over its channels. Whitening is undone,
    and pixels are clipped and enlarged by an integer factor without smoothing. If no image has more contrast than
    FAINT, as in sets of images of unit norm, each is stretched to its whole range, and the picture says so. `columns`
    is the number of classes per row; None chooses it. Each image is shown `tiles` × `tiles` times without a gap, to
    show textures. Raises InputError for `columns` below 1.
    """
    if columns is not None and columns < 1:
        raise InputError(f"{columns} columns were asked for; give at least 1, or leave it out.")
    pixels = synthetic.pixels()
    note = STRETCHED if faint(pixels) else ""
    save_labelled(visible(pixels).repeat(1, 1, tiles, tiles), synthetic.classes, path, columns, note)


def visible(pixels: Images) -> Images:
    """Images in [0, 1] for display: those of a faint set are each stretched to their whole range."""
    return stretched(pixels) if faint(pixels) else pixels


def faint(pixels: Images) -> bool:
    """Whether no image has more contrast than FAINT, and at least one has some: then almost nothing is visible."""
    contrast = float((pixels.amax(dim=(1, 2, 3)) - pixels.amin(dim=(1, 2, 3))).max())
    return 0 < contrast < FAINT


def stretched(images: Images) -> Images:
    """Each image from its smallest value, black, to its largest, white; one of a single value is black."""
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(torch.finfo(images.dtype).tiny)


def save_labelled(
    pixels: Images, classes: Sequence[str], path: str | Path, columns: int | None = None, note: str = ""
) -> None:
    """Write a PNG of any images in [0, 1] without stretching them. They are grouped by class, with equally many images
    of each of `classes`; `note` is one line below them."""
    names, ipc = [display_name(name) for name in classes], len(pixels) // len(classes)
    layout = arrange(
        len(names), ipc, max(pixels.shape[-2:]), max(_text_width(name, LARGEST_FONT) for name in names), columns
    )
    _draw(_sheet(pixels, layout, ipc), names, layout, Path(path), note)


def save_picture(pixels: UInt8[np.ndarray, "H W 3"], path: Path) -> None:
    """Write one image as PNG at its own size, atomically; grey images have a single channel."""
    from PIL import Image

    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def sheet(pixels: Images, ipc: int) -> UInt8[np.ndarray, "height width 3"]:
    """The images in [0, 1] on one white sheet, class after class, without names."""
    return _sheet(pixels, arrange(len(pixels) // ipc, ipc, max(pixels.shape[-2:]), 0.0), ipc)


def arrange(classes: int, ipc: int, size: int, name_width: float, columns: int | None = None) -> Layout:
    """The layout of `classes` × `ipc` images of `size` pixels; `name_width` is the width of the longest name at the
    largest font, in output pixels."""
    target = next(width for most, width in IMAGE_SIZES if classes * ipc <= most)
    cell = size * max(1, round(target / size))
    strip = min(ipc, LONGEST_STRIP)
    left, top = math.ceil(name_width) + 12, 0
    if ipc == 1:
        left, top = 0, 22

    def with_columns(count: int) -> Layout:
        return Layout(cell, strip, math.ceil(ipc / strip), count, math.ceil(classes / count), left, top)

    if columns is not None:
        return with_columns(min(columns, classes))
    counts = [count for count in range(1, classes + 1) if classes % count == 0]
    if not any(0.6 <= with_columns(count).width / with_columns(count).height <= 2.6 for count in counts):
        counts = list(range(1, classes + 1))
    return min(map(with_columns, counts), key=lambda layout: abs(math.log(layout.width / layout.height / 1.3)))


def colours(pixels: Images) -> UInt8[np.ndarray, "N H W 3"]:
    """Images in [0, 1] as 8-bit RGB: one channel grey, three as they are, any other number as their grey mean."""
    if pixels.shape[1] != 3:
        pixels = pixels.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    return pixels.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def _sheet(pixels: Images, layout: Layout, ipc: int) -> UInt8[np.ndarray, "height width 3"]:
    sheet = np.full((layout.height, layout.width, 3), 255, dtype=np.uint8)
    factor = layout.cell // max(pixels.shape[-2:])
    for index, image in enumerate(colours(pixels)):
        left, top = layout.image(*divmod(index, ipc))
        large = image.repeat(factor, axis=0).repeat(factor, axis=1)
        sheet[top : top + large.shape[0], left : left + large.shape[1]] = large
    return sheet


def _draw(
    sheet: UInt8[np.ndarray, "height width 3"], names: Sequence[str], layout: Layout, path: Path, note: str
) -> None:
    figure = blank((layout.width + 0.01) / DPI, (layout.height + 0.01) / DPI, DPI, laid_out=False)
    figure.figimage(sheet, 0, 0, origin="upper")
    for label, name in enumerate(names):
        left, top = layout.strip(label)
        if layout.label_left:
            x, y, alignment = left + layout.label_left - 9, top + layout.strip_height / 2, "right"
        else:
            x, y, alignment = left + layout.cell / 2, top + layout.label_top / 2 - 1, "center"
        text, size = _fit_text(name, layout.label_left or layout.cell + BETWEEN - 4)
        figure.text(
            x / layout.width,
            1 - y / layout.height,
            text,
            fontsize=size * 72 / DPI,
            ha=alignment,
            va="center_baseline",
            color=INK,
            parse_math=False,
        )
    if note:
        text, size = _fit_text(note, layout.width - 2 * MARGIN)
        left, middle = MARGIN / layout.width, MARGIN / 2 / layout.height
        figure.text(left, middle, text, fontsize=min(size, 10.5) * 72 / DPI, va="center_baseline", color=INK)
    save(figure, path)


def _fit_text(name: str, width: float) -> tuple[str, float]:
    """The name and its font size in output pixels: smaller if needed, and shortened if that is not enough."""
    size = min(LARGEST_FONT, LARGEST_FONT * width / max(1.0, _text_width(name, LARGEST_FONT)))
    if size >= SMALLEST_FONT:
        return name, size
    fits = bisect_right(range(len(name)), width, lo=1, key=lambda count: _text_width(f"{name[:count]}…", SMALLEST_FONT))
    return f"{name[: max(2, fits - 1)].rstrip()}…", SMALLEST_FONT


@lru_cache(maxsize=4096)  # names are measured repeatedly to find what fits
def _text_width(text: str, size: float) -> float:
    """Output pixels that `text` takes at a font of `size` output pixels."""
    from matplotlib.textpath import TextPath

    with unwarned():
        path = TextPath((0, 0), text or " ", size=size, usetex=False)
    if not len(path.vertices):  # nothing is visible
        return 0.0
    return float(path.get_extents().width)


def save_textures(synthetic: SyntheticSet, folder: str | Path, tiles: int = 3) -> list[Path]:
    """Write `folder`/<class number>-<class>-<number>.png for every canvas, and `tiled.png`. Returns the paths, that of
    `tiled.png` last.

    A texture has k H × k W pixels of 8 bits, with whitening undone, and its opposite sides fit each other. `tiled.png`
    shows each one `tiles` × `tiles` times, under its class's name. Raises InputError, with nothing written, for
    ordinary images and for `tiles` below 1.
    """
    if synthetic.canvas == 1:
        raise InputError(
            "The set holds ordinary images, whose opposite edges do not match; "
            "distil textures: astdistill run PRESET --distill.canvas 2"
        )
    if tiles < 1:
        raise InputError(f"--tile {tiles} was given; choose 1 or more, for example --tile 3.")
    folder, digits = Path(folder), len(str(len(synthetic.classes) - 1))
    written: list[Path] = []
    for index, pixels in enumerate(colours(synthetic.pixels())):
        label, number = divmod(index, synthetic.ipc)
        written.append(folder / f"{label:0{digits}}-{file_name(synthetic.classes[label])}-{number}.png")
        save_picture(pixels, written[-1])
    save_grid(synthetic, folder / "tiled.png", tiles=tiles)
    return [*written, folder / "tiled.png"]
