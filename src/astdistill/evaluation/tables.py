"""Scores as a table, never without their protocol and the kind of their labels."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ..augment import STRATEGY
from ..tabulation import Column, Tabulation
from .recipe import EvalRecipe
from .scores import Entry, Scores

BASELINE_NAMES = {"random": "random real images", "kmeans": "K-means real images", "full": "full data"}
LABELS = {"hard": "hard labels", "soft": "soft labels"}


def spread(values: Sequence[float], digits: int = 1) -> str:
    """`mean ± sample deviation`, with the one decimal of accuracies in percent or with so many `digits`."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def protocol_text(recipe: EvalRecipe, split: str, searched: bool = False) -> str:
    """The recipe in words: its name, epochs, augmentation where it is not all of DSA, step size where it is not learned, the tested images.

    `searched` says that held-out images chose the step size of the distilled set.
    """
    augmentation = "" if recipe.augmentation == STRATEGY else f"augmentation {(recipe.augmentation or 'none').replace('_', ', ')}; "
    fixed = "" if recipe.lr is None else f"step size {recipe.lr:g}; "
    rate = "step size of the set searched on held-out training images; " if searched else fixed
    return f"Protocol {recipe.name}: {recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''}, {augmentation}{rate}{split} accuracy in %"


def networks_text(sizes: Sequence[int]) -> str:
    """How many networks stand behind the figures of a table."""
    least, most = min(sizes, default=0), max(sizes, default=0)
    n = str(least) if least == most else f"{least} to {most}"
    return f"mean ± sample deviation over n = {n} fresh {'network' if n == '1' else 'networks'}"


def caption(scores: Scores) -> str:
    """One sentence naming the protocol, what is reported, the labels, the spread and the number of networks."""
    recipe = scores.recipe
    which = (
        "the last epoch"
        if recipe.reported == "final"
        else f"the best of checks on the {scores.split} images every {recipe.check_every} epochs"
    )
    labels = f"; {LABELS[scores.subject.labels]}" if scores.subject else ""
    sizes = [entry.n for entry in _entries(scores)]
    return f"{protocol_text(recipe, scores.split, bool(scores.rates))}, reported: {which}{labels}; {networks_text(sizes)}."


def table(scores: Scores) -> Tabulation:
    """The synthetic set on every network first, then the baselines, with the protocol as the caption."""
    named = {f"synthetic, {model}": entry for model, entry in scores.architecture.items()}
    named |= {_baseline(name, scores): entry for name, entry in scores.baselines.items()}
    cells = [_row(name, entry, scores) for name, entry in named.items()]
    columns = [Column(name, name == "trained on", name.startswith(scores.recipe.reported)) for name in (cells[0] if cells else ())]
    return Tabulation(tuple(columns), tuple(tuple(row.values()) for row in cells), caption(scores))


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


def _baseline(name: str, scores: Scores) -> str:
    label = BASELINE_NAMES.get(name, name)
    return f"{label}, {scores.recipe.full_epochs} epochs" if name == "full" and scores.recipe.full_epochs else label
