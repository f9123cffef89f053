"""`astdistill compare`: from run folders to the table that goes into a paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ..evaluation.per_class import by_class, confusions
from ..report.compare import Finished, compared, read_finished
from ..runtime.errors import InputError
from ..runtime.files import check_folder, replacing, write_text
from ..runtime.tables import RENDERINGS, Format, Tabulation, together
from .flags import call

PAGE = 160
"""Columns of a text table that goes to a file."""


def compare(words: list[str]) -> None:
    """Finished runs side by side."""
    call(_compare, words, "astdistill compare")


def _compare(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    format: Format = "text",
    out: Path | None = None,
    per_class: bool = False,
    confusion: bool = False,
) -> None:
    """Finished runs beside the published figures and the baselines, one table for each protocol and kind of labels.

    Args:
        runs: Run folders, or evaluation folders inside them (runs/NAME/evaluation-...).
        format: text, markdown, or latex (booktabs).
        out: File to write to; none prints.
        per_class: The accuracy of each class too, a table for each run.
        confusion: Which classes each run's networks take for which, too.
    """
    if not runs:
        raise InputError("No run was named; name one or more, for example: astdistill compare runs/*")
    finished = [read_finished(path) for path in runs]
    wanted = [part for part, asked in ((by_class, per_class), (confusions, confusion)) if asked]
    tables = compared(finished) + [_of(run, part(run.scores)) for run in finished for part in wanted]
    if out is not None and out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file, for example --out {out / 'results.md'}")
    if out is not None:
        check_folder(out, "--out", file=True)
    if format != "text":
        text = "\n".join(map(RENDERINGS[format], tables))
        print(text, end="") if out is None else write_text(out, text)
    elif out is None:
        Console().print(together(tables))
    else:
        with replacing(out) as temporary, temporary.open("w", encoding="utf-8") as file:
            Console(file=file, width=PAGE).print(together(tables))


def _of(run: Finished, table: Tabulation) -> Tabulation:
    """The table of one run with the run in its title."""
    return replace(table, title=f"{run.name}: {table.title}")
