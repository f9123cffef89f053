"""A table as a value, and its three renderings: terminal, Markdown, LaTeX. No domain words here."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

Format = Literal["text", "markdown", "latex"]
LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "[": "{[}",
    "]": "{]}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "·": r"$\cdot$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "η": r"$\eta$",
    "–": "--",
    "…": r"\dots{}",
}
"""What LaTeX reads otherwise than it is written, or not at all without further packages."""
ABSENT = "–"
"""The cell of a table for what was not measured."""


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation (divided by n − 1); None for one value, whose spread is unknown."""
    if len(values) < 2:
        return None
    return statistics.stdev(values)


def plus_minus(mean: float, std: float | None, digits: int = 1) -> str:
    """`mean ± std`, or the mean alone where the spread is unknown."""
    if std is None:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {std:.{digits}f}"


def spread(values: Sequence[float] | None, digits: int = 1) -> str:
    """`mean ± standard deviation`, with the one decimal of accuracies in percent or with so many `digits`; `ABSENT` for
    no values."""
    if not values:
        return ABSENT
    return plus_minus(statistics.fmean(values), deviation(values), digits)


@dataclass(frozen=True)
class Column:
    """The head of a column; `words` are set to the left, everything else to the right; `bold` marks what the table is
    about; what has to be typed stays `whole` on a narrow terminal, as figures do."""

    name: str
    words: bool = False
    bold: bool = False
    whole: bool = False

    @property
    def justify(self) -> Literal["left", "right"]:
        """The side that its cells are set to."""
        if self.words:
            return "left"
        return "right"


@dataclass(frozen=True)
class Tabulation:
    """A titled table: one string a cell in the order of `columns`, a caption that says how it was measured, and notes
    [1], [2], …"""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    title: str = ""
    notes: tuple[str, ...] = ()

    @property
    def below(self) -> list[str]:
        """The caption and the numbered notes, a line each."""
        return [self.caption, *(f"[{number}] {note}" for number, note in enumerate(self.notes, start=1))]


def terminal(table: Tabulation) -> Fitting:
    """The table for a rich console; brackets in its words are no markup."""
    return Fitting(table)


@dataclass(frozen=True)
class Fitting:
    """A table that fits its console: where it is too wide, lines and padding go first, and then columns of words are
    folded; figures are never cut."""

    table: Tabulation

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = _drawn(self.table, {})
        if Measurement.get(console, options.update(max_width=WIDEST), whole).maximum <= options.max_width:
            yield whole
            return
        yield _drawn(self.table, {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False})


WIDEST = 10_000
"""Columns of a console on which any table has its natural width."""


def _drawn(table: Tabulation, looks: dict[str, Any]) -> Table:
    shown = Table(title_justify="left", caption_justify="left", **looks)
    if table.title:
        shown.title = Text(table.title, "bold")
    shown.caption = Text("\n".join(table.below), "dim italic")
    for number, column in enumerate(table.columns):
        least = None
        if column.whole or not column.words:
            least = max((cell_len(row[number]) for row in table.rows), default=1)
        style = {True: "bold", False: None}[column.bold]
        shown.add_column(Text(column.name), justify=column.justify, style=style, overflow="fold", min_width=least)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def together(tables: Sequence[Tabulation]) -> Group:
    """Several tables for a rich console, an empty line between them."""
    parts = [part for table in tables for part in (Text(), terminal(table))]
    return Group(*parts[1:])


def markdown(table: Tabulation) -> str:
    """The table in Markdown, title above, caption and notes below."""
    head = [_cell(column.name) for column in table.columns]
    rule = [{"left": "---", "right": "---:"}[column.justify] for column in table.columns]
    body = [[_cell(cell) for cell in row] for row in table.rows]
    lines = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))
    paragraphs = [lines, *map(_cell, table.below)]
    if table.title:
        paragraphs.insert(0, f"**{_cell(table.title)}**")
    return "\n\n".join(paragraphs) + "\n"


def latex(table: Tabulation) -> str:
    """A `table` environment with booktabs' rules; notes in small type below the rows."""
    head = " & ".join(
        f"\\textbf{{{escaped(column.name)}}}" if column.bold else escaped(column.name) for column in table.columns
    )
    body = [" & ".join(map(escaped, row)) + r" \\" for row in table.rows]
    caption = ". ".join(part for part in (table.title, table.caption) if part)
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{escaped(caption)}}}",
        f"\\begin{{tabular}}{{{''.join(column.justify[0] for column in table.columns)}}}",
        r"\toprule",
        head + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        *(f"\\par\\smallskip{{\\footnotesize {escaped(note)}}}" for note in table.below[1:]),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """`text` as LaTeX prints it."""
    return "".join(LATEX.get(sign, sign) for sign in text)


RENDERINGS: dict[Format, Callable[[Tabulation], str]] = {"markdown": markdown, "latex": latex}
"""The formats that are plain text; a terminal's depends on its width."""


assert set(RENDERINGS) | {"text"} == set(get_args(Format))


def _cell(text: str) -> str:
    return re.sub(r"([|<\\])", r"\\\1", " ".join(text.split()))
