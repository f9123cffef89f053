"""The console for all output: text from other sources is printed literally, and cannot control the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from .text import printable


class Terminal(Console):
    """A rich console that does not interpret brackets as markup, and writes control characters as escapes.

    With `lasting`, it prints nothing more once its reader is gone, as after `2>&1 | head -1`, and the program
    continues; otherwise the program ends, as usual.
    """

    def __init__(self, *, lasting: bool = False, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})
        self._lasting = lasting

    def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
        """Print as rich does, but do not wrap text without highlighting, which holds paths and commands, so that it can
        be copied from a narrow terminal and from a file."""
        if soft_wrap is None:
            soft_wrap = options.get("highlight") is False
        super().print(*objects, soft_wrap=soft_wrap, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable, with control characters written as escapes."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """The reader is gone: print nothing more, or end the program."""
        if not self._lasting:
            super().on_broken_pipe()
        self.quiet = True
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.file.fileno())
        os.close(null)
