"""`astdistill textures`: from a distilled set to pictures that can be laid side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ..flags import call
from ..folders import check_folder
from ..synthetic import load
from .textures import save_textures


def textures(words: list[str]) -> None:
    """Pictures of distilled textures that can be tiled."""
    call(_textures, words, "astdistill textures")


def _textures(path: Annotated[Path, tyro.conf.Positional], /, tile: int = 3, out: Path | None = None) -> None:
    """Write each distilled texture as a PNG whose opposite sides fit each other, and a sheet of them laid side by side.

    Args:
        path: A run folder made with --distill.canvas 2 or more, or the synthetic.safetensors of one.
        tile: How often the sheet shows each texture, across and down.
        out: Folder of the pictures; none means textures/ beside the set.
    """
    folder = out or (path if path.is_dir() else path.parent) / "textures"
    check_folder(folder, "--out")
    *written, sheet = save_textures(load(path), folder, tile)
    Console().print(f"Textures: {len(written)} in {folder}\nLook at:  {sheet}", highlight=False)
