"""Progress with pace, ETA and memory: a bar on a terminal, otherwise a plain line now and then, nothing when quiet."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from .status import Status, StatusFile, amount, described
from .terminal import Terminal

PLAIN_EVERY_S = 10.0
LONG_S = 2.0
"""A phase without a count prints a plain line after this many seconds."""


class Output:
    """Holds the console of the process, so that tests and `--quiet` can change it in one place."""

    console: Console = Terminal(stderr=True, lasting=True)
    quiet = False
    file: StatusFile | None = None
    innermost: Bar | None = None
    """The bar of the current work, of which new work becomes a part."""


def console() -> Console:
    return Output.console


def be_quiet(quiet: bool) -> None:
    """Silence every progress bar of this process, or bring them back."""
    Output.quiet = quiet


def is_quiet() -> bool:
    """Whether progress is hidden."""
    return Output.quiet


@contextmanager
def quietly() -> Iterator[None]:
    """Hide progress bars inside this block, for work that is a step of something already shown."""
    before = Output.quiet, Output.file, Output.innermost
    Output.quiet, Output.file, Output.innermost = True, None, None
    try:
        yield
    finally:
        Output.quiet, Output.file, Output.innermost = before


@contextmanager
def write_status(path: Path) -> Iterator[None]:
    """Also write what bars show to the file `path`, even when quiet, so that another terminal can follow.

    The file is removed if the block succeeds. An error or a kill leaves it, so that it records how far the work got and
    with which command.
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
    """One phase of work: call `step` after each unit. A step counts as `per` of what `unit` names."""

    def __init__(
        self, title: str, total: int | None, done: int, progress: Progress | None, unit: str = "steps", per: float = 1
    ) -> None:
        self.title, self.total, self.done, self.start, self.unit, self.per = title, total, done, done, unit, per
        self._progress, self._file = progress, Output.file
        self._began, self._note, self._outer = time.monotonic(), "", Output.innermost
        self._stepped = self._began
        fields = {"note": "", "unit": unit, "bar": self}
        self._task: TaskID | None = None
        if progress is not None:
            self._task = progress.add_task(escape(title), total=total, completed=done, **fields)
        # Nested bars share one interval between plain lines: a short part prints nothing, and the outer bar continues
        # from its last line.
        self._printed = self._began
        if self._outer is not None:
            self._printed = self._outer._printed
        self._write("")

    @contextmanager
    def under_way(self) -> Iterator[Bar]:
        """Make this the current work inside the block; the outer bar is shown again afterwards."""
        Output.innermost = self
        try:
            yield self
        finally:
            Output.innermost = self._outer
            if self._outer is not None:
                self._outer._resume_after(self)

    def _resume_after(self, part: Bar) -> None:
        """Continue after an inner bar has ended."""
        self._printed = part._printed
        if part._progress is not None and part._task is not None:
            part._progress.remove_task(part._task)
        self._write(self._note)

    @property
    def display(self) -> Progress | None:
        """The live display that this bar is a line of."""
        return self._progress

    def skip(self, units: int) -> None:
        """Count `units` that an earlier run has done: they do not affect the pace."""
        self.done, self.start = self.done + units, self.start + units
        if self._progress is None:
            return
        for task in self._progress.tasks:
            if task.id == self._task:
                task.completed = self.done

    def step(self, units: int = 1, note: str = "") -> None:
        """Count `units` as done; `note` is shown next to the bar (a loss, an accuracy)."""
        self.done, self._note, self._stepped = self.done + units, note, time.monotonic()
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self.done, note=note)
        elif not Output.quiet and time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._printed = time.monotonic()
            console().print(self.status(note).line(), highlight=False, markup=False, soft_wrap=True)
        if self._file is not None and self._file.due():
            self._write(note)

    def pace(self) -> tuple[float, float | None]:
        """Steps per second, and the seconds left after the last step, both from the steps of this call alone; 0 and
        None before the first step."""
        new, seconds = self.done - self.start, self._stepped - self._began
        if seconds <= 0 or new <= 0:
            return 0.0, None
        if self.total is None:
            return new / seconds, None
        return new / seconds, (self.total - self.done) * seconds / new

    def status(self, note: str = "") -> Status:
        """The current state of the phase."""
        pace, remaining = self.pace()
        return Status(self.title, self.done, self.total, pace * self.per, self.unit, remaining, described(), note)

    def _write(self, note: str) -> None:
        if self._file is not None:
            self._file.write(self.status(note))


class PaceColumn(ProgressColumn):
    """Images or steps per second since the start of this call: the pace of the last seconds alone is meaningless if
    workers end long steps at nearly the same time."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        work: Bar = task.fields["bar"]
        speed, _ = work.pace()
        if not speed:
            return Text("")
        return Text(f"{amount(speed * work.per)} {work.unit}/s")


class LeftColumn(ProgressColumn):
    """The time left at that pace."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        work: Bar = task.fields["bar"]
        _, remaining = work.pace()
        if remaining is None:
            return Text("-:--:--")
        minutes, seconds = divmod(round(remaining), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}")


class MemoryColumn(ProgressColumn):
    """Memory of this process and its workers; reading it does not wait for an accelerator."""

    max_refresh = 1.0

    def render(self, task: Task) -> Text:
        return Text(described())


@contextmanager
def bar(title: str, total: int, done: int = 0, unit: str = "steps", per: float = 1) -> Iterator[Bar]:
    """A progress bar for `total` steps, of which `done` were finished by an earlier run; a step counts as `per` of what
    `unit` names.

    A bar that begins inside another one is a part of its work: on a terminal it is a line below it until it ends.
    """
    if total > done and not (Output.quiet or console().is_terminal or Output.innermost):
        console().print(f"{title}: {total - done} to do", highlight=False, markup=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        PaceColumn(),
        TimeElapsedColumn(),
        LeftColumn(),
        MemoryColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with _display(columns) as display, Bar(title, total, done, display, unit, per).under_way() as work:
        yield work


@contextmanager
def phase(title: str) -> Iterator[None]:
    """Show work whose end is not known: a moving bar that vanishes, or a plain line if it takes long."""
    late = threading.Timer(LONG_S, _say, [title])
    late.daemon = True
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn(), MemoryColumn())
    with _display(columns, transient=True) as display, Bar(title, None, 0, display).under_way():
        if display is None:
            late.start()
        try:
            yield
        finally:
            late.cancel()


@contextmanager
def _display(columns: Sequence[ProgressColumn], transient: bool = False) -> Iterator[Progress | None]:
    """The display that a bar is drawn on: the existing one, a new one on a terminal, or None."""
    if Output.quiet or not console().is_terminal:
        yield None
    elif Output.innermost is not None and Output.innermost.display is not None:
        yield Output.innermost.display
    else:
        with Progress(*columns, console=console(), transient=transient) as display:
            yield display


def _say(title: str) -> None:
    tell(f"{title} …")


def tell(text: str) -> None:
    """Print a line next to the progress, unless quiet."""
    if not Output.quiet:
        console().print(text, highlight=False, markup=False, soft_wrap=True)
