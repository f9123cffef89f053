"""`astdistill compare`: from run folders to the table that goes into a paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..runtime.config import Record
from ..runtime.errors import InputError
from ..runtime.files import check_folder, replacing, write_text
from ..runtime.tables import RENDERINGS, Format, Tabulation, together
from ..runtime.terminal import Terminal
from ..runtime.text import printable
from .commands import command
from .flags import Word

if TYPE_CHECKING:
    from ..report.compare import Finished

PAGE = 160
"""Columns of a text table that goes to a file."""


class Compare(Record):
    """Compare finished runs with published figures and baselines, one table per protocol, kind of labels and number of
    images per slot. Runs that differ only in their seed are one row: mean ± standard deviation over the runs."""

    runs: Annotated[tuple[Path, ...], Word(positional=True, metavar="PATH")] = ()
    """Run folders, folders of run --seeds, or evaluation folders inside a run (runs/NAME/evaluation-…)."""
    format: Format = "text"
    """Format of the tables; latex uses booktabs."""
    out: Path | None = None
    """File to write (default: print)."""
    per_class: bool = False
    """Also show the accuracy of each class, one table per run."""
    confusion: bool = False
    """Also show the confusion matrix of each run."""


@command("compare")
def compare(given: Compare) -> None:
    """Finished runs side by side."""
    from ..evaluation.per_class import by_class, confusions  # here, as in other verbs, so that help needs no torch
    from ..report.compare import compared, read_finished, runs_in

    runs, format, out = given.runs, given.format, given.out
    if not runs:
        raise InputError("No run was named; name one or more, for example: astdistill compare runs/*")
    finished = [read_finished(path) for folder in runs for path in runs_in(folder)]
    wanted = [part for part, asked in ((by_class, given.per_class), (confusions, given.confusion)) if asked]
    tables = compared(finished) + [_of(run, part(run.scores)) for run in finished for part in wanted]
    if out is not None and out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file, for example --out {out / 'results.md'}")
    if out is not None:
        check_folder(out, "--out", file=True)
    if format != "text":
        text = "\n".join(map(RENDERINGS[format], tables))
        if out is None:
            print(printable(text), end="")
        else:
            write_text(out, text)
    elif out is None:
        Terminal().print(together(tables))
    else:
        with replacing(out) as temporary, temporary.open("w", encoding="utf-8") as file:
            Terminal(file=file, width=PAGE).print(together(tables))


def _of(run: Finished, table: Tabulation) -> Tabulation:
    """The table of one run with the run in its title."""
    return replace(table, title=f"{run.name}: {table.title}")
