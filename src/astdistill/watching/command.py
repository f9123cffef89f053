"""`astdistill watch`: look, show, wait, look again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.live import Live

from ..errors import InputError
from ..flags import call
from .screen import screen
from .view import View, look

SLOWEST = 3600
"""Seconds between two looks, at most."""


def watch(words: list[str]) -> None:
    """`astdistill watch RUN [--once] [--every SECONDS]`; Ctrl-C ends the watching, not the run, and is no error."""
    try:
        call(_watch, words, "astdistill watch")
    except KeyboardInterrupt:
        return


def _watch(run: Annotated[Path, tyro.conf.Positional], /, once: bool = False, every: float = 2.0) -> None:
    """Follow a run from another terminal until it ends; nothing of it is changed.

    Args:
        run: The run's folder; it may not be there yet.
        once: Show how it stands, and end.
        every: Seconds between two looks.
    """
    if not 0 < every <= SLOWEST:
        raise InputError(f"--every {every:g} was given; choose a number of seconds above 0 and up to {SLOWEST}.")
    view = look(run)
    if once:
        if view is None:
            raise InputError(f"There is no run in {run} yet; start one with: astdistill run PRESET --out {run}")
        Console().print(screen(view))
        return
    if view is None:
        Console().print(f"There is no run in {run} yet; waiting for it. Ctrl-C ends the waiting.", highlight=False)
    _follow(run, view, every)


def _follow(run: Path, view: View | None, every: float) -> None:
    """Show the run until nobody is at it any more; on a terminal in place, otherwise one look below the other."""
    console, idle = Console(), 0
    with Live(console=console, auto_refresh=False) if console.is_terminal else _Plain(console) as live:
        while idle < 2:  # a run that has just claimed its folder says a moment later that it is at work
            if view is not None:
                live.update(screen(view), refresh=True)
                idle = 0 if view.running else 2 if view.ended else idle + 1
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
