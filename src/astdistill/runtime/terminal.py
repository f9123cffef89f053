"""The console that everything is shown on: others' words are text there, never orders to the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from .text import printable


class Terminal(Console):
    """A rich console on which brackets are no markup and control signs are written out.

    With `lasting`, it falls silent where nobody reads it any more, as after `2>&1 | head -1`, and the work goes on;
    otherwise that ends the program, as it ends others.
    """

    def __init__(self, *, lasting: bool = False, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})
        self._lasting = lasting

    def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
        """As rich prints, but text without highlighting, which holds paths and commands, is not broken into lines, so
        that it can be copied from a narrow terminal and from a file."""
        if soft_wrap is None:
            soft_wrap = options.get("highlight") is False
        super().print(*objects, soft_wrap=soft_wrap, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is shown, sign by sign harmless."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Nobody reads: fall silent, or end the program."""
        if not self._lasting:
            super().on_broken_pipe()
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)
