"""`astdistill compare`: finished runs as tables for a paper."""

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
from ..runtime.files import check_folder, check_regular, warn, write_text
from ..runtime.tables import RENDERINGS, Format, Tabulation, together
from ..runtime.terminal import Terminal
from ..runtime.text import printable
from .commands import command
from .flags import Word

if TYPE_CHECKING:
    from ..report.compare import Finished

SIGNED = "astdistill compare"
COMMENTS: dict[Format, str] = {"text": "{}", "markdown": "<!-- {} -->", "latex": "% {}"}
"""A comment in each format, for the last line of a file."""
PAGE = 160
"""Columns of a text table that is written to a file."""


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
def compare(options: Compare) -> None:
    """Print or write tables of finished runs."""
    from ..evaluation.per_class import by_class, confusions  # here, as in other commands, so that --help loads no torch
    from ..report.compare import compared, read_several, runs_in

    runs, format, out = options.runs, options.format, options.out
    if not runs:
        raise InputError("No run was named; name one or more, for example: astdistill compare runs/*")
    finished, errors = read_several([path for folder in runs for path in runs_in(folder)])
    for error in errors:
        warn(f"Left out: {error}")
    details = [part for part, chosen in ((by_class, options.per_class), (confusions, options.confusion)) if chosen]
    tables = compared(finished) + [_with_run_name(run, part(run.scores)) for run in finished for part in details]
    if out is not None and out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file, for example --out {out / 'results.md'}")
    if out is not None:
        check_folder(out, "--out", file=True)
        check_ours(out)
        write_text(out, signed(_render(tables, format), format))
        progress.tell(f"Written: {out}")
    elif format == "text":
        Terminal().print(together(tables))
    else:
        print(printable(_render(tables, format)), end="")


def _render(tables: Sequence[Tabulation], format: Format) -> str:
    """The tables as text in one of the file formats."""
    if format != "text":
        return "\n".join(map(RENDERINGS[format], tables))
    buffer = io.StringIO()
    Terminal(file=buffer, width=PAGE).print(together(tables))
    return buffer.getvalue()


def signed(text: str, format: Format) -> str:
    """The text with a last line that holds its digest, to detect later changes."""
    body = text + "\n" * (format == "markdown")  # a Markdown comment needs an empty line before it
    return body + COMMENTS[format].format(f"{SIGNED} {_digest(body)}") + "\n"


def check_ours(out: Path) -> None:
    """Raise InputError if `out` exists and is not a file that this command has written, unchanged since."""
    if not out.exists():
        return
    check_regular(out)
    text = out.read_text(encoding="utf-8", errors="backslashreplace")
    signature = re.search(rf"^.*{SIGNED} ([0-9a-f]{{12}}).*\n\Z", text, re.MULTILINE)
    if text and (signature is None or _digest(text[: signature.start()]) != signature[1]):
        raise InputError(
            f"--out {out} exists already, and is not as astdistill compare wrote it; name another file, for example "
            f"--out {out.with_name(f'{out.stem}-2{out.suffix}')}, or delete that one."
        )


def _digest(text: str) -> str:
    encoded = text.encode("utf-8", "backslashreplace")
    return hashlib.sha256(encoded).hexdigest()[:12]


def _with_run_name(run: Finished, table: Tabulation) -> Tabulation:
    """The table of one run, with the name of the run in its title."""
    return replace(table, title=f"{run.name}: {table.title}")
