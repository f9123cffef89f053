"""Cores and memory that this process may use, and how its threads wait. Nothing here needs torch."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from .errors import InputError

ROOT = Path("/")
SPINS = 1000
"""Iterations in which a thread of libgomp looks for work before it sleeps: 10 to 50 µs. The default of 300,000 takes 3
to 14 ms, in which a waiting thread occupies the core of the thread that it waits for. `make bench NAME=shared` compares
other numbers."""
WAITING = {"GOMP_SPINCOUNT": str(SPINS), "KMP_BLOCKTIME": "1"}
"""How threads wait, for libgomp and for the libraries of Intel and LLVM (milliseconds); both are read once, when the
library is loaded with torch."""
NAMED_BY_USERS = ("OMP_WAIT_POLICY", *WAITING)


def waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to an environment so that threads that torch starts wait actively for a bounded time; none if
    the user has set how they wait."""
    if any(name in environment for name in NAMED_BY_USERS):
        return {}
    return dict(WAITING)


def cores(root: Path = ROOT) -> int:
    """The number of cores that this process may use: limited by its affinity, and by the quota of every control group
    it belongs to."""
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    for group in _groups(root, "cpu"):
        allowed = min([allowed, *_quota(group)])
    return max(1, allowed)


def load() -> float:
    """Mean number of processes that needed a core in the last minute; 0 if the system does not report it."""
    if not hasattr(os, "getloadavg"):
        return 0.0
    return os.getloadavg()[0]


def crowded(load: float) -> bool:
    """Whether more processes need a core than there are cores for this process."""
    return load > cores() + 0.5


SAMPLE_S = 0.25
"""Minimum time over which the use of the cores is measured: 25 of the ticks in which the kernel counts it."""


class Room(NamedTuple):
    """A number of cores, and how many of them other processes keep busy on average."""

    cores: int
    busy: float

    def threads(self, most: int) -> int:
        """The number of free cores, to the nearest whole number, at least 1 and at most `most`.

        Threads that meet at barriers wait for the one whose core is taken. On two cores, two threads next to a process
        that is always busy take as long as one thread, and less time next to one that is busy for less than half of the
        time.
        """
        return max(1, min(most, math.floor(self.cores - self.busy + 0.5)))


class Neighbours:
    """Measures how much other processes use the cores of this one, from the creation of this object on."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root, self._began = root, time.monotonic()
        self._first = _used_by_others(root)

    @cached_property
    def room(self) -> Room | None:
        """The cores with the least free capacity: those of this process, or the quota of a control group; None if the
        system does not report it, as on macOS and Windows.

        Measured since the creation of this object, over at least `SAMPLE_S`, for which the first call waits.
        """
        if not self._first:
            return None
        time.sleep(max(0.0, self._began + SAMPLE_S - time.monotonic()))
        now, elapsed = _used_by_others(self._root), time.monotonic() - self._began
        rooms = [
            Room(limit, max(0.0, (used - self._first[source][1]) / elapsed))
            for source, (limit, used) in now.items()
            if source in self._first
        ]
        return min(rooms, key=lambda room: room.cores - room.busy, default=None)


class Started:
    """Holds the measurement that began with the command; None if other processes are to be ignored."""

    neighbours: Neighbours | None = None


class Threads(NamedTuple):
    """Numbers of CPU threads: those of a step in this process, and those that worker processes divide among them."""

    step: int
    divided: int


MOST_SIDE_BY_SIDE = 1024
"""Maximum number of threads or workers that may be requested: a process that starts far more threads is killed."""
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""The variables that torchrun sets to tell a process its rank."""


def world() -> int:
    """The number of ranks that torchrun has started; 1 if it has not started this process."""
    if not all(map(os.environ.get, LAUNCHED)):
        return 1
    return _read_integer("WORLD_SIZE")


def rank() -> int:
    """The rank of this process. Rank 0 distributes the work, and is the only one that writes."""
    if world() == 1:
        return 0
    return _read_integer("RANK")


def _read_integer(name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal():
        raise InputError(f"The environment has {name}={text}, which is no number; start with torchrun, or unset it.")
    return int(text)


class Named:
    """Holds the number of threads that worker processes divide among them, if the current work has set one."""

    threads: int | None = None


def _used_by_others(root: Path) -> dict[Path, tuple[int, float]]:
    """Cores, and seconds of processor time that other processes have used on them since a fixed moment, by the file or
    folder that reports them; empty if the system does not."""
    used = dict[Path, tuple[int, float]]()
    if not hasattr(os, "sched_getaffinity"):
        return used
    own_seconds = sum(os.times()[:4])  # this process and its ended children
    with suppress(OSError, ValueError, KeyError, IndexError):  # no such file, or it lists other cores
        affinity = os.sched_getaffinity(0)
        used[root / "proc/stat"] = len(affinity), _busy_seconds(root, affinity) - own_seconds
    for group in _groups(root, "cpu"):
        with suppress(OSError, ValueError, KeyError):  # no quota, or the use of the group is not reported
            used[group] = max(1, min(_quota(group))), _group_seconds(group) - own_seconds
    return used


KINDS = {"user": 1, "system": 3, "irq": 6, "softirq": 7, "steal": 8}
"""Columns of /proc/stat that count as busy time; guests are included in `user`."""
NICE = 2
"""The column of low-priority processes: it counts if this process has low priority, too."""


def _busy_seconds(root: Path, affinity: set[int]) -> float:
    """Seconds for which these cores were busy. Raises KeyError if one of them is not in the file."""
    lines = {line.split()[0]: line.split() for line in _text(root / "proc/stat").splitlines() if line.startswith("cpu")}
    columns = [*KINDS.values(), *[NICE] * (os.getpriority(os.PRIO_PROCESS, 0) > 0)]
    ticks = sum(int(lines[f"cpu{core}"][column]) for core in affinity for column in columns)
    return ticks / os.sysconf("SC_CLK_TCK")


def _group_seconds(group: Path) -> float:
    """Seconds of processor time of a control group of version 2, or of version 1 if `cpuacct` is mounted with `cpu`."""
    with suppress(OSError):
        return int(_text(group / "cpuacct.usage")) / 1e9
    return int(dict(line.split() for line in _text(group / "cpu.stat").splitlines())["usage_usec"]) / 1e6


def _quota(group: Path) -> Iterator[int]:
    """Whole cores of the quota of a group, of version 2 or 1; nothing if there is none."""
    with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, and 'max' where there is no quota
        quota, period = (int(field) for field in _text(group / "cpu.max").split())
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
    """The smallest limit in bytes of the control groups of this process; None if none of them has a limit."""
    limits = list[int]()
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # no such file, and 'max' where there is no limit
                limits.append(int(_text(group / name)))
    return min(limits, default=None)


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes that this process may still allocate; None if the system does not report it.

    The memory available on the machine, its page cache included, or less if a control group has less left. A group
    counts the cache of its files as used, of which the inactive part is reclaimed on demand: that part counts as free
    once, however much of it the machine counts as available too.
    """
    available = [amount for group in _groups(root, "memory") for amount in _available_in(group)]
    with suppress(OSError, ValueError, StopIteration):
        lines = _text(root / "proc/meminfo").splitlines()
        available.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    if not available:
        return None
    return max(0, min(available))


def _available_in(group: Path) -> Iterator[int]:
    for limit, use, cached in LIMITS:
        with suppress(OSError, ValueError):  # no such file, and 'max' where there is no limit
            allowed, used = (int(_text(group / name)) for name in (limit, use))
            stat = dict(line.split() for line in _text(group / "memory.stat").splitlines())
            yield allowed - max(0, used - int(stat.get(cached, 0)))


@cache
def _groups(root: Path, controller: str) -> tuple[Path, ...]:
    """The folders of the control groups of this process and of their parents; looked up once.

    A container may see the path of its group as on the host, and have only the group itself mounted: then that is the
    outermost folder.
    """
    return tuple(_find_groups(root, controller))


def _find_groups(root: Path, controller: str) -> Iterator[Path]:
    with suppress(OSError):
        for line in _text(root / "proc/self/cgroup").splitlines():
            controllers, path = line.split(":", 2)[1:]
            if controllers and controller not in controllers.split(","):
                continue
            for base in _mounts(root / "sys/fs/cgroup", controllers, controller):
                inner = base / path.lstrip("/")
                yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(base))


def _mounts(base: Path, controllers: str, controller: str) -> tuple[Path, ...]:
    """Possible mount points of one kind of groups: version 1 has a folder for each controller, or for some together."""
    if controllers:
        return base / controller, base / controllers
    return base, base / "unified"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
