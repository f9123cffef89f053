"""The page of a search for learning rates: the result, the course of the search, and every trial."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from ...runtime.files import write_text
from ...runtime.status import duration
from ..figures import COLOURS, FAINT, tidy
from ..tuning import PAGE, TrialRecord, Tuning, short, trials_table
from .drawing import panel, svg
from .head import DATA_NAMES, method_name
from .templates import filled, policy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DONE, CHOSEN = COLOURS[0], COLOURS[1]
DEPTH = 20.0
"""Points below the best accuracy at which the figures end; lower values are drawn at the lower edge."""


def save_tuning_page(tuning: Tuning, folder: Path) -> Path:
    """Write `folder`/report.html and return its path."""
    winner, result = tuning.winner, {}
    if winner is not None:
        result = {"score": f"{winner.judged or winner.last:.1f}", "winner": winner.number}
    text = filled(
        "tuning.html",
        title=_title(tuning),
        policy=policy(),
        name=folder.resolve().name,
        facts=_facts(tuning),
        held_out=f"{tuning.held_out:,}",
        steps=tuning.steps,
        flags=tuning.flags,
        command=tuning.command,
        course=[("Best held-out accuracy so far", _course(tuning)), ("Accuracy by outer steps", _rungs(tuning))],
        values=[(short(name), _values(tuning, name)) for name in tuning.ranges],
        trials=trials_table(tuning, most=None),
        **result,
    )
    write_text(folder / PAGE, text)
    return folder / PAGE


def _title(tuning: Tuning) -> str:
    source = Path(tuning.experiment["data"]["source"]).name
    ipc, method = tuning.experiment["ipc"], method_name(tuning.experiment["method"]["name"])
    return f"{DATA_NAMES.get(source, source)} · {ipc} per class · {method} · learning rates"


def _facts(tuning: Tuning) -> list[tuple[str, str]]:
    ended = [trial.outcome for trial in tuning.trials]
    spent = sum(trial.seconds or 0.0 for trial in tuning.trials)
    counts = [f"{ended.count(kind)} {kind}" for kind in ("complete", "pruned", "diverged") if kind in ended]
    return [
        ("preset", tuning.experiment["name"]),
        ("network", tuning.experiment["model"]),
        ("trials", f"{len(ended)}: {', '.join(counts)}"),
        ("outer steps", f"{tuning.steps} at most"),
        ("time of the trials", duration(spent)),
    ]


def _course(tuning: Tuning) -> Markup:
    """Accuracy of every trial by its number, and the best so far of those that reached the last step."""
    figure, axes = panel()
    tidy(axes, "", "trial", "held-out accuracy, %")
    best, numbers, values = 0.0, [], []
    _limit_accuracy(axes, tuning)
    for trial in sorted(tuning.trials, key=lambda trial: trial.number):
        _draw_trial(axes, float(trial.number), trial, tuning)
        if trial.outcome == "complete":
            best = max(best, trial.last)
            numbers.append(trial.number)
            values.append(best)
    axes.step(numbers, values, where="post", color=DONE, linewidth=1.4)
    return svg(figure, "tuning-course", "Held-out accuracy of each trial, and the best so far")


def _rungs(tuning: Tuning) -> Markup:
    """Accuracy of every trial over its outer steps."""
    figure, axes = panel()
    tidy(axes, "", "outer steps, log scale", "held-out accuracy, %")
    lowest = _limit_accuracy(axes, tuning)
    for trial in reversed(tuning.ranked):
        steps = sorted(trial.accuracies)
        style = {"color": FAINT, "linewidth": 0.9}
        if trial.outcome == "complete":
            style = {"color": DONE, "linewidth": 1.3}
        if trial == tuning.winner:
            style = {"color": CHOSEN, "linewidth": 2.0}
        axes.plot(steps, [max(lowest, trial.accuracies[step]) for step in steps], "o-", markersize=3, **style)
    _logarithmic(axes)
    rungs = sorted({step for trial in tuning.trials for step in trial.accuracies})
    axes.set_xticks(rungs, [str(step) for step in rungs])
    return svg(figure, "tuning-rungs", "Held-out accuracy of the trials over their outer steps")


def _values(tuning: Tuning, name: str) -> Markup:
    """Accuracy over the tried values of one setting."""
    figure, axes = panel()
    tidy(axes, "", f"{short(name)}, log scale", "held-out accuracy, %")
    _limit_accuracy(axes, tuning)
    for trial in tuning.trials:
        _draw_trial(axes, trial.values[name], trial, tuning)
    _logarithmic(axes)
    return svg(figure, f"tuning-{short(name).replace('_', '-')}", f"Held-out accuracy over {short(name)}")


def _logarithmic(axes: Axes) -> None:
    """Make x logarithmic, with few ticks, written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def _limit_accuracy(axes: Axes, tuning: Tuning) -> float:
    """End the axis of accuracies `DEPTH` below the best one, and return that value."""
    lowest = _lowest(tuning)
    axes.set_ylim(lowest - 1, lowest + DEPTH + 2)
    return lowest


def _lowest(tuning: Tuning) -> float:
    return max((max(trial.accuracies.values(), default=0.0) for trial in tuning.trials), default=0.0) - DEPTH


def _draw_trial(axes: Axes, x: float, trial: TrialRecord, tuning: Tuning) -> None:
    """Draw one trial: filled if it reached the last step, with a ring if it is the winner."""
    inside = {"complete": DONE}.get(trial.outcome, "none")
    edge = {"complete": DONE}.get(trial.outcome, FAINT)
    y = max(_lowest(tuning), trial.last)
    axes.plot([x], [y], "o", markersize=4.5, markerfacecolor=inside, markeredgecolor=edge)
    if trial == tuning.winner:
        axes.plot([x], [y], "o", markersize=9, markerfacecolor="none", markeredgecolor=CHOSEN, markeredgewidth=1.8)
