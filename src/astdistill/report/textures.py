"""Distilled textures as files: one PNG a canvas, to be laid side by side without a seam, and a sheet that shows it."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..synthetic import SyntheticSet
from .pictures import colours, file_name, save_grid, save_picture


def save_textures(synthetic: SyntheticSet, folder: str | Path, tiles: int = 3) -> list[Path]:
    """Write `folder`/<class number>-<class>-<number>.png for every canvas, and `tiled.png`; the paths, the sheet last.

    A texture is k H × k W pixels of 8 bits, with whitening undone, and its opposite sides fit each other. The sheet shows each one
    `tiles` × `tiles` times, under its class's name. Raises InputError, with nothing written, for ordinary images and for `tiles` below 1.
    """
    if synthetic.canvas == 1:
        raise InputError(
            "The set holds ordinary images, whose sides do not fit each other; distil textures: astdistill run PRESET --distill.canvas 2"
        )
    if tiles < 1:
        raise InputError(f"Textures were to be laid {tiles} × {tiles} times side by side; give at least 1, for example --tile 3.")
    folder, digits = Path(folder), len(str(len(synthetic.classes) - 1))
    written: list[Path] = []
    for index, pixels in enumerate(colours(synthetic.pixels())):
        label, number = divmod(index, synthetic.ipc)
        written.append(folder / f"{label:0{digits}}-{file_name(synthetic.classes[label])}-{number}.png")
        save_picture(pixels, written[-1])
    save_grid(synthetic, folder / "tiled.png", tiles=tiles)
    return [*written, folder / "tiled.png"]
