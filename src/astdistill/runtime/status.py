"""The state of a run, as a file that another terminal can read: formatting of seconds and bytes, memory, and the time
of each stage."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .files import append_line, check_regular, parse_json, read_lines, rewrite_lines
from .owners import Owner, new_tag
from .run_dir import RunDir, sound_time


def duration(seconds: float) -> str:
    """Seconds in a readable unit; '-' for NaN."""
    if math.isnan(seconds):
        return "-"
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{_rounded(seconds / unit)} {name}"
    return f"{_rounded(seconds / 86400)} days"


def size(count: float) -> str:
    """Bytes in a readable unit."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{_rounded(count)} {unit}"
    return f"{count / 1000:.1f} TB"


def _rounded(number: float) -> str:
    """A number with one decimal below 10, and none above."""
    if number < 10:
        return f"{number:.1f}"
    return f"{number:.0f}"


try:
    import resource
except ImportError:  # pragma: no cover  (Windows)
    resource = None


PROC = Path("/proc/self")
KILOBYTES = {"darwin": 1}.get(sys.platform, 1024)
"""ru_maxrss counts bytes on macOS and kibibytes elsewhere."""


def resident() -> int:
    """Bytes in memory: of this process, and of its workers what they do not share with it; the peak so far if the
    system does not report them."""
    try:
        pages = _pages(PROC)[1]
    except (OSError, ValueError, IndexError):
        if resource is None:
            return 0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTES
    for worker in _workers():
        with suppress(OSError, ValueError, IndexError):  # the worker may have ended
            _, total, shared, *_ = _pages(PROC.parent / worker)
            pages += total - shared
    return pages * _page_size()


def accelerator_peak() -> int:
    """Peak bytes of tensors on CUDA devices; 0 if none is in use. Does not wait for the device."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.max_memory_allocated(number) for number in range(torch.cuda.device_count()))


def described() -> str:
    """Memory in use and the accelerator's peak, as text: '312 MB', or '1.4 GB, GPU peak 12.3 GB'."""
    parts = [size(resident())]
    if peak := accelerator_peak():
        parts.append(f"GPU peak {size(peak)}")
    return ", ".join(parts)


def _pages(process: Path) -> list[int]:
    return [int(field) for field in (process / "statm").read_text(encoding="ascii").split()]


def _page_size() -> int:
    if resource is None:
        return 4096
    return resource.getpagesize()


def _workers() -> list[str]:
    with suppress(OSError):
        return [
            pid for task in (PROC / "task").iterdir() for pid in (task / "children").read_text(encoding="ascii").split()
        ]
    return []


EVERY_S = 1.0


@dataclass(frozen=True)
class Status:
    """The state of one phase of work: `total` is None if its end is not known, `seconds_left` if its pace is not."""

    title: str
    done: int
    total: int | None
    pace: float
    unit: str
    seconds_left: float | None
    memory: str
    note: str = ""

    def line(self) -> str:
        """The state in one line of plain text."""
        parts = [self.title]
        if self.total is not None:
            parts = [f"{self.title}: {self.done:,}/{self.total:,}"]
        if self.pace:
            parts.append(f"{amount(self.pace)} {self.unit}/s")
        if self.seconds_left is not None:
            parts.append(f"about {duration(self.seconds_left)} left")
        parts.append(self.memory)
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)


def amount(number: float) -> str:
    """A pace as text: three figures, with thousands separators."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"


class StatusFile:
    """A file with the state of this process, rewritten once a second at most; errors in writing it are ignored."""

    def __init__(self, path: Path) -> None:
        self.path, self._tag = path, new_tag()
        owner = Owner.present().to_json()
        began = owner.pop("since")
        self._process: dict[str, Any] = {**owner, "command": sys.argv[1:], "began": began}
        self.write(Status("starting", 0, None, 0.0, "steps", None, described()))

    def due(self) -> bool:
        return time.monotonic() - self._written >= EVERY_S

    def write(self, status: Status) -> None:
        """Replace the file atomically."""
        self._written, self.last = time.monotonic(), status
        temporary = self.path.with_name(f".{self.path.name}.{self._tag}.tmp")
        with suppress(OSError):  # a full disk is reported where a result cannot be written
            temporary.write_text(json.dumps({**self._process, "time": time.time(), **asdict(status)}), encoding="utf-8")
            temporary.replace(self.path)

    def stop(self) -> None:
        """Record that the process, which may live on, has left its work unfinished."""
        self._process["stopped"] = True
        self.write(self.last)

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def read_status(path: Path) -> tuple[Status, dict[str, Any]] | None:
    """The contents of a `StatusFile`, and the process that wrote it (host, machine, pid, started, command, began, time;
    earlier versions wrote neither machine nor started); None if there is no such file."""
    try:
        check_regular(path)
        written = parse_json(path.read_text(encoding="utf-8"))
        status = Status(**{name: written.pop(name) for name in Status.__dataclass_fields__})
        status.line()  # raises if a value is not a number
        pid, began, now, host = (written[name] for name in ("pid", "began", "time", "host"))
        if type(pid) is int and 0 < pid < 2**31 and isinstance(host, str) and math.isfinite(began + now):
            return status, written
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return None


def alive(process: dict[str, Any], folder: RunDir) -> bool:
    """Whether the process that wrote a status of that folder is running; if that cannot be known, whether it has
    touched its mark there recently."""
    owner = Owner.read({"machine": "", "started": "", **process, "since": process["began"]})
    return owner is not None and not process.get("stopped") and folder.is_running(owner)


@contextmanager
def stage(name: str, out: Path) -> Iterator[None]:
    """Log the block as one line of `out`/clock.jsonl: stage, seconds, when it ended (UTC, ISO 8601), and the peak
    memory of the process so far in MiB.

    A stage that ends with an exception is logged as well: its time was spent.
    """
    began = time.monotonic()
    try:
        yield
    finally:
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        line: dict[str, str | float] = {"stage": name, "seconds": round(time.monotonic() - began, 3), "ended": ended}
        append_line(RunDir(out).clock, line | {name: round(size, 1) for name, size in peaks().items()})


def peaks() -> dict[str, float]:
    """Peak memory in MiB so far of this process, of the largest of its finished workers, and of the accelerator."""
    found: dict[str, float] = {}
    if resource is not None:
        for name, scope in (("peak_mib", resource.RUSAGE_SELF), ("worker_peak_mib", resource.RUSAGE_CHILDREN)):
            found[name] = resource.getrusage(scope).ru_maxrss * KILOBYTES / 2**20
    if peak := accelerator_peak():
        found["accelerator_peak_mib"] = peak / 2**20
    return found


class StepClock:
    """Logs the seconds of every outer step to `out`/clock.jsonl; does nothing if `out` is None."""

    def __init__(self, out: Path | None) -> None:
        self._path = out and RunDir(out).clock
        if self._path and self._path.exists():
            rewrite_lines(self._path, read_lines(self._path, sound_time))  # a truncated line would merge with the next
        self._began = time.monotonic()

    def begin(self) -> None:
        """A step begins now."""
        self._began = time.monotonic()

    def end(self, iteration: int) -> None:
        """Step `iteration` has ended now."""
        if self._path:
            append_line(self._path, {"iteration": iteration, "seconds": round(time.monotonic() - self._began, 4)})
