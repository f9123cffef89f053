"""The process that a file belongs to, and whether that process is still running."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

PROC = Path("/proc")
TAG = r"(?P<machine>[0-9a-f]{8})-(?P<pid>[0-9]+)-[0-9a-f]{8}"
"""Part of the names of files and folders that belong to one process."""


@cache
def machine() -> str:
    """Eight hexadecimal digits shared by all processes that see each other's process numbers: those of one host since
    it booted, in one container."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append((PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(os.readlink(PROC / "self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def new_tag() -> str:
    """Machine, process and eight random digits, for a file name that no other process uses."""
    return f"{machine()}-{os.getpid()}-{os.urandom(4).hex()}"


def owner_alive(name: str) -> bool | None:
    """Whether the process that a tagged name belongs to is running; None if that cannot be known here, or if the name
    has no tag."""
    tag = re.search(TAG, name)
    if tag is None or tag["machine"] != machine():
        return None
    return running(int(tag["pid"]))


@dataclass(frozen=True)
class Owner:
    """A process that has reserved a folder."""

    host: str
    machine: str
    pid: int
    started: str
    """Start time of the process, in the units of its system; empty if unknown. Process numbers are reused, start times
    are not."""
    since: float
    """Time at which it reserved the folder, in seconds since 1970."""

    @staticmethod
    def present() -> Owner:
        """This process, with the current time."""
        pid = os.getpid()
        return Owner(platform.node(), machine(), pid, _start_time(pid), time.time())

    @staticmethod
    def read(value: Any) -> Owner | None:
        """The owner from the result of `to_json`; None for anything else."""
        with suppress(TypeError, KeyError, ValueError, OverflowError, OSError):  # the last two for invalid times
            since = float(value["since"])
            time.localtime(since)
            return Owner(str(value["host"]), str(value["machine"]), int(value["pid"]), str(value["started"]), since)
        return None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def alive(self) -> bool | None:
        """Whether the process is still running; None if that cannot be known: for a process of another machine, and for
        a number in use on a system that does not say since when it has been."""
        if self.machine != machine():
            return None
        if not running(self.pid):
            return False
        return _start_time(self.pid) == self.started if self.started else None

    def __str__(self) -> str:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {at}"


def running(pid: int) -> bool:
    """Whether a process of this machine is running; one that cannot be checked, another user's or any on Windows,
    counts as running."""
    if os.name == "nt":
        return True  # not checked: signal 0 would end it there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended and is a zombie, which its parent has not collected."""
    return _stat(pid)[:1] in (["Z"], ["X"])


def _start_time(pid: int) -> str:
    return "".join(_stat(pid)[19:20])


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty if there is no such file."""
    with suppress(OSError):
        return (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return []
