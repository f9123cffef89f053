"""The distilled images as pictures: whitening undone, every pixel a crisp square; and textures as files to be tiled."""

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
from ..runtime.text import file_name, shown_name
from .figures import INK, blank, save, unwarned

DPI = 100
MARGIN, GAP, BETWEEN = 16, 3, 14
"""Output pixels around everything, between images, between classes."""
IMAGE_SIZES = (20, 128), (200, 96), (math.inf, 56)
"""About how many output pixels an image is wide, by how many images there are at most."""
LONGEST_STRIP = 10
"""Images of one class side by side before the next line."""
SMALLEST_FONT, LARGEST_FONT = 8.0, 13.0
FAINT = 0.25
"""Of the range from black to white: a set whose images all have less contrast is stretched to be seen."""
STRETCHED = "These images have hardly any contrast: each is shown from its smallest value, black, to its largest, white"


@dataclass(frozen=True)
class Layout:
    """Where everything lies, in output pixels from the top left; a strip holds the images of one class and its name.

    `label_left` and `label_top` are the room for the name; one of them is 0.
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
        """Classes of one line of images each may stand as close as images do."""
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
    """Write all images of the set as one PNG, grouped by class, under the class's name or (several per class) beside
    it.

    One channel is shown grey, three as RGB, any other number as the grey mean over its channels. Pixels are undone from
    whitening, clipped, and enlarged by a whole factor without smoothing. Where no image has more contrast than FAINT,
    as those of unit norm, each is stretched to its whole range, and the picture says so. `columns` is how many classes
    stand side by side; None chooses. Each image is shown `tiles` × `tiles` times without a gap, as textures are laid.
    Raises InputError for `columns` below 1.
    """
    if columns is not None and columns < 1:
        raise InputError(f"{columns} columns were asked for; give at least 1, or leave it out.")
    pixels = synthetic.pixels()
    note = STRETCHED if faint(pixels) else ""
    save_labelled(visible(pixels).repeat(1, 1, tiles, tiles), synthetic.classes, path, columns, note)


def visible(pixels: Images) -> Images:
    """Images in [0, 1] as people can see them: of a faint set each is stretched to its whole range."""
    return stretched(pixels) if faint(pixels) else pixels


def faint(pixels: Images) -> bool:
    """Whether no image has more contrast than FAINT, and one at least has some: next to nothing can be seen of them."""
    contrast = float((pixels.amax(dim=(1, 2, 3)) - pixels.amin(dim=(1, 2, 3))).max())
    return 0 < contrast < FAINT


def stretched(images: Images) -> Images:
    """Each image from its smallest value, black, to its largest, white; one of a single value is black."""
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(torch.finfo(images.dtype).tiny)


def save_labelled(
    pixels: Images, classes: Sequence[str], path: str | Path, columns: int | None = None, note: str = ""
) -> None:
    """The same of any images in [0, 1], as they are, as many of each of `classes`, grouped by class; `note` is one line
    below them."""
    names, ipc = [shown_name(name) for name in classes], len(pixels) // len(classes)
    layout = arrange(
        len(names), ipc, max(pixels.shape[-2:]), max(_text_width(name, LARGEST_FONT) for name in names), columns
    )
    _draw(_sheet(pixels, layout, ipc), names, layout, Path(path), note)


def save_picture(pixels: UInt8[np.ndarray, "H W 3"], path: Path) -> None:
    """Write one image as PNG at its own size, whole or not at all; grey ones of a single channel."""
    from PIL import Image

    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def sheet(pixels: Images, ipc: int) -> UInt8[np.ndarray, "height width 3"]:
    """The images in [0, 1] on one white sheet, class after class, without names."""
    return _sheet(pixels, arrange(len(pixels) // ipc, ipc, max(pixels.shape[-2:]), 0.0), ipc)


def arrange(classes: int, ipc: int, size: int, name_width: float, columns: int | None = None) -> Layout:
    """Where `classes` × `ipc` images of `size` pixels go; `name_width` is the longest name at the largest font, in
    output pixels."""
    wanted = next(width for most, width in IMAGE_SIZES if classes * ipc <= most)
    cell = size * max(1, round(wanted / size))
    strip = min(ipc, LONGEST_STRIP)
    left, top = math.ceil(name_width) + 12, 0
    if ipc == 1:
        left, top = 0, 22

    def with_columns(count: int) -> Layout:
        return Layout(cell, strip, math.ceil(ipc / strip), count, math.ceil(classes / count), left, top)

    if columns is not None:
        return with_columns(min(columns, classes))
    even = [count for count in range(1, classes + 1) if classes % count == 0]
    if not any(0.6 <= with_columns(count).width / with_columns(count).height <= 2.6 for count in even):
        even = list(range(1, classes + 1))
    return min(map(with_columns, even), key=lambda layout: abs(math.log(layout.width / layout.height / 1.3)))


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
            x, y, across = left + layout.label_left - 9, top + layout.strip_height / 2, "right"
        else:
            x, y, across = left + layout.cell / 2, top + layout.label_top / 2 - 1, "center"
        text, size = _fitting(name, layout.label_left or layout.cell + BETWEEN - 4)
        figure.text(
            x / layout.width,
            1 - y / layout.height,
            text,
            fontsize=size * 72 / DPI,
            ha=across,
            va="center_baseline",
            color=INK,
            parse_math=False,
        )
    if note:
        text, size = _fitting(note, layout.width - 2 * MARGIN)
        left, middle = MARGIN / layout.width, MARGIN / 2 / layout.height
        figure.text(left, middle, text, fontsize=min(size, 10.5) * 72 / DPI, va="center_baseline", color=INK)
    save(figure, path)


def _fitting(name: str, room: float) -> tuple[str, float]:
    """The name and its font size in output pixels: smaller where it must be, and cut short where that is not enough."""
    size = min(LARGEST_FONT, LARGEST_FONT * room / max(1.0, _text_width(name, LARGEST_FONT)))
    if size >= SMALLEST_FONT:
        return name, size
    fits = bisect_right(range(len(name)), room, lo=1, key=lambda count: _text_width(f"{name[:count]}…", SMALLEST_FONT))
    return f"{name[: max(2, fits - 1)].rstrip()}…", SMALLEST_FONT


@lru_cache(maxsize=4096)  # names are measured again and again to find what fits
def _text_width(text: str, size: float) -> float:
    """Output pixels that `text` takes at a font of `size` output pixels."""
    from matplotlib.textpath import TextPath

    with unwarned():
        path = TextPath((0, 0), text or " ", size=size, usetex=False)
    if not len(path.vertices):  # nothing to be seen
        return 0.0
    return float(path.get_extents().width)


def save_textures(synthetic: SyntheticSet, folder: str | Path, tiles: int = 3) -> list[Path]:
    """Write `folder`/<class number>-<class>-<number>.png for every canvas, and `tiled.png`; the paths, the sheet last.

    A texture is k H × k W pixels of 8 bits, with whitening undone, and its opposite sides fit each other. The sheet
    shows each one `tiles` × `tiles` times, under its class's name. Raises InputError, with nothing written, for
    ordinary images and for `tiles` below 1.
    """
    if synthetic.canvas == 1:
        raise InputError(
            "The set holds ordinary images, whose sides do not fit each other; "
            "distil textures: astdistill run PRESET --distill.canvas 2"
        )
    if tiles < 1:
        raise InputError(
            f"Textures were to be laid {tiles} × {tiles} times side by side; give at least 1, for example --tile 3."
        )
    folder, digits = Path(folder), len(str(len(synthetic.classes) - 1))
    written: list[Path] = []
    for index, pixels in enumerate(colours(synthetic.pixels())):
        label, number = divmod(index, synthetic.ipc)
        written.append(folder / f"{label:0{digits}}-{file_name(synthetic.classes[label])}-{number}.png")
        save_picture(pixels, written[-1])
    save_grid(synthetic, folder / "tiled.png", tiles=tiles)
    return [*written, folder / "tiled.png"]
