"""Where a run is, as a file that another terminal can read."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .memory import described
from .words import duration

EVERY_S = 1.0


@dataclass(frozen=True)
class Status:
    """One phase of work as it stands: `total` is None where its end is not known, `seconds_left` where its pace is not."""

    title: str
    done: int
    total: int | None
    pace: float
    unit: str
    seconds_left: float | None
    memory: str
    note: str = ""

    def line(self) -> str:
        """All of it in one line of plain text."""
        parts = [f"{self.title}: {self.done:,}/{self.total:,}" if self.total is not None else self.title]
        if self.pace:
            parts.append(f"{amount(self.pace)} {self.unit}/s")
        if self.seconds_left is not None:
            parts.append(f"about {duration(self.seconds_left)} left")
        return ", ".join([*parts, self.memory, *([self.note] if self.note else [])])


def amount(number: float) -> str:
    """A pace for a reader: three figures, thousands apart."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


class StatusFile:
    """A file that says where this process is, rewritten once a second at most; it never stops a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process: dict[str, Any] = {"pid": os.getpid(), "host": platform.node(), "command": sys.argv[1:], "began": time.time()}
        self.write(Status("starting", 0, None, 0.0, "steps", None, described()))

    def due(self) -> bool:
        return time.monotonic() - self._written >= EVERY_S

    def write(self, status: Status) -> None:
        """Replace the file; a reader never sees half of one."""
        self._written, self.last = time.monotonic(), status
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with suppress(OSError):  # a full disk is told of where a result is lost by it
            temporary.write_text(json.dumps({**self._process, "time": time.time(), **asdict(status)}), encoding="utf-8")
            temporary.replace(self.path)

    def stop(self) -> None:
        """Say that the process, which may live on, has left its work undone."""
        self._process["stopped"] = True
        self.write(self.last)

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def read_status(path: Path) -> tuple[Status, dict[str, Any]] | None:
    """What `StatusFile` wrote, and of which process (pid, host, command, began, time); None where there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Status(**{name: found.pop(name) for name in Status.__dataclass_fields__}), found
    except (OSError, ValueError, KeyError, TypeError):
        return None


def alive(process: dict[str, Any]) -> bool:
    """Whether the process that wrote a status may still be at work; one on another machine, or on Windows, cannot be asked."""
    if process.get("stopped"):
        return False
    if process["host"] != platform.node() or os.name == "nt":
        return True
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
