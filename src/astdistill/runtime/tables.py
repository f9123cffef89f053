"""A table as a value, and its three renderings: terminal, Markdown, LaTeX. No domain words here."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    """`mean ± std`, or the mean alone where the spread is unknown; what rounds to zero has no sign."""
    if std is None:
        return f"{mean:z.{digits}f}"
    return f"{mean:z.{digits}f} ± {std:.{digits}f}"


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
    def fixed(self) -> bool:
        """Whether its cells stay in one line at any width."""
        return self.whole or not self.words

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
    folded; where that is not enough, the columns that have no room follow below, beside the first ones that tell the
    rows apart. Figures are never cut."""

    table: Tabulation

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.update(max_width=WIDEST)
        whole = _drawn(self.table, {})
        if Measurement.get(console, wide, whole).maximum <= options.max_width:
            yield whole
            return

        def room(part: Tabulation, letters: int) -> Measurement:
            return Measurement.get(console, wide, _drawn(_folded(part, letters), NARROW))

        if room(self.table, FOLDED).minimum <= options.max_width:
            yield _drawn(self.table, NARROW)
            return
        parts = _parts(self.table, lambda part: room(part, LEGIBLE).maximum <= options.max_width)
        yield from (_drawn(part, NARROW) for part in parts)
        yield _below(self.table)


def _parts(table: Tabulation, fits: Callable[[Tabulation], bool]) -> list[Tabulation]:
    """The table in as many as fit, each with the columns that tell its rows apart; the title above the first."""

    def fit(chosen: Sequence[int]) -> bool:
        return fits(_with_columns(table, chosen))

    count = len(table.columns)
    again = _telling(table)
    while again > 1 and not all(fit([*range(again), number]) for number in range(again, count)):
        again -= 1
    groups: list[list[int]] = [[]]
    for number in range(again, count):
        if groups[-1] and not fit([*range(again), *groups[-1], number]):
            groups.append([])
        groups[-1].append(number)
    first, *further = (_with_columns(table, [*range(again), *group]) for group in groups)
    return [replace(first, title=table.title), *further]


def _telling(table: Tabulation) -> int:
    """How many of the first columns tell the rows apart: as few as do, at least one, and words alone."""
    words = next((number for number, column in enumerate(table.columns) if not column.words), len(table.columns))
    apart = (number for number in range(1, words) if len({row[:number] for row in table.rows}) == len(table.rows))
    return next(apart, words)


def _folded(table: Tabulation, letters: int) -> Tabulation:
    """The table with its words folded to so many letters."""
    most = [None if column.fixed else letters for column in table.columns]
    rows = tuple(tuple(cell[:letters] for cell, letters in zip(row, most, strict=True)) for row in table.rows)
    heads = (replace(column, name=column.name[:letters]) for column, letters in zip(table.columns, most, strict=True))
    return replace(table, columns=tuple(heads), rows=rows)


def _with_columns(table: Tabulation, chosen: Sequence[int]) -> Tabulation:
    """Some of the columns, without title, caption and notes."""
    rows = tuple(tuple(row[number] for number in chosen) for row in table.rows)
    return Tabulation(tuple(table.columns[number] for number in chosen), rows, "")


NARROW: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
FIXED = {True: "width", False: "min_width"}
"""How rich calls the width of a column of figures; on a narrow console it takes space from every other one."""
FOLDED = 8
"""Letters that a column of words keeps in a line before others have to follow below."""
LEGIBLE = 16
"""Letters that it keeps in a line where others follow below."""
WIDEST = 10_000
"""Columns of a console on which any table has its natural width."""


def _drawn(table: Tabulation, looks: dict[str, Any]) -> Table:
    shown = Table(title_justify="left", caption_justify="left", **looks)
    if table.title:
        shown.title = Text(table.title, "bold")
    if any(table.below):
        shown.caption = _below(table)
    for number, column in enumerate(table.columns):
        least = None
        if column.fixed:
            least = max(map(cell_len, [*column.name.split(), *(row[number] for row in table.rows)]), default=1)
        style = {True: "bold", False: None}[column.bold]
        widths: dict[str, Any] = {FIXED[looks is NARROW]: least}
        shown.add_column(Text(column.name), justify=column.justify, style=style, overflow="fold", **widths)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def _below(table: Tabulation) -> Text:
    return Text("\n".join(table.below), "dim italic")


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
