"""`astdistill report`: runs as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ...errors import InputError
from ...flags import call
from ...folders import check_folder
from .page import PAGE, save_page


def report(words: list[str]) -> None:
    """Parse the words, write the page, say where it is."""
    call(_report, words, "astdistill report")


def _report(runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = (), /, out: Path | None = None) -> None:
    """Write one HTML file that shows runs: images, accuracy, course, experts, settings; it needs no network and no other file.

    Args:
        runs: Run folders; several stand side by side.
        out: The file; none means report.html in the folder of a single run, or here.
    """
    file = out or (runs[0] / PAGE if len(runs) == 1 else Path(PAGE))
    if file.is_dir():
        raise InputError(f"--out {file} is a folder; name a file in it: --out {file / PAGE}")
    check_folder(file, "--out", file=True)
    save_page(runs, file)
    Console().print(f"Open: {file}", highlight=False)
