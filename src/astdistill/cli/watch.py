"""`astdistill watch`: the progress of a run or a sweep, shown in another terminal and updated repeatedly."""

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

from ..report.current_scores import current_evaluation, outdated, outdated_message
from ..report.live import LiveRun, read_json_if_exists
from ..report.sweep import Sweep, SweepRow
from ..runtime.config import Record
from ..runtime.errors import InputError
from ..runtime.files import check_folder, reading
from ..runtime.run_dir import RunDir
from ..runtime.tables import plus_minus, spread
from ..runtime.terminal import Terminal
from .commands import command
from .flags import Word


def screen(view: LiveRun) -> Table:
    """A table of the progress: settings, the stages with their bars, loss, learning rate, validation, scores, and the
    state of the run."""
    config = view.config
    grid = _grid()
    with reading(view.dir.config, "the settings of a run", "restore it, or name another run"):
        about = f"{config['method']['name']}, {config['ipc']} per class, {config['model']}; {view.dir.folder}"
        rows = [(str(config["name"]), "", about), *_rows(view)]
    for title, bar, text in rows:
        grid.add_row(title, bar, Text(text))
    return grid


def _rows(view: LiveRun) -> Iterator[tuple[str, ProgressBar | str, str]]:
    if view.expert_progress is not None:
        experts = view.expert_progress
        text = f"{experts.finished}/{experts.count} finished"
        if experts.accuracies:
            text += f", test {spread(experts.accuracies)} % so far"
        yield "experts", _bar(experts.epochs, experts.of), text
    if view.metrics:
        yield from _distillation_rows(view)
    yield from _score_rows(view)
    if view.running and view.status is not None:
        yield "now", _bar(view.status.done, view.status.total), view.status.line()
    yield "", "", ending(view)


def _distillation_rows(view: LiveRun) -> Iterator[tuple[str, ProgressBar | str, str]]:
    lines, total = view.metrics, int(view.config["distill"]["iterations"])
    done, losses = int(lines[-1]["iteration"]) + 1, finite(lines, "loss")
    details = [f"η {float(line['lr']):.4g}" for line in lines[-1:] if line.get("lr") is not None]
    details += [
        f"{count} {label}"
        for key, label in {"skipped": "skipped", "passed": "left out"}.items()
        if (count := sum(key in line for line in lines))
    ]
    yield "distillation", _bar(done, total), ", ".join([f"step {done:,} of {total:,}", *details])
    if losses:
        yield "loss", sparkline(losses, _bar_width()), f"{losses[-1]:.4f} (lowest {min(losses):.4f})"
    validated = [line for line in lines if line.get("validation") is not None]
    if validated:
        best = max(validated, key=lambda line: float(line["validation"]))
        text = f"{float(validated[-1]['validation']):.1f} % after step {validated[-1]['iteration'] + 1}"
        yield (
            "validation",
            sparkline(finite(validated, "validation"), _bar_width()),
            f"{text}, best {float(best['validation']):.1f} % after step {best['iteration'] + 1}",
        )


def _score_rows(view: LiveRun) -> Iterator[tuple[str, ProgressBar | str, str]]:
    """Yield the scores of the run's own evaluation so far or, if that is of an earlier set, of the latest evaluation. A
    file that cannot be read does not end the watching."""
    evaluation = view.dir
    if outdated(view.dir, [view.dir.synthetic]):
        evaluation = current_evaluation(view.dir)
    if evaluation is None:
        yield (
            "scores",
            "",
            outdated_message(view.dir.folder, shlex.join(["astdistill", "evaluate", str(view.dir.folder)])),
        )
        return
    with suppress(InputError, KeyError, TypeError, AttributeError):
        scores = read_json_if_exists(evaluation.scores)
        for title, rows in (("scores", scores["architecture"]), ("real images", scores["baselines"])):
            for name, entry in rows.items():
                yield title, name, f"{plus_minus(entry['mean'], entry['std'])} % (n = {entry['n']})"


def ending(view: LiveRun) -> str:
    """A sentence for a run that is not running; empty for a running one."""
    if view.running:
        return ""
    if view.finished:
        return finished_text(view)
    if view.process.get("command"):
        return f"It is not running. This resumes it: {shlex.join(['astdistill', *view.process['command']])}"
    return "It is not running. The command that began it, which is in provenance.json, resumes it."


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
    """Columns of a bar: a quarter of a narrow terminal, so that the text next to it has room."""
    return min(20, max(4, Terminal().width // 4))


def finite(lines: Sequence[dict[str, Any]], name: str) -> list[float]:
    """The finite values of `name`, in order."""
    values = [float(line[name]) for line in lines if line.get(name) is not None]
    return [value for value in values if math.isfinite(value)]


BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """`values` as at most `width` block characters, each of which shows the median of its share; empty for no
    values."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    medians = [statistics.median(values[first:last]) for first, last in pairwise(edges)]
    low, span = min(medians), max(medians) - min(medians)
    if span == 0:
        return BLOCKS[0] * width
    return "".join(BLOCKS[round((value - low) / span * (len(BLOCKS) - 1))] for value in medians)


@dataclass(frozen=True)
class LiveSweep:
    """A sweep at the time of reading."""

    folder: Path
    sweep: Sweep
    process: LiveRun
    """The progress of the process that runs the sweep."""

    @property
    def running(self) -> bool:
        return self.process.running

    @property
    def ended(self) -> bool:
        """Whether no process runs it any more."""
        return not self.running


def screen_of_sweep(view: LiveSweep) -> Table:
    """A table with one line for the sweep, and one for each row."""
    grid = _grid()
    done, failed, waiting = (len(view.sweep.of(state)) for state in ("finished", "failed", "waiting"))
    grid.add_row("sweep", _bar(done, len(view.sweep.rows)), Text(f"{view.sweep.title}; {view.folder}"))
    for row in view.sweep.rows:
        grid.add_row(row.folder, *_row_of_sweep(view.folder, row))
    if view.running and view.process.status is not None:
        grid.add_row("now", _bar(view.process.status.done, view.process.status.total), Text(view.process.status.line()))
        return grid
    summary = f"{done} rows are finished, {failed} failed, {waiting} are left."
    if waiting or failed:
        summary += " It is not running; the same command resumes it."
    grid.add_row("", "", summary)
    return grid


def _row_of_sweep(folder: Path, row: SweepRow) -> tuple[ProgressBar | str, Text]:
    """The bar of a row, and its accuracy, its error or its current step."""
    if row.state == "finished":
        return "", Text(f"{spread(row.accuracies)} % (n = {len(row.accuracies)})")
    if row.state == "failed":
        return "", Text(f"failed: {row.sentence}")
    view = LiveRun.of(folder / row.folder)
    if view.running and view.status is not None:
        return _bar(view.status.done, view.status.total), Text(view.status.line())
    return "", Text("waiting")


def _grid() -> Table:
    """An empty table with three columns: name, bar and text."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(width=_bar_width())
    table.add_column(overflow="fold")
    return table


def look(folder: Path) -> LiveRun | LiveSweep | None:
    """The run or the sweep in `folder` in its present state; None if none has begun. Raises InputError for a folder
    with other contents."""
    run = RunDir(folder)
    if run.config.exists():
        return LiveRun.of(folder)
    if (sweep := Sweep.read(folder)) is not None:
        return LiveSweep(folder, sweep, LiveRun.of(folder))
    if folder.is_file() or not run.empty:
        raise InputError(f"{folder} holds no run; name the folder that a run writes to, such as runs/demo.")
    return None


MAX_SECONDS = 3600
"""Maximum number of seconds between two updates."""


class Watch(Record):
    """Show the progress of a run or a sweep from another terminal until it ends, without affecting it."""

    run: Annotated[Path, Word(positional=True)]
    """The run's folder; it need not exist yet."""
    once: bool = False
    """Show the present state and exit."""
    every: Annotated[float, Word(metavar="SECONDS")] = 2.0
    """Seconds between two updates."""


@command("watch")
def watch(options: Watch) -> None:
    """Show the progress. Ctrl-C ends the watching, not the run, and is not an error."""
    with suppress(KeyboardInterrupt):
        _watch(options.run, options.once, options.every)


def _watch(run: Path, once: bool, every: float) -> None:
    if not 0 < every <= MAX_SECONDS:
        raise InputError(f"--every {every:g} was given; choose a number of seconds above 0 and up to {MAX_SECONDS}.")
    check_folder(run, "watch", file=True)  # for a file, `look` raises a clearer error
    view = look(run)
    if once:
        if view is None:
            raise InputError(f"There is no run in {run} yet; start one with: astdistill run PRESET --out {run}")
        Terminal().print(view_table(view))
        return
    if view is None:
        Terminal().print(f"There is no run in {run} yet; waiting for it. Ctrl-C ends the waiting.", highlight=False)
    _follow(run, view, every)


def view_table(view: LiveRun | LiveSweep) -> Table:
    """The table for a run or a sweep."""
    if isinstance(view, LiveSweep):
        return screen_of_sweep(view)
    return screen(view)


def _follow(run: Path, view: LiveRun | LiveSweep | None, every: float) -> None:
    """Show the run until no process runs it any more: in place on a terminal, otherwise each update below the last
    one."""
    console, idle = Terminal(), 0
    with Live(console=console, auto_refresh=False) if console.is_terminal else _PlainDisplay(console) as live:
        while idle < 2:  # a run that has just locked its folder reports progress a moment later
            if view is not None:
                live.update(view_table(view), refresh=True)
                idle += 1
                if view.running:
                    idle = 0
                elif view.ended:
                    idle = 2
            if idle < 2:
                time.sleep(every)
                view = look(run)


class _PlainDisplay:
    """Replaces the live display if there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> _PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, renderable: object, refresh: bool) -> None:
        self._console.print(renderable)
