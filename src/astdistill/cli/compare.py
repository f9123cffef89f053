"""`astdistill compare`: from run folders to the table that goes into a paper."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..runtime import progress
from ..runtime.config import Record
from ..runtime.errors import InputError
from ..runtime.files import check_folder, check_regular, write_text
from ..runtime.tables import RENDERINGS, Format, Tabulation, together
from ..runtime.terminal import Terminal
from ..runtime.text import printable
from .commands import command
from .flags import Word

if TYPE_CHECKING:
    from ..report.compare import Finished

SIGNED = "astdistill compare"
COMMENTS: dict[Format, str] = {"text": "{}", "markdown": "<!-- {} -->", "latex": "% {}"}
"""The last line of a file in each format."""
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
    """File to write (default: print). A file that this command did not write, or that was changed since, is not
    replaced."""
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
        check_ours(out)
        write_text(out, signed(_text(tables, format), format))
        progress.tell(f"Written: {out}")
    elif format == "text":
        Terminal().print(together(tables))
    else:
        print(printable(_text(tables, format)), end="")


def _text(tables: Sequence[Tabulation], format: Format) -> str:
    """The tables as a file has them."""
    if format != "text":
        return "\n".join(map(RENDERINGS[format], tables))
    page = io.StringIO()
    Terminal(file=page, width=PAGE).print(together(tables))
    return page.getvalue()


def signed(text: str, format: Format) -> str:
    """The text with a last line that tells whether it was changed since."""
    body = text + "\n" * (format == "markdown")  # a comment of Markdown stands by itself
    return body + COMMENTS[format].format(f"{SIGNED} {_digest(body)}") + "\n"


def check_ours(out: Path) -> None:
    """Raise InputError where `out` is there, and holds anything else than what this command has written."""
    if not out.exists():
        return
    check_regular(out)
    text = out.read_text(encoding="utf-8", errors="backslashreplace")
    last = re.search(rf"^.*{SIGNED} ([0-9a-f]{{12}}).*\n\Z", text, re.MULTILINE)
    if text and (last is None or _digest(text[: last.start()]) != last[1]):
        raise InputError(
            f"--out {out} is there already, and not as astdistill compare wrote it; name another file, for example "
            f"--out {out.with_name(f'{out.stem}-2{out.suffix}')}, or delete that one."
        )


def _digest(text: str) -> str:
    written = text.encode("utf-8", "backslashreplace")
    return hashlib.sha256(written).hexdigest()[:12]


def _of(run: Finished, table: Tabulation) -> Tabulation:
    """The table of one run with the run in its title."""
    return replace(table, title=f"{run.name}: {table.title}")
