"""`astdistill report` and `astdistill textures`: runs as one HTML file, and textures as pictures that can be tiled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ..data.synthetic import load
from ..report.page.page import save_page
from ..report.pictures import save_textures
from ..runtime.errors import InputError
from ..runtime.files import check_folder
from ..runtime.run_dir import RunDir
from .flags import call


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
    folder = out or RunDir.around(path).textures
    check_folder(folder, "--out")
    *written, sheet = save_textures(load(path), folder, tile)
    Console().print(f"Textures: {len(written)} in {folder}\nLook at:  {sheet}", highlight=False)


def report(words: list[str]) -> None:
    """Parse the words, write the page, say where it is."""
    call(_report, words, "astdistill report")


def _report(runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = (), /, out: Path | None = None) -> None:
    """Write one HTML file that shows runs: images, accuracy, course, experts, settings; it needs no network and no
    other file.

    Args:
        runs: Run folders; several stand side by side.
        out: The file; none means report.html in the folder of a single run, or here.
    """
    file = out or (RunDir(runs[0] if len(runs) == 1 else Path()).page)
    if file.is_dir():
        raise InputError(f"--out {file} is a folder; name a file in it: --out {RunDir(file).page}")
    check_folder(file, "--out", file=True)
    save_page(runs, file)
    Console().print(f"Open: {file}", highlight=False)
