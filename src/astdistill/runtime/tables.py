"""Tables, and their rendering for terminals, in Markdown and in LaTeX. Nothing here is specific to dataset
distillation."""

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
"""Characters that LaTeX interprets, or cannot print without further packages."""
ABSENT = "–"
"""The cell of a table for a value that was not measured."""


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation (divided by n − 1); None for one value, whose spread is unknown."""
    if len(values) < 2:
        return None
    return statistics.stdev(values)


def plus_minus(mean: float, std: float | None, digits: int = 1) -> str:
    """`mean ± std`, or the mean alone if the spread is unknown; a value that rounds to zero has no sign."""
    if std is None:
        return f"{mean:z.{digits}f}"
    return f"{mean:z.{digits}f} ± {std:.{digits}f}"


def spread(values: Sequence[float] | None, digits: int = 1) -> str:
    """`mean ± standard deviation`, with `digits` decimals, by default the one of accuracies in percent; `ABSENT` for no
    values."""
    if not values:
        return ABSENT
    return plus_minus(statistics.fmean(values), deviation(values), digits)


@dataclass(frozen=True)
class Column:
    """The head of a column. Text is `left_aligned`, figures are aligned right; `bold` marks the main columns; a
    `no_wrap` column, with text to be typed, is not folded on a narrow terminal, like figures."""

    name: str
    left_aligned: bool = False
    bold: bool = False
    no_wrap: bool = False

    @property
    def fixed(self) -> bool:
        """Whether its cells stay on one line at any width."""
        return self.no_wrap or not self.left_aligned

    @property
    def justify(self) -> Literal["left", "right"]:
        """The side to which its cells are aligned."""
        if self.left_aligned:
            return "left"
        return "right"


@dataclass(frozen=True)
class Tabulation:
    """A titled table: one string per cell in the order of `columns`, a caption about the measurement, and notes [1],
    [2], …"""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    title: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for a row with more or fewer cells than there are columns."""
        for row in self.rows:
            if len(row) != len(self.columns):
                names = ", ".join(column.name for column in self.columns)
                raise ValueError(f"A row has {len(row)} cells, {row}, for {len(self.columns)} columns: {names}.")

    @property
    def below(self) -> list[str]:
        """The caption and the numbered notes, one line each."""
        return [self.caption, *(f"[{number}] {note}" for number, note in enumerate(self.notes, start=1))]


def terminal(table: Tabulation) -> Fitting:
    """The table for a rich console; brackets in its text are not markup."""
    return Fitting(table)


@dataclass(frozen=True)
class Fitting:
    """A table that fits its console. If it is too wide, lines and padding are dropped first, and then columns of words
    are folded; if that is not enough, the columns without space follow below, next to the first columns, which identify
    the rows. Figures are never cut."""

    table: Tabulation

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unlimited = options.update(max_width=WIDEST)
        unfolded = _rendered(self.table, {})
        if Measurement.get(console, unlimited, unfolded).maximum <= options.max_width:
            yield unfolded
            return

        def measure(part: Tabulation, letters: int) -> Measurement:
            return Measurement.get(console, unlimited, _rendered(_folded(part, letters), NARROW))

        if measure(self.table, FOLDED).minimum <= options.max_width:
            yield _rendered(self.table, NARROW)
            return
        parts = _split(self.table, lambda part: measure(part, LEGIBLE).maximum <= options.max_width)
        yield from (_rendered(part, NARROW) for part in parts)
        yield _footer(self.table)


def _split(table: Tabulation, fits: Callable[[Tabulation], bool]) -> list[Tabulation]:
    """The table in parts that fit, each with the columns that identify its rows; the title above the first."""

    def fit(chosen: Sequence[int]) -> bool:
        return fits(_with_columns(table, chosen))

    count = len(table.columns)
    repeated = _key_columns(table)
    while repeated > 1 and not all(fit([*range(repeated), number]) for number in range(repeated, count)):
        repeated -= 1
    groups: list[list[int]] = [[]]
    for number in range(repeated, count):
        if groups[-1] and not fit([*range(repeated), *groups[-1], number]):
            groups.append([])
        groups[-1].append(number)
    first, *further = (_with_columns(table, [*range(repeated), *group]) for group in groups)
    return [replace(first, title=table.title), *further]


def _key_columns(table: Tabulation) -> int:
    """How many of the first columns identify the rows: as few as possible, at least one, and columns of words only."""
    limit = next((number for number, column in enumerate(table.columns) if not column.left_aligned), len(table.columns))
    counts = (number for number in range(1, limit) if len({row[:number] for row in table.rows}) == len(table.rows))
    return next(counts, limit)


def _folded(table: Tabulation, letters: int) -> Tabulation:
    """The table with its words cut to `letters` characters."""
    limits = [None if column.fixed else letters for column in table.columns]
    rows = tuple(tuple(cell[:letters] for cell, letters in zip(row, limits, strict=True)) for row in table.rows)
    heads = (replace(column, name=column.name[:letters]) for column, letters in zip(table.columns, limits, strict=True))
    return replace(table, columns=tuple(heads), rows=rows)


def _with_columns(table: Tabulation, chosen: Sequence[int]) -> Tabulation:
    """Some of the columns, without title, caption and notes."""
    rows = tuple(tuple(row[number] for number in chosen) for row in table.rows)
    return Tabulation(tuple(table.columns[number] for number in chosen), rows, "")


NARROW: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
FIXED = {True: "width", False: "min_width"}
"""The name in rich of the width of a column of figures; on a narrow console it takes space from every other column."""
FOLDED = 8
"""Characters that a column of words keeps on a line before other columns have to follow below."""
LEGIBLE = 16
"""Characters that it keeps on a line if other columns follow below."""
WIDEST = 10_000
"""The width of a console on which any table has its natural width."""


def _rendered(table: Tabulation, layout: dict[str, Any]) -> Table:
    rendered = Table(title_justify="left", caption_justify="left", **layout)
    if table.title:
        rendered.title = Text(table.title, "bold")
    if any(table.below):
        rendered.caption = _footer(table)
    for number, column in enumerate(table.columns):
        width = None
        if column.fixed:
            width = max(map(cell_len, [*column.name.split(), *(row[number] for row in table.rows)]), default=1)
        style = {True: "bold", False: None}[column.bold]
        widths: dict[str, Any] = {FIXED[layout is NARROW]: width}
        rendered.add_column(Text(column.name), justify=column.justify, style=style, overflow="fold", **widths)
    for row in table.rows:
        rendered.add_row(*map(Text, row))
    return rendered


def _footer(table: Tabulation) -> Text:
    return Text("\n".join(table.below), "dim italic")


def together(tables: Sequence[Tabulation]) -> Group:
    """Several tables for a rich console, separated by empty lines."""
    parts = [part for table in tables for part in (Text(), terminal(table))]
    return Group(*parts[1:])


def markdown(table: Tabulation) -> str:
    """The table in Markdown, title above, caption and notes below."""
    head = [_markdown_cell(column.name) for column in table.columns]
    rule = [{"left": "---", "right": "---:"}[column.justify] for column in table.columns]
    body = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    lines = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))
    paragraphs = [lines, *map(_markdown_cell, table.below)]
    if table.title:
        paragraphs.insert(0, f"**{_markdown_cell(table.title)}**")
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
    """`text` with the characters in `LATEX` replaced."""
    return "".join(LATEX.get(char, char) for char in text)


RENDERINGS: dict[Format, Callable[[Tabulation], str]] = {"markdown": markdown, "latex": latex}
"""The formats that are plain text; the rendering for a terminal depends on its width."""


assert set(RENDERINGS) | {"text"} == set(get_args(Format))


def _markdown_cell(text: str) -> str:
    return re.sub(r"([|<\\])", r"\\\1", " ".join(text.split()))
