"""Progress with pace, ETA and memory: a bar on a terminal, a plain line now and then where there is none, nothing when quiet."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from .memory import described
from .status import Status, StatusFile, amount

PLAIN_EVERY_S = 10.0
LONG_S = 2.0
"""A phase without a count is told of in plain lines once it has lasted this long."""


class Output:
    """Holds the one console of the process, so that tests and `--quiet` can change it in one place."""

    console = Console(stderr=True)
    quiet = False
    file: StatusFile | None = None


def console() -> Console:
    return Output.console


def be_quiet(quiet: bool) -> None:
    """Silence every progress bar of this process, or bring them back."""
    Output.quiet = quiet


@contextmanager
def quietly() -> Iterator[None]:
    """No progress bars inside this block, for work that is a step of something already shown."""
    before, Output.quiet, Output.file = (Output.quiet, Output.file), True, None
    try:
        yield
    finally:
        Output.quiet, Output.file = before


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Write what bars show into the file `path` too, even when quiet, so that another terminal can follow.

    It is removed when the block ends well. An error or a kill leaves it, so that it tells how far the work came and with what command.
    """
    before, file = Output.file, StatusFile(path)
    Output.file = file
    try:
        yield
    except BaseException:
        file.stop()
        raise
    else:
        file.remove()
    finally:
        Output.file = before


class Bar:
    """One phase of work: call `step` after each unit. A step is `per` of what `unit` names."""

    def __init__(self, title: str, total: int | None, done: int, progress: Progress | None, unit: str = "steps", per: float = 1) -> None:
        self.title, self.total, self.done, self.start, self.unit, self.per = title, total, done, done, unit, per
        self._progress, self._file = progress, Output.file
        fields = {"note": "", "unit": unit, "per": per}
        self._task = progress.add_task(escape(title), total=total, completed=done, **fields) if progress else None
        self._began = self._printed = time.monotonic()
        self._write("")

    def step(self, units: int = 1, note: str = "") -> None:
        """Count `units` as done; `note` is shown beside the bar (a loss, an accuracy)."""
        self.done += units
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self.done, note=note)
        elif not Output.quiet and time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._printed = time.monotonic()
            console().print(self.status(note).line(), highlight=False, markup=False, soft_wrap=True)
        if self._file is not None and self._file.due():
            self._write(note)

    def status(self, note: str = "") -> Status:
        """Where the phase is."""
        fresh, seconds = self.done - self.start, time.monotonic() - self._began
        pace = fresh / seconds if seconds > 0 else 0.0
        left = (self.total - self.done) / pace if pace and self.total is not None else None
        return Status(self.title, self.done, self.total, pace * self.per, self.unit, left, described(), note)

    def _write(self, note: str) -> None:
        if self._file is not None:
            self._file.write(self.status(note))


class PaceColumn(ProgressColumn):
    """Images or steps a second, over the last half minute."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{amount(speed * task.fields['per'])} {task.fields['unit']}/s" if speed else "")


class MemoryColumn(ProgressColumn):
    """Memory of this process and its workers; nobody waits for an accelerator to learn it."""

    max_refresh = 1.0

    def render(self, task: Task) -> Text:
        return Text(described())


@contextmanager
def bar(title: str, total: int, done: int = 0, unit: str = "steps", per: float = 1) -> Iterator[Bar]:
    """A progress bar for `total` steps, of which `done` were finished by an earlier run; a step is `per` of what `unit` names."""
    if Output.quiet or not console().is_terminal:
        if not Output.quiet:
            console().print(f"{title}: {total - done} to do", highlight=False, markup=False, soft_wrap=True)
        yield Bar(title, total, done, None, unit, per)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        PaceColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        MemoryColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console()) as progress:
        yield Bar(title, total, done, progress, unit, per)


@contextmanager
def phase(title: str) -> Iterator[None]:
    """Tell of work whose end is not known: a moving bar that vanishes, or a plain line if it lasts. No other bar may begin inside."""
    if Output.quiet or not console().is_terminal:
        Bar(title, None, 0, None)
        late = threading.Timer(LONG_S, _say, [title])
        late.daemon = True
        late.start()
        try:
            yield
        finally:
            late.cancel()
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn(), MemoryColumn())
    with Progress(*columns, console=console(), transient=True) as progress:
        Bar(title, None, 0, progress)
        yield


def _say(title: str) -> None:
    if not Output.quiet:
        console().print(f"{title} …", highlight=False, markup=False, soft_wrap=True)
