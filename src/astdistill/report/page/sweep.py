"""The report of a sweep: its table as text, Markdown and LaTeX, and one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from ...runtime.files import replacing, write_text
from ...runtime.run_dir import RunDir
from ...runtime.tables import RENDERINGS, Format, spread, terminal
from ...runtime.terminal import Terminal
from ..figures import COLOURS, FAINT, tidy
from ..sweep import PAGE, STEM, Sweep, SweepRow, sweep_table
from .drawing import panel, svg
from .templates import filled, policy

WIDTH = 160
"""Columns of the table in sweep.txt."""
ENDINGS: dict[Format, str] = {"markdown": ".md", "latex": ".tex"}


def save_sweep(sweep: Sweep, folder: Path) -> Path:
    """Write the table's files and the page into `folder`, and return the page's path."""
    table = sweep_table(sweep)
    for kind, ending in ENDINGS.items():
        write_text((folder / STEM).with_suffix(ending), RENDERINGS[kind](table))
    with replacing((folder / STEM).with_suffix(".txt")) as temporary, temporary.open("w", encoding="utf-8") as file:
        Terminal(file=file, width=WIDTH).print(terminal(table))
    text = filled(
        "sweep.html",
        policy=policy(),
        title=sweep.title,
        name=folder.resolve().name,
        facts=_facts(sweep),
        lines=table,
        drawing=_drawing(sweep),
        rows=[(row, spread(row.accuracies)) for row in sweep.rows],
        page=RunDir.page,
    )
    write_text(folder / PAGE, text)
    return folder / PAGE


def _facts(sweep: Sweep) -> list[tuple[str, str]]:
    counts = [f"{len(rows)} {state}" for state in ("finished", "failed", "waiting") if (rows := sweep.of(state))]
    networks = dict.fromkeys(row.network for row in sweep.rows if row.network)
    seeds = dict.fromkeys(str(row.seed) for row in sweep.rows)
    facts = [("runs", ", ".join(counts)), ("seeds", ", ".join(seeds)), ("network", ", ".join(networks))]
    return [(name, text) for name, text in facts if text]


def _drawing(sweep: Sweep) -> Markup | None:
    """The accuracy of every run, with one line of the table below the other; None if no run is finished."""
    lines = [(line, [row for row in rows if row.accuracies]) for line, rows in sweep.lines().items()]
    lines = [(line, rows) for line, rows in lines if rows]
    if not lines:
        return None
    figure, axes = panel(6.4, 0.9 + 0.34 * len(lines))
    tidy(axes, "", "accuracy, %", "")
    for y, (_, rows) in enumerate(lines):
        values = [row.mean for row in rows]
        mean = sum(values) / len(values)
        axes.plot([mean, mean], [y - 0.3, y + 0.3], color=COLOURS[0], linewidth=2.2)
        axes.plot(values, [y] * len(values), "o", markersize=5, markerfacecolor="none", markeredgecolor=FAINT)
    axes.set_yticks(range(len(lines)), _names([rows for _, rows in lines]))
    axes.set_ylim(len(lines) - 0.4, -0.6)
    return svg(figure, "sweep-runs", "Accuracy of every run, by preset, method and settings")


def _names(lines: Sequence[Sequence[SweepRow]]) -> list[str]:
    """The names of the lines, without the parts that all of them share."""
    parts = [rows[0].line for rows in lines]
    varied = [number for number in range(3) if len({part[number] for part in parts}) > 1] or [1]
    return [", ".join(part[number] for number in varied if part[number]) for part in parts]
