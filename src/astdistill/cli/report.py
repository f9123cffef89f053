"""`astdistill report` and `astdistill textures`: runs as one HTML file, and textures as PNG files that can be tiled."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from ..runtime.config import Record
from ..runtime.errors import InputError
from ..runtime.files import check_folder, check_regular
from ..runtime.run_dir import RunDir
from ..runtime.terminal import Terminal
from .commands import command
from .flags import Word


class Textures(Record):
    """Write each distilled texture as a PNG file that can be tiled without a seam, and a sheet of tiled textures."""

    path: Annotated[Path, Word(positional=True)]
    """A run folder made with --distill.canvas 2 or more, or its synthetic.safetensors."""
    tile: int = 3
    """Number of times the sheet repeats each texture, across and down."""
    out: Path | None = None
    """Folder of the PNG files (default: textures/ beside the set)."""


@command("textures")
def textures(options: Textures) -> None:
    """Write distilled textures as PNG files that can be tiled."""
    from ..data.synthetic import load  # here, so that help needs no torch
    from ..report import save_textures

    path = options.path
    folder = options.out or RunDir.around(path).textures
    check_folder(folder, "--out")
    with _told_of_missing_matrix([path]):
        *written, sheet = save_textures(load(path), folder, options.tile)
    Terminal().print(f"Textures: {len(written)} in {folder}\nLook at:  {sheet}", highlight=False)


@contextmanager
def _told_of_missing_matrix(paths: Sequence[Path]) -> Iterator[None]:
    """Inside the block, the error for a set without its ZCA matrix names the set and the command that shows it."""
    from ..data.preprocessing import IncompleteError
    from ..data.synthetic import load

    try:
        yield
    except IncompleteError as error:
        sets = [path for path in paths if path.is_file() or RunDir(path).synthetic.exists()]
        path, data = next(
            (path, found.data.source) for path in sets if not (found := load(path)).preprocessing.is_complete
        )
        command = shlex.join(["astdistill", "export", str(path), "--format", "png", "--data", data])
        raise InputError(
            f"{path} was stored without its ZCA matrix, so that its images cannot be shown here; write them with the "
            f"data that it was made from: {command}"
        ) from error


GENERATOR = b'<meta name="generator" content="astdistill">'
HEAD_BYTES = 8192
"""Number of bytes at the beginning of a page that contain that line, whatever its security policy."""


def check_page(file: Path) -> None:
    """Raise InputError if `file` exists and is not a page written by astdistill."""
    if not file.exists():
        return
    check_regular(file)
    with file.open("rb") as page:
        beginning = page.read(HEAD_BYTES)
    if beginning and GENERATOR not in beginning:
        raise InputError(
            f"{file} exists already and is no report of astdistill; name another file, for example "
            f"--out {file.with_name(f'{file.stem}-2.html')}"
        )


class Report(Record):
    """Write the report of one or several runs: images, accuracy, loss, experts and settings, in one HTML file that
    needs no network and no other file."""

    runs: Annotated[tuple[Path, ...], Word(positional=True, metavar="PATH")] = ()
    """Run folders; several are shown side by side."""
    out: Path | None = None
    """HTML file (default: report.html in the folder of a single run, otherwise in the current folder). A file that is
    no such report is not replaced."""


@command("report")
def report(options: Report) -> None:
    """Write the page, and print its path."""
    from ..report import save_page

    runs, folder = options.runs, Path()
    if len(runs) == 1:
        folder = runs[0]
    file = options.out or RunDir(folder).page
    if file.is_dir():
        raise InputError(f"--out {file} is a folder; name a file in it: --out {RunDir(file).page}")
    check_folder(file, "--out", file=True)
    check_page(file)
    with _told_of_missing_matrix(runs):
        save_page(runs, file)
    Terminal().print(f"Open: {file}", highlight=False)
