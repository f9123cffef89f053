"""The numbers behind a run's part of the page, as CSV: one line for each value."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence

from ...evaluation.scores import BASELINE_NAMES, MAJORITY_NAME, RowScores
from ...runtime.text import shown_name
from ..figures import curve
from ..run import RunReader

HEAD = ("quantity", "of", "at", "value", "standard deviation", "n")
"""What was measured, of what, at which iteration, epoch or class, in percent where it is an accuracy; mean, spread and
number of networks where there are several."""
MOST_STEPS = 5000
"""Outer steps in the page's CSV; of a longer run every second, third, … one."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""

Row = tuple[str, str, str, float | int | str, float | str, int | str]


def numbers(run: RunReader) -> str:
    """The CSV text; '' for a run without a number."""
    rows = [*_accuracies(run), *_by_class(run), *_course(run), *_experts(run)]
    if not rows:
        return ""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(HEAD)
    writer.writerows([_plain(cell) for cell in row] for row in rows)
    return stream.getvalue()


def _plain(cell: float | int | str) -> float | int | str:
    """A name of a user's is never a formula."""
    if isinstance(cell, str) and cell.startswith(FORMULA):
        return f"'{cell}"
    return cell


def _accuracies(run: RunReader) -> Iterator[Row]:
    """Every row of every evaluation."""
    for where, scores in run.evaluations.items():
        what = f"{scores.split} accuracy"
        if scores is not run.scores:
            what += f" ({where})"
        entries = {f"synthetic, {model}": entry for model, entry in scores.architecture.items()}
        entries |= {BASELINE_NAMES.get(name, name): entry for name, entry in scores.baselines.items()}
        if scores.majority is not None:
            entries[MAJORITY_NAME] = scores.majority
        if scores.taught is not None:
            entries[scores.taught.text] = scores.taught.row
        for name, entry in entries.items():
            yield what, name, "", entry.mean, _known(entry.std), entry.n
            yield from ((f"{what} of one network", name, str(number), value, "", 1) for number, value in _single(entry))


def _single(entry: RowScores) -> list[tuple[int, float]]:
    if entry.n < 2:
        return []
    return list(enumerate(entry.final))


def _by_class(run: RunReader) -> Iterator[Row]:
    """How often images of one class were predicted as another, counts of all networks added up; pairs that did not
    occur are left out, because a hundred classes have ten thousand."""
    if run.entry is None or run.entry.counts is None or run.synthetic is None:
        return
    classes = [shown_name(name) for name in run.synthetic.classes]
    for true, counts in zip(classes, run.entry.counts, strict=False):
        for predicted, count in zip(classes, counts, strict=False):
            if count:
                yield "images by true and predicted class", true, predicted, count, "", run.entry.n


def _course(run: RunReader) -> Iterator[Row]:
    """Loss, learning rate and held-out accuracy over the outer steps."""
    every = max(1, math.ceil(len(run.metrics) / MOST_STEPS))
    kept = {"loss": every, "lr": every, "validation": 1}
    for field, name in {"loss": "loss", "lr": "learning rate", "validation": "held-out accuracy"}.items():
        known = curve(run.metrics, field)
        for iteration, value in list(zip(known.iterations, known.values, strict=True))[:: kept[field]]:
            yield name, "iteration", str(iteration), value, "", ""


def _experts(run: RunReader) -> Iterator[Row]:
    """Accuracy and squared step of each expert after each epoch."""
    if run.experts is None:
        return
    for number, each in enumerate(run.experts.curves):
        for name, values in (
            ("expert's test accuracy", each.test_accuracy),
            ("expert's training accuracy", each.train_accuracy),
            ("expert's squared step", each.step_squared),
        ):
            yield from _epochs(name, f"expert {number}", values)


def _epochs(name: str, whose: str, values: Sequence[float]) -> Iterator[Row]:
    for epoch, value in enumerate(values, start=1):
        yield name, whose, str(epoch), value, "", ""


def _known(value: float | None) -> float | str:
    if value is None:
        return ""
    return value
