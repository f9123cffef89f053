"""How long the stages of a run took and how much memory they needed, in a file of its own that no result depends on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .progress.memory import accelerator_peak
from .runs import append_line, read_lines, rewrite_lines

try:
    import resource
except ImportError:
    resource = None

FILE = "clock.jsonl"


@contextmanager
def stage(name: str, out: Path) -> Iterator[None]:
    """Log what the block took as one line of `out`/clock.jsonl: stage, seconds, and the process's peak memory so far in MiB.

    A stage that an exception ends is logged as well: its time was spent.
    """
    began = time.monotonic()
    try:
        yield
    finally:
        line: dict[str, str | float] = {"stage": name, "seconds": round(time.monotonic() - began, 3)}
        append_line(out / FILE, line | {name: round(size, 1) for name, size in peaks().items()})


def peaks() -> dict[str, float]:
    """Most memory in MiB held so far by this process, by the largest of its finished workers, and on the accelerator."""
    found: dict[str, float] = {}
    if resource is not None:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        for name, whose in (("peak_mib", resource.RUSAGE_SELF), ("worker_peak_mib", resource.RUSAGE_CHILDREN)):
            found[name] = resource.getrusage(whose).ru_maxrss / unit
    if accelerator_peak():
        found["accelerator_peak_mib"] = accelerator_peak() / 2**20
    return found


class StepClock:
    """Logs the seconds of every outer step to `out`/clock.jsonl; nowhere where `out` is None."""

    def __init__(self, out: Path | None) -> None:
        self._path = out / FILE if out else None
        if self._path and self._path.exists():
            rewrite_lines(self._path, read_lines(self._path))  # a line that a kill cut short would swallow the next one
        self._began = time.monotonic()

    def begin(self) -> None:
        """A step begins now."""
        self._began = time.monotonic()

    def end(self, iteration: int) -> None:
        """Step `iteration` has ended now."""
        if self._path:
            append_line(self._path, {"iteration": iteration, "seconds": round(time.monotonic() - self._began, 4)})
