"""What this process may use of the machine: cores, memory, and how its threads wait. Nothing here needs torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")
SPINS = 1000
"""Rounds in which a thread of libgomp looks for work before it sleeps: 10 to 50 µs. Its own 300,000 are 3 to 14 ms, in
which a thread that waits keeps the one it waits for from its core. `make bench NAME=shared` compares other numbers."""
WAITING = {"GOMP_SPINCOUNT": str(SPINS), "KMP_BLOCKTIME": "1"}
"""How threads wait, for libgomp and for Intel's and LLVM's library (milliseconds); both read it once, when they are
loaded with torch."""
NAMED_BY_USERS = ("OMP_WAIT_POLICY", *WAITING)


def waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to an environment so that threads which torch starts wait a bounded time; nothing where the user has
    said how they wait."""
    if any(name in environment for name in NAMED_BY_USERS):
        return {}
    return dict(WAITING)


def cores(root: Path = ROOT) -> int:
    """How many cores this process may use: by its affinity, and by the quota of every control group that it is in."""
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    for group in _groups(root, "cpu"):
        allowed = min([allowed, *_quota(group)])
    return max(1, allowed)


def load() -> float:
    """Processes that wanted a core, as a mean over the last minute; 0 where the system does not say."""
    if not hasattr(os, "getloadavg"):
        return 0.0
    return os.getloadavg()[0]


def crowded(load: float) -> bool:
    """Whether so many processes have to share the cores that this one may use."""
    return load > cores() + 0.5


def _quota(group: Path) -> Iterator[int]:
    """Whole cores of a group's quota, of version 2 or 1; nothing where there is none."""
    with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, and 'max' where there is no quota
        quota, period = (int(word) for word in _text(group / "cpu.max").split())
        yield quota // period
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (int(_text(group / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
        if quota > 0:  # -1 where there is none
            yield quota // period


LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.high", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, use and reclaimable cache in control groups of version 2 (above `high` processes are slowed down) and 1."""


def memory_limit(root: Path = ROOT) -> int | None:
    """The least number of bytes that a control group of this process may hold; None where none of them has a limit."""
    found = list[int]()
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # no such file, and 'max' where there is no limit
                found.append(int(_text(group / name)))
    return min(found, default=None)


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes that this process may still allocate; None where the system does not say.

    What the machine has available, its page cache included, or less where a control group has less left. A group counts
    the cache of its files as used, of which the inactive part is given back on demand: that part is free once, however
    much of it the machine counts as available too.
    """
    left = [room for group in _groups(root, "memory") for room in _left(group)]
    with suppress(OSError, ValueError, StopIteration):
        lines = _text(root / "proc/meminfo").splitlines()
        left.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    if not left:
        return None
    return max(0, min(left))


def _left(group: Path) -> Iterator[int]:
    for limit, use, cached in LIMITS:
        with suppress(OSError, ValueError):  # no such file, and 'max' where there is no limit
            allowed, taken = (int(_text(group / name)) for name in (limit, use))
            stat = dict(line.split() for line in _text(group / "memory.stat").splitlines())
            yield allowed - max(0, taken - int(stat.get(cached, 0)))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups that this process is in, those around them included.

    A container may see the path of its group as the host does, and have only the group itself mounted: then that is
    the outermost folder.
    """
    with suppress(OSError):
        for line in _text(root / "proc/self/cgroup").splitlines():
            controllers, path = line.split(":", 2)[1:]
            if controllers and controller not in controllers.split(","):
                continue
            for base in _mounts(root / "sys/fs/cgroup", controllers, controller):
                inner = base / path.lstrip("/")
                yield from (place for place in (inner, *inner.parents) if place.is_relative_to(base))


def _mounts(base: Path, controllers: str, controller: str) -> tuple[Path, ...]:
    """Where groups of one kind may be mounted: version 1 has a folder for each controller, or for some together."""
    if controllers:
        return base / controller, base / controllers
    return base, base / "unified"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
