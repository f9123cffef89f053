"""Figures as files, in one style: the curves of a distillation, and the step lengths and accuracies of experts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from ..evaluation.scores import spread
from ..experts.recipe import ExpertCurve
from ..runtime.errors import InputError
from ..runtime.files import replacing
from ..runtime.text import display_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, darkest first."""
INK, FAINT = "#222222", "#9a9a9a"
DPI = 160


def blank(width: float, height: float, dpi: int = DPI, laid_out: bool = True) -> Figure:
    """An empty white figure of `width` × `height` inches, with constrained layout if `laid_out`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    if laid_out:
        figure.set_layout_engine("constrained", w_pad=0.12, wspace=0.03)
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, title: str, x: str, y: str) -> None:
    """Label the axes and remove what carries no data."""
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    _set_ticks(axes)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)


def _set_ticks(axes: Axes) -> None:
    """Set a few ticks at round numbers, with separators of thousands."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def logarithmic(axes: Axes) -> None:
    """Make y logarithmic, with ticks written out (0.2, not 2 × 10⁻¹) and enough of them on a short range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    (low, high), subs = axes.get_ylim(), (1,)
    if high / low < 300:
        subs = (1, 2, 5)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=30))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG, atomically; the bytes depend only on the figure."""
    with replacing(Path(path)) as temporary, unwarned():
        figure.savefig(temporary, format="png", metadata={"Software": None})


IN_LEGENDS = 60
"""Maximum letters of a name in a legend; descriptions of how experts were trained are longer than a class name may
be."""


@contextmanager
def unwarned() -> Iterator[None]:
    """Suppress warnings about characters that the font does not have; the picture shows a box in their place."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def legend(axes: Axes, **options: Any) -> None:
    """Draw a legend. Dollar signs do not start a formula, and names that begin with `_` are not left out."""
    handles, labels = [], []
    for artist in axes.get_lines():
        label = str(artist.get_label())
        if not label.startswith("_child"):
            handles.append(artist)
            labels.append(display_name(label, IN_LEGENDS))
    drawn = axes.legend(handles, labels, frameon=False, **options)
    for text in drawn.get_texts():
        text.set_parse_math(False)


SMOOTHED_OVER = 10
"""The trend is a moving median over 1/`SMOOTHED_OVER` of the run, because single losses depend on the segment drawn."""
FEW = 30


@dataclass(frozen=True)
class Curve:
    """One logged quantity: iterations and values where it was logged and finite, and the iterations where it was not
    finite."""

    iterations: list[int]
    values: list[float]
    broken: list[int]


def curve(lines: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """The values of `name` in the lines of metrics.jsonl; lines without it are skipped."""
    logged = [(int(line["iteration"]), line[name]) for line in lines if line.get(name) is not None]
    finite = [(iteration, float(value)) for iteration, value in logged if math.isfinite(float(value))]
    broken = [iteration for iteration, value in logged if not math.isfinite(float(value))]
    return Curve([iteration for iteration, _ in finite], [value for _, value in finite], broken)


def save_curves(
    lines: Sequence[Mapping[str, Any]],
    path: str | Path,
    validation: str = "validation",
    loss_name: str = "matching loss",
    learned_lr: bool = True,
    unmoved: float | None = None,
) -> None:
    """Write a PNG of the run's `loss`, of its `lr` if that was learned, and of `validation` (accuracy in percent) where
    a line has it.

    `lines` are those of metrics.jsonl. Iterations with a loss that is not finite are ticked in red; `unmoved` is the
    loss of a student that does not move, a dashed line.
    Raises InputError if there are no lines.
    """
    loss, rate, accuracy = (curve(lines, name) for name in ("loss", "lr", validation))
    if not loss.values and not loss.broken:
        raise InputError("The run has logged no iteration, so there is no curve to draw; distill first.")
    panels = 1 + learned_lr + bool(accuracy.values)
    figure = blank(4.4 * panels, 3.4)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    tidy(axes[0], loss_name.capitalize(), "iteration", "loss")
    draw_loss(axes[0], loss, unmoved)
    if learned_lr:
        tidy(axes[1], "Learned learning rate", "iteration", "η")
        axes[1].plot(rate.iterations, rate.values, color=COLOURS[2], linewidth=1.7)
    if accuracy.values:
        tidy(axes[-1], "Held-out accuracy", "iteration", "accuracy, %")
        axes[-1].plot(accuracy.iterations, accuracy.values, "o-", color=COLOURS[1], linewidth=1.5, markersize=4)
    span = [line["iteration"] for line in lines]
    margin = max(1.0, 0.03 * (max(span) - min(span)))
    for panel in axes:
        panel.set_xlim(min(span) - margin, max(span) + margin)
        panel.xaxis.get_major_locator().set_params(integer=True)
    save(figure, Path(path))


def draw_loss(axes: Axes, loss: Curve, unmoved: float | None = None) -> None:
    """Draw every loss as a faint dot, the trend as a line, broken iterations as red ticks at the bottom, and a dashed
    line at the loss of a student that does not move."""
    short = len(loss.values) <= FEW
    if short:
        axes.plot(loss.iterations, loss.values, "o", color=COLOURS[0], markersize=4, alpha=1, linewidth=0)
        axes.plot(loss.iterations, loss.values, color=COLOURS[0], linewidth=1.7)
    else:
        axes.plot(
            loss.iterations, loss.values, "o", color=FAINT, markersize=2, alpha=0.5, linewidth=0, label="one step"
        )
        label = f"median of {smoothed_over(len(loss.values))} steps"
        axes.plot(loss.iterations, trend(loss.values), color=COLOURS[0], linewidth=1.7, label=label)
    draw_unmoved(axes, unmoved)
    if loss.broken:
        heights = np.zeros(len(loss.broken))
        label = f"not finite ({len(loss.broken)})"
        axes.plot(
            loss.broken,
            heights,
            "|",
            color=COLOURS[1],
            markersize=12,
            transform=axes.get_xaxis_transform(),
            label=label,
            clip_on=False,
        )
    if axes.get_legend_handles_labels()[1]:
        legend(axes, fontsize=8)


def draw_unmoved(axes: Axes, unmoved: float | None) -> None:
    """Draw a dashed line at the loss of a student that does not move, if it is known; the axis then begins at 0."""
    if unmoved is None:
        return
    label = "no progress: the student does not move"
    axes.axhline(unmoved, color=COLOURS[1], linestyle="--", linewidth=1.2, label=label)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.08 * unmoved))


def smoothed_over(count: int) -> int:
    """The window of the trend's moving median for `count` values."""
    return 2 * max(1, count // SMOOTHED_OVER // 2 + 1) + 1


def trend(values: Sequence[float]) -> list[float]:
    """The moving median of the values, of the same length."""
    half = smoothed_over(len(values)) // 2
    return [float(np.median(values[max(0, index - half) : index + half + 1])) for index in range(len(values))]


FEW_EPOCHS = 12
"""Up to this number of epochs, every epoch is marked by a dot."""


def save_quality(stores: Mapping[str, Sequence[ExpertCurve]], path: str | Path) -> None:
    """Write a PNG: squared step length (log scale) and accuracy per epoch, mean and one standard deviation over the
    experts of each store.

    Solid accuracy is test, dashed is train; a store of imported experts has none. Raises InputError when a store holds
    no expert or experts of different length.
    """
    for name, curves in stores.items():
        _check_lengths(name, curves)
    figure = blank(9.2, 3.7)
    steps, accuracy = figure.subplots(1, 2)
    tidy(steps, "How far an expert moves in one epoch", "epoch", "‖θ$_e$ − θ$_{e-1}$‖²,  log scale")
    tidy(accuracy, "Accuracy", "epoch", "accuracy, %")
    for number, (name, curves) in enumerate(stores.items()):
        label = f"{name} (n = {len(curves)})"
        band(steps, [curve.step_squared for curve in curves], colour(number), "-", label, of_logarithm=True)
        for split, line in (("test", "-"), ("train", "--")):
            values, label = [getattr(curve, f"{split}_accuracy") for curve in curves], split
            if len(stores) > 1:
                label = f"{name}, {split}"
            if all(values):
                band(accuracy, values, colour(number), line, label)
    logarithmic(steps)
    for axes in (steps, accuracy):
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            legend(axes, fontsize=8)
        else:
            axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
    save(figure, Path(path))


def quality_table(stores: Mapping[str, Sequence[ExpertCurve]]) -> Table:
    """One row per store: experts, epochs, last accuracies, and the smallest and largest mean squared step over the
    epochs."""
    table = Table(
        caption="Last epoch, mean ± standard deviation over experts; squared step: range over epochs of the mean.",
        caption_justify="left",
    )
    table.add_column("experts")
    for column in ("n", "epochs", "test, %", "train, %", "squared step"):
        table.add_column(column, justify="right")
    for name, curves in stores.items():
        _check_lengths(name, curves)
        steps = np.array([curve.step_squared for curve in curves]).mean(axis=0)
        tested, trained = ([values[-1] for values in lists if values] for lists in _accuracies(curves))
        table.add_row(
            name,
            str(len(curves)),
            str(len(steps)),
            spread(tested),
            spread(trained),
            f"{steps.min():.2g} – {steps.max():.2g}",
        )
    return table


def epoch_table(name: str, curves: Sequence[ExpertCurve]) -> Table:
    """One row per epoch 1 … E: train and test accuracy in percent and squared step length, mean ± standard deviation
    over the experts.

    An accuracy is left out (–) unless every expert has it. Raises InputError for no expert or experts of different
    length.
    """
    _check_lengths(name, curves)
    n = len(curves)
    note = "n = 1 expert, so no deviation"
    if n > 1:
        note = f"mean ± standard deviation over n = {n} experts"
    table = Table(caption=f"{name}: {note}; squared step: ‖θ_e − θ_(e−1)‖².", caption_justify="left")
    for column in ("epoch", "train, %", "test, %", "squared step"):
        table.add_column(column, justify="right")
    tested, trained = _accuracies(curves)
    for epoch in range(len(curves[0].step_squared)):
        table.add_row(
            str(epoch + 1),
            spread(_in_epoch(trained, epoch)),
            spread(_in_epoch(tested, epoch)),
            _step_spread([curve.step_squared[epoch] for curve in curves]),
        )
    return table


def _accuracies(curves: Sequence[ExpertCurve]) -> tuple[list[list[float]], list[list[float]]]:
    """Test and train accuracies of each expert; empty if they were not measured, as for imported experts."""
    return [curve.test_accuracy for curve in curves], [curve.train_accuracy for curve in curves]


def _in_epoch(lists: Sequence[Sequence[float]], epoch: int) -> list[float]:
    """The accuracy of each expert after that epoch; empty unless every expert has it."""
    if not all(lists):
        return []
    return [values[epoch] for values in lists]


def _check_lengths(name: str, curves: Sequence[ExpertCurve]) -> None:
    lengths = {
        len(values or curve.step_squared)
        for curve in curves
        for values in (curve.step_squared, curve.test_accuracy, curve.train_accuracy)
    }
    if len(lengths) != 1 or 0 in lengths:
        found = "no expert"
        if curves:
            found = f"curves of {', '.join(map(str, sorted(lengths)))} epochs"
        raise InputError(
            f"The store '{name}' holds {found}; give finished experts that were trained for the same number of epochs."
        )


def band(
    axes: Axes, curves: Sequence[Sequence[float]], colour: str, line: str, label: str, of_logarithm: bool = False
) -> None:
    """The mean over experts and one deviation to both sides; on a log scale both are taken of the logarithm."""
    values = np.array(curves, dtype=float)
    if of_logarithm:
        values = np.log(np.where(values > 0, values, np.nan))
    mean, deviation = values.mean(axis=0), np.zeros(values.shape[1])
    if len(values) > 1:
        deviation = values.std(axis=0, ddof=1)
    middle, low, high = mean, mean - deviation, mean + deviation
    if of_logarithm:
        middle, low, high = map(np.exp, (middle, low, high))
    epochs, marker = np.arange(1, values.shape[1] + 1), None
    if len(epochs) <= FEW_EPOCHS:
        marker = "o"
    axes.plot(epochs, middle, line, color=colour, linewidth=1.7, label=label, marker=marker, markersize=3.5)
    axes.fill_between(epochs, low, high, color=colour, alpha=0.16, linewidth=0)


def colour(number: int) -> str:
    """The colour of run, store or cluster `number`."""
    return COLOURS[number % len(COLOURS)]


def _step_spread(steps: Sequence[float]) -> str:
    """Format with significant digits instead of decimals, because steps range from hundredths to tens."""
    mean = f"{np.mean(steps):.3g}"
    if len(steps) < 2:
        return mean
    return f"{mean} ± {np.std(steps, ddof=1):.2g}"
