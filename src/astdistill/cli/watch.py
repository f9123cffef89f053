"""`astdistill watch`: a run as seen from another terminal; look, show, wait, look again."""

from __future__ import annotations

import math
import shlex
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..report.live import LiveRun, read_if_there
from ..report.sweep import Sweep, SweepRow
from ..report.whose import current, outdated, said
from ..runtime.config import Record
from ..runtime.errors import InputError
from ..runtime.files import check_folder, reading
from ..runtime.run_dir import RunDir
from ..runtime.tables import plus_minus, spread
from ..runtime.terminal import Terminal
from .commands import command
from .flags import Word


def screen(view: LiveRun) -> Table:
    """One line for each thing there is to say: how it stands, the stages with their bars, loss, learning rate,
    validation, scores."""
    config = view.config
    shown = _grid()
    with reading(view.dir.config, "the settings of a run", "restore it, or name another run"):
        about = f"{config['method']['name']}, {config['ipc']} per class, {config['model']}; {view.dir.folder}"
        rows = [(str(config["name"]), "", about), *_rows(view)]
    for title, bar, text in rows:
        shown.add_row(title, bar, Text(text))
    return shown


def _rows(view: LiveRun) -> Iterator[tuple[str, ProgressBar | str, str]]:
    if view.expert_progress is not None:
        seen = view.expert_progress
        text = f"{seen.finished}/{seen.count} finished"
        if seen.accuracies:
            text += f", test {spread(seen.accuracies)} % so far"
        yield "experts", _bar(seen.epochs, seen.of), text
    if view.metrics:
        yield from _distillation(view)
    yield from _scores(view)
    if view.running and view.status is not None:
        yield "now", _bar(view.status.done, view.status.total), view.status.line()
    yield "", "", ending(view)


def _distillation(view: LiveRun) -> Iterator[tuple[str, ProgressBar | str, str]]:
    lines, whole = view.metrics, int(view.config["distill"]["iterations"])
    done, losses = int(lines[-1]["iteration"]) + 1, finite(lines, "loss")
    told = [f"η {float(line['lr']):.4g}" for line in lines[-1:] if line.get("lr") is not None]
    told += [f"{count} {word}" for word in ("skipped", "passed") if (count := sum(word in line for line in lines))]
    yield "distillation", _bar(done, whole), ", ".join([f"step {done:,} of {whole:,}", *told])
    if losses:
        yield "loss", sparkline(losses, _bar_width()), f"{losses[-1]:.4f} (lowest {min(losses):.4f})"
    tested = [line for line in lines if line.get("validation") is not None]
    if tested:
        best = max(tested, key=lambda line: float(line["validation"]))
        text = f"{float(tested[-1]['validation']):.1f} % after step {tested[-1]['iteration'] + 1}"
        yield (
            "validation",
            sparkline(finite(tested, "validation"), _bar_width()),
            f"{text}, best {float(best['validation']):.1f} % after step {best['iteration'] + 1}",
        )


def _scores(view: LiveRun) -> Iterator[tuple[str, ProgressBar | str, str]]:
    """What the run's own evaluation has so far, or where that is of an earlier set the latest one; a file that cannot
    be read is no reason to stop watching."""
    evaluation = view.dir
    if outdated(view.dir, [view.dir.synthetic]):
        evaluation = current(view.dir)
    if evaluation is None:
        yield "scores", "", said(view.dir.folder, shlex.join(["astdistill", "evaluate", str(view.dir.folder)]))
        return
    with suppress(InputError, KeyError, TypeError, AttributeError):
        scores = read_if_there(evaluation.scores)
        for title, rows in (("scores", scores["architecture"]), ("real images", scores["baselines"])):
            for name, entry in rows.items():
                yield title, name, f"{plus_minus(entry['mean'], entry['std'])} % (n = {entry['n']})"


def ending(view: LiveRun) -> str:
    """A sentence for a run that nobody is at; empty for one under way."""
    if view.running:
        return ""
    if view.finished:
        return finished_text(view)
    if view.process.get("command"):
        return f"It is not running. This goes on with it: {shlex.join(['astdistill', *view.process['command']])}"
    return "It is not running. The command that began it goes on with it; provenance.json has its words."


def finished_text(view: LiveRun) -> str:
    """That the run is finished, and where its report is."""
    if view.dir.page.exists():
        return f"The run is finished; its report: {view.dir.page}"
    return "The run is finished."


def _bar(done: int, total: int | None) -> ProgressBar | str:
    if total is None:
        return ""
    return ProgressBar(total=max(1, total), completed=done, width=_bar_width())


def _bar_width() -> int:
    """Columns of a bar: a quarter of a narrow terminal, so that words have room beside it."""
    return min(20, max(4, Terminal().width // 4))


def finite(lines: Sequence[dict[str, Any]], name: str) -> list[float]:
    """The finite values of `name`, in order."""
    values = [float(line[name]) for line in lines if line.get(name) is not None]
    return [value for value in values if math.isfinite(value)]


BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """`values` as at most `width` blocks of a height, each the median of its share; empty for none."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [round(place * len(values) / width) for place in range(width + 1)]
    medians = [statistics.median(values[first:last]) for first, last in pairwise(edges)]
    low, span = min(medians), max(medians) - min(medians)
    if span == 0:
        return BLOCKS[0] * width
    return "".join(BLOCKS[round((value - low) / span * (len(BLOCKS) - 1))] for value in medians)


@dataclass(frozen=True)
class LiveSweep:
    """A sweep as it is now."""

    folder: Path
    sweep: Sweep
    whole: LiveRun
    """What the process that runs the sweep says of itself."""

    @property
    def running(self) -> bool:
        return self.whole.running

    @property
    def ended(self) -> bool:
        """Whether nobody is at it any more."""
        return not self.running


def screen_of_sweep(view: LiveSweep) -> Table:
    """One line for the whole, and one for each row."""
    shown = _grid()
    done, failed, left = (len(view.sweep.of(state)) for state in ("finished", "failed", "waiting"))
    shown.add_row("sweep", _bar(done, len(view.sweep.rows)), Text(f"{view.sweep.title}; {view.folder}"))
    for row in view.sweep.rows:
        shown.add_row(row.folder, *_row_of_sweep(view.folder, row))
    if view.running and view.whole.status is not None:
        shown.add_row("now", _bar(view.whole.status.done, view.whole.status.total), Text(view.whole.status.line()))
        return shown
    words = f"{done} rows are finished, {failed} failed, {left} are left."
    if left or failed:
        words += " It is not running; the same command goes on with it."
    shown.add_row("", "", words)
    return shown


def _row_of_sweep(folder: Path, row: SweepRow) -> tuple[ProgressBar | str, Text]:
    """The bar of a row, and its accuracy, its error, or what it is doing."""
    if row.state == "finished":
        return "", Text(f"{spread(row.accuracies)} % (n = {len(row.accuracies)})")
    if row.state == "failed":
        return "", Text(f"failed: {row.sentence}")
    view = LiveRun.of(folder / row.folder)
    if view.running and view.status is not None:
        return _bar(view.status.done, view.status.total), Text(view.status.line())
    return "", Text("waiting")


def _grid() -> Table:
    """Three columns: what, its bar, and words."""
    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(width=_bar_width())
    shown.add_column(overflow="fold")
    return shown


def look(folder: Path) -> LiveRun | LiveSweep | None:
    """The run or the sweep in `folder` as it is now; None where none has begun. Raises InputError for a folder of other
    things."""
    run = RunDir(folder)
    if run.config.exists():
        return LiveRun.of(folder)
    if (sweep := Sweep.read(folder)) is not None:
        return LiveSweep(folder, sweep, LiveRun.of(folder))
    if folder.is_file() or not run.empty:
        raise InputError(f"{folder} holds no run; name the folder that a run writes to, such as runs/demo.")
    return None


SLOWEST = 3600
"""Seconds between two looks, at most."""


class Watch(Record):
    """Show the progress of a run or a sweep from another terminal until it ends, without affecting it."""

    run: Annotated[Path, Word(positional=True)]
    """The run's folder; it need not exist yet."""
    once: bool = False
    """Show the present state and exit."""
    every: Annotated[float, Word(metavar="SECONDS")] = 2.0
    """Seconds between two updates."""


@command("watch")
def watch(given: Watch) -> None:
    """Show it; Ctrl-C ends the watching, not the run, and is no error."""
    with suppress(KeyboardInterrupt):
        _watch(given.run, given.once, given.every)


def _watch(run: Path, once: bool, every: float) -> None:
    if not 0 < every <= SLOWEST:
        raise InputError(f"--every {every:g} was given; choose a number of seconds above 0 and up to {SLOWEST}.")
    check_folder(run, "watch", file=True)  # of a file, `look` says more
    view = look(run)
    if once:
        if view is None:
            raise InputError(f"There is no run in {run} yet; start one with: astdistill run PRESET --out {run}")
        Terminal().print(shown(view))
        return
    if view is None:
        Terminal().print(f"There is no run in {run} yet; waiting for it. Ctrl-C ends the waiting.", highlight=False)
    _follow(run, view, every)


def shown(view: LiveRun | LiveSweep) -> Table:
    """The screen of what was found."""
    if isinstance(view, LiveSweep):
        return screen_of_sweep(view)
    return screen(view)


def _follow(run: Path, view: LiveRun | LiveSweep | None, every: float) -> None:
    """Show the run until nobody is at it any more; on a terminal in place, otherwise one look below the other."""
    console, idle = Terminal(), 0
    with Live(console=console, auto_refresh=False) if console.is_terminal else _Plain(console) as live:
        while idle < 2:  # a run that has just claimed its folder says a moment later that it is at work
            if view is not None:
                live.update(shown(view), refresh=True)
                idle += 1
                if view.running:
                    idle = 0
                elif view.ended:
                    idle = 2
            if idle < 2:
                time.sleep(every)
                view = look(run)


class _Plain:
    """What stands for a live display where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, shown: object, refresh: bool) -> None:
        self._console.print(shown)
