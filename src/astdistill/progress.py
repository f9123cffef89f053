"""Progress with an ETA: a bar on a terminal, a plain line now and then where there is none, nothing when quiet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_EVERY_S = 10.0


class Output:
    """Holds the one console of the process, so that tests and `--quiet` can change it in one place."""

    console = Console(stderr=True)
    quiet = False


def console() -> Console:
    return Output.console


def be_quiet(quiet: bool) -> None:
    """Silence every progress bar of this process, or bring them back."""
    Output.quiet = quiet


@contextmanager
def quietly() -> Iterator[None]:
    """No progress bars inside this block, for work that is a step of something already shown."""
    before, Output.quiet = Output.quiet, True
    try:
        yield
    finally:
        Output.quiet = before


class Bar:
    """One phase of work: call `step` after each unit."""

    def __init__(self, title: str, total: int, done: int, progress: Progress | None) -> None:
        self.title, self.total, self.done, self.start = title, total, done, done
        self._progress = progress
        self._task = progress.add_task(title, total=total, completed=done, note="") if progress else None
        self._began = self._printed = time.monotonic()

    def step(self, units: int = 1, note: str = "") -> None:
        """Count `units` as done; `note` is shown beside the bar (a loss, an accuracy)."""
        self.done += units
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self.done, note=note)
        elif not Output.quiet and time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._printed = time.monotonic()
            self._plain(note)

    def _plain(self, note: str) -> None:
        pace = (self._printed - self._began) / max(1, self.done - self.start)
        left = pace * (self.total - self.done)
        console().print(f"{self.title}: {self.done}/{self.total}, about {left:.0f} s left {note}".rstrip(), highlight=False)


@contextmanager
def bar(title: str, total: int, done: int = 0) -> Iterator[Bar]:
    """A progress bar for `total` units of which `done` were finished by an earlier run."""
    if Output.quiet or not console().is_terminal:
        if not Output.quiet:
            console().print(f"{title}: {total - done} to do", highlight=False)
        yield Bar(title, total, done, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console()) as progress:
        yield Bar(title, total, done, progress)
