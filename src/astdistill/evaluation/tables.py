"""Scores as a table for the terminal and for Markdown, never without their protocol."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.table import Table

from ..augment import STRATEGY
from .scores import Entry, Scores

BASELINE_NAMES = {"random": "random real images", "kmeans": "K-means real images", "full": "full data"}


def spread(values: Sequence[float]) -> str:
    """`mean ± sample deviation` of accuracies in percent."""
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def rows(scores: Scores) -> list[dict[str, str]]:
    """The table's cells by column, one dictionary a row: the synthetic set on every network first, then the baselines."""
    named = {f"synthetic, {model}": entry for model, entry in scores.architecture.items()}
    named |= {_baseline(name, scores): entry for name, entry in scores.baselines.items()}
    return [_row(name, entry, scores) for name, entry in named.items()]


def caption(scores: Scores) -> str:
    """One sentence naming the protocol, what is reported, the spread and the number of networks."""
    recipe = scores.recipe
    which = (
        "the last epoch"
        if recipe.reported == "final"
        else f"the best of checks on the {scores.split} images every {recipe.check_every} epochs"
    )
    sizes = sorted({entry.n for entry in _entries(scores)})
    n = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    augmentation = "" if recipe.augmentation == STRATEGY else f"augmentation {(recipe.augmentation or 'none').replace('_', ', ')}; "
    return (
        f"Protocol {recipe.name}: {recipe.epochs} epochs, {augmentation}{scores.split} accuracy in %, reported: {which}; "
        f"mean ± sample deviation over n = {n} fresh {'network' if n == '1' else 'networks'}."
    )


def table(scores: Scores) -> Table:
    """The scores as a table for the terminal, with its protocol as the caption."""
    cells = rows(scores)
    shown = Table(caption=caption(scores), caption_justify="left")
    for column in cells[0] if cells else ():
        shown.add_column(column, justify="left" if column == "trained on" else "right", style="bold" if _reported(column, scores) else None)
    for row in cells:
        shown.add_row(*row.values())
    return shown


def markdown(scores: Scores) -> str:
    """The same table in Markdown, caption below."""
    cells = rows(scores)
    columns = list(cells[0]) if cells else []
    lines: list[Sequence[str]] = [columns, ["---"] + ["---:"] * (len(columns) - 1), *(list(row.values()) for row in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{caption(scores)}\n"


def _row(name: str, entry: Entry, scores: Scores) -> dict[str, str]:
    cells = {"trained on": name, "final": spread(entry.final)}
    if any(each.best for each in _entries(scores)):
        cells[f"best on {scores.split}"] = spread(entry.best) if entry.best else "–"
    cells["n"] = str(entry.n)
    if scores.diverged:
        cells["diverged"] = str(entry.diverged)
    return cells


def _entries(scores: Scores) -> list[Entry]:
    return [*scores.architecture.values(), *scores.baselines.values()]


def _reported(column: str, scores: Scores) -> bool:
    return column.startswith(scores.recipe.reported)


def _baseline(name: str, scores: Scores) -> str:
    label = BASELINE_NAMES.get(name, name)
    return f"{label}, {scores.recipe.full_epochs} epochs" if name == "full" and scores.recipe.full_epochs else label
