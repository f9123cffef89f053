"""The view of a run for people."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterator

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .view import View, finite, sparkline


def screen(view: View) -> Table:
    """One line for each thing there is to say: how it stands, the stages with their bars, loss, step size, validation, scores."""
    config = view.config
    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(width=20)
    shown.add_column(overflow="fold")
    shown.add_row(str(config["name"]), "", f"{config['method']['name']}, {config['ipc']} per class, {config['model']}; {view.folder}")
    for title, bar, text in _rows(view):
        shown.add_row(title, bar, Text(text))
    return shown


def _rows(view: View) -> Iterator[tuple[str, ProgressBar | str, str]]:
    if view.experts is not None:
        seen, each = view.experts, view.experts.accuracies
        spread = f" ± {statistics.stdev(each):.1f}" if len(each) > 1 else ""
        reached = f", test {statistics.fmean(each):.1f}{spread} % so far" if each else ""
        yield "experts", _bar(seen.epochs, seen.of), f"{seen.finished}/{seen.count} finished{reached}"
    if view.metrics:
        yield from _distillation(view)
    if view.scores:
        yield from _scores(view)
    if view.running and view.status is not None:
        yield "now", _bar(view.status.done, view.status.total), view.status.line()
    yield "", "", ending(view)


def _distillation(view: View) -> Iterator[tuple[str, ProgressBar | str, str]]:
    lines, whole = view.metrics, int(view.config["distill"]["iterations"])
    done, losses = int(lines[-1]["iteration"]) + 1, finite(lines, "loss")
    missed = [f"{count} {word}" for word in ("skipped", "passed") if (count := sum(word in line for line in lines))]
    yield "distillation", _bar(done, whole), ", ".join([f"step {done:,} of {whole:,}", f"η {float(lines[-1]['lr']):.4g}", *missed])
    if losses:
        yield "loss", sparkline(losses, 20), f"{losses[-1]:.4f} (lowest {min(losses):.4f})"
    tested = [line for line in lines if line.get("validation") is not None]
    if tested:
        best = max(tested, key=lambda line: float(line["validation"]))
        text = f"{float(tested[-1]['validation']):.1f} % after step {tested[-1]['iteration'] + 1}"
        yield (
            "validation",
            sparkline(finite(tested, "validation"), 20),
            f"{text}, best {float(best['validation']):.1f} % after step {best['iteration'] + 1}",
        )


def _scores(view: View) -> Iterator[tuple[str, ProgressBar | str, str]]:
    for table in ("architecture", "baselines"):
        for name, entry in view.scores.get(table, {}).items():
            spread = "" if entry["std"] is None else f" ± {entry['std']:.1f}"
            yield ("scores" if table == "architecture" else "real images"), name, f"{entry['mean']:.1f}{spread} % (n = {entry['n']})"


def ending(view: View) -> str:
    """A sentence for a run that nobody is at; empty for one under way."""
    if view.running:
        return ""
    if view.finished:
        return "The run has ended."
    if view.process.get("command"):
        return f"It is not running. This goes on with it: {shlex.join(['astdistill', *view.process['command']])}"
    return "It is not running. The command that began it goes on with it; provenance.json has its words."


def _bar(done: int, total: int | None) -> ProgressBar | str:
    return "" if total is None else ProgressBar(total=max(1, total), completed=done, width=20)
