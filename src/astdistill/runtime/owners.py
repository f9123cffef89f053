"""Which process a file belongs to, and whether that process is still there."""

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
"""What stands in the names of files and folders that belong to one process."""


@cache
def machine() -> str:
    """Eight hexadecimal digits for all processes that see one another's numbers: those of one host since it started,
    in one container."""
    words = [platform.node()]
    with suppress(OSError):
        words.append((PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        words.append(os.readlink(PROC / "self/ns/pid"))
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]


def new_tag() -> str:
    """Machine, process and eight random digits: the middle of a name that no other process takes."""
    return f"{machine()}-{os.getpid()}-{os.urandom(4).hex()}"


def owner_alive(name: str) -> bool | None:
    """Whether the process is at work that a name with a tag belongs to; None where that cannot be known here, or where
    the name has no tag."""
    tag = re.search(TAG, name)
    if tag is None or tag["machine"] != machine():
        return None
    return running(int(tag["pid"]))


@dataclass(frozen=True)
class Owner:
    """A process that has taken a folder for itself."""

    host: str
    machine: str
    pid: int
    started: str
    """When the process began, as its system counts; empty where it does not say. A number is given again, this is
    not."""
    since: float
    """Seconds since 1970 when it took the folder."""

    @staticmethod
    def present() -> Owner:
        """This process, from now on."""
        pid = os.getpid()
        return Owner(platform.node(), machine(), pid, _began(pid), time.time())

    @staticmethod
    def read(value: Any) -> Owner | None:
        """What `to_json` gave; None for anything else."""
        with suppress(TypeError, KeyError, ValueError, OverflowError, OSError):  # the last two of no time of any year
            since = float(value["since"])
            time.localtime(since)
            return Owner(str(value["host"]), str(value["machine"]), int(value["pid"]), str(value["started"]), since)
        return None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def alive(self) -> bool | None:
        """Whether it still runs; None for a process of another machine, which cannot be asked."""
        if self.machine != machine():
            return None
        return running(self.pid) and _began(self.pid) == self.started

    def __str__(self) -> str:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {at}"


def running(pid: int) -> bool:
    """Whether a process of this machine runs; one that cannot be asked, another user's or any on Windows, counts as
    running."""
    if os.name == "nt":
        return True  # not asked: a signal of 0 would end it there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return not _ended(pid)


def _ended(pid: int) -> bool:
    """Whether it has ended, and only waits for its parent to take note."""
    return _stat(pid)[:1] in (["Z"], ["X"])


def _began(pid: int) -> str:
    return "".join(_stat(pid)[19:20])


def _stat(pid: int) -> list[str]:
    """The words of /proc/PID/stat from the state on; none where there is no such file."""
    with suppress(OSError):
        return (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return []
