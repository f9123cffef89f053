"""Accuracy by class, and which classes are taken for which."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ..runtime.errors import InputError
from ..runtime.tables import Column, Tabulation
from .scores import BASELINE_NAMES, RowScores, Scores, caption, spread
from .training import MOST_CONFUSED

WHOLE = 20
"""The largest number of classes of which a table shows all."""
ENDS = 10
"""Classes shown at each end of a longer table."""


def check_confusion(classes: Sequence[str]) -> None:
    """Raise InputError where there are too many classes for a confusion matrix."""
    if len(classes) > MOST_CONFUSED:
        raise InputError(
            f"A confusion matrix is kept up to {MOST_CONFUSED} classes, and there are {len(classes)}; use --per-class."
        )


def by_class(scores: Scores) -> Tabulation:
    """The final accuracy of every class: the distilled set on each network, then the baselines.

    Above 20 classes: the ten best and the ten worst by the first column. Raises InputError for scores stored
    without accuracies by class.
    """
    entries = {model: entry for model, entry in scores.architecture.items()} | {
        BASELINE_NAMES[name]: entry for name, entry in scores.baselines.items()
    }
    figures = {name: _figures(entry, len(scores.classes)) for name, entry in entries.items()}
    if not figures or not any(next(iter(figures.values()))):
        raise InputError(
            "These scores of an earlier version have no accuracy by class; evaluate again with another --out."
        )
    order, note = _select_classes(next(iter(figures.values())))
    rows = [(scores.classes[label], *(spread(each[label]) for each in figures.values())) for label in order]
    columns = (
        Column("class", left_aligned=True),
        *(Column(name, bold=number == 0) for number, name in enumerate(figures)),
    )
    return Tabulation(columns, tuple(rows), f"{note}{caption(scores)}", "Final accuracy by class")


def confusions(scores: Scores) -> Tabulation:
    """The confusion matrix on the tested images in %, summed over all networks of the distilled set's first row.

    Up to 20 classes the whole matrix, a row for each true class; above, the 20 most frequent confusions. Raises
    InputError where no counts are stored: above 100 classes, or by an earlier version.
    """
    check_confusion(scores.classes)
    model, entry = next(iter(scores.architecture.items()))
    counts = entry.counts
    if counts is None:
        raise InputError(
            "These scores of an earlier version have no confusion matrix; evaluate again with another --out."
        )
    title = f"Confusion of {model}, % of each class"
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in counts]
    if len(counts) <= WHOLE:
        columns = (Column("true \\ predicted", left_aligned=True), *(Column(name) for name in scores.classes))
        rows = [(name, *(f"{share:.0f}" for share in row)) for name, row in zip(scores.classes, shares, strict=True)]
        return Tabulation(columns, tuple(rows), caption(scores), title)
    pairs = [
        (share, true, taken)
        for true, row in enumerate(shares)
        for taken, share in enumerate(row)
        if true != taken and share
    ]
    pairs = sorted(pairs, key=lambda pair: (-pair[0], *pair[1:]))[:WHOLE]
    columns = Column("true", left_aligned=True), Column("predicted", left_aligned=True), Column("% of its images")
    rows = [(scores.classes[true], scores.classes[taken], f"{share:.0f}") for share, true, taken in pairs]
    return Tabulation(columns, tuple(rows), f"The {len(rows)} most frequent. {caption(scores)}", title)


def _figures(entry: RowScores, classes: int) -> list[list[float]]:
    """The accuracies of each class, one for each network that has any."""
    by_network = [network for network in entry.by_class if network is not None]
    return [[figure for network in by_network if (figure := network[label]) is not None] for label in range(classes)]


def _select_classes(first: Sequence[Sequence[float]]) -> tuple[list[int], str]:
    """The classes to show, in order, and a sentence on the choice for the caption."""
    if len(first) <= WHOLE:
        return list(range(len(first))), ""
    tested = [label for label, figures in enumerate(first) if figures]
    ranked = sorted(tested, key=lambda label: (-statistics.fmean(first[label]), label))
    if len(ranked) <= 2 * ENDS:
        return ranked, "Best classes first. "
    return ranked[:ENDS] + ranked[-ENDS:], f"The {ENDS} best and the {ENDS} worst of {len(ranked)} classes. "
