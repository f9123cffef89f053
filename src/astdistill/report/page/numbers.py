"""The numbers behind a run's part of the page, as CSV: one line for each value."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence

from ...evaluation.scores import BASELINE_NAMES, MAJORITY_NAME, RowScores
from ...runtime.text import display_name
from ..figures import curve
from ..run import RunReader

HEAD = ("quantity", "of", "at", "value", "standard deviation", "n")
"""Columns: the quantity, its subject, the iteration, epoch or class, and the value, in percent for an accuracy. For
several networks the value is their mean, with standard deviation and number."""
MOST_STEPS = 5000
"""Outer steps in the page's CSV; of a longer run every second, third, … one."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters that a spreadsheet takes for the beginning of a formula."""

Row = tuple[str, str, str, float | int | str, float | str, int | str]


def numbers(run: RunReader) -> str:
    """The CSV text; '' for a run without a number."""
    rows = [*_accuracies(run), *_by_class(run), *_course(run), *_experts(run)]
    if not rows:
        return ""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(HEAD)
    writer.writerows([_escape_formula(cell) for cell in row] for row in rows)
    return stream.getvalue()


def _escape_formula(cell: float | int | str) -> float | int | str:
    """Quote text that a spreadsheet would take for a formula."""
    if isinstance(cell, str) and cell.startswith(FORMULA):
        return f"'{cell}"
    return cell


def _accuracies(run: RunReader) -> Iterator[Row]:
    """Every row of every evaluation."""
    for folder, scores in run.evaluations.items():
        quantity = f"{scores.split} accuracy"
        if scores is not run.scores:
            quantity += f" ({folder})"
        entries = {f"synthetic, {model}": entry for model, entry in scores.architecture.items()}
        entries |= {BASELINE_NAMES.get(name, name): entry for name, entry in scores.baselines.items()}
        if scores.majority is not None:
            entries[MAJORITY_NAME] = scores.majority
        if scores.taught is not None:
            entries[scores.taught.text] = scores.taught.row
        for name, entry in entries.items():
            yield quantity, name, "", entry.mean, _value_or_empty(entry.std), entry.n
            yield from (
                (f"{quantity} of one network", name, str(number), value, "", 1)
                for number, value in _single_networks(entry)
            )


def _single_networks(entry: RowScores) -> list[tuple[int, float]]:
    if entry.n < 2:
        return []
    return list(enumerate(entry.final))


def _by_class(run: RunReader) -> Iterator[Row]:
    """How often images of one class were predicted as another, counts of all networks added up; pairs that did not
    occur are left out, because a hundred classes have ten thousand."""
    if run.entry is None or run.entry.counts is None or run.synthetic is None:
        return
    classes = [display_name(name) for name in run.synthetic.classes]
    for true, counts in zip(classes, run.entry.counts, strict=False):
        for predicted, count in zip(classes, counts, strict=False):
            if count:
                yield "images by true and predicted class", true, predicted, count, "", run.entry.n


def _course(run: RunReader) -> Iterator[Row]:
    """Loss, learning rate and held-out accuracy over the outer steps."""
    stride = max(1, math.ceil(len(run.metrics) / MOST_STEPS))
    strides = {"loss": stride, "lr": stride, "validation": 1}
    for field, name in {"loss": "loss", "lr": "learning rate", "validation": "held-out accuracy"}.items():
        logged = curve(run.metrics, field)
        for iteration, value in list(zip(logged.iterations, logged.values, strict=True))[:: strides[field]]:
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


def _epochs(name: str, subject: str, values: Sequence[float]) -> Iterator[Row]:
    for epoch, value in enumerate(values, start=1):
        yield name, subject, str(epoch), value, "", ""


def _value_or_empty(value: float | None) -> float | str:
    if value is None:
        return ""
    return value
