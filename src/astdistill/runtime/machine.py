"""What this process may use of the machine: cores, memory, and how its threads wait. Nothing here needs torch."""

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


SAMPLE_S = 0.25
"""The shortest time over which the use of the cores is measured: 25 of the ticks in which the kernel counts it."""


class Room(NamedTuple):
    """Some cores, and how many of them other processes keep busy, as a mean over a while."""

    cores: int
    busy: float

    def threads(self, most: int) -> int:
        """As many threads as cores are free, to the nearest whole number, 1 or more and no more than `most`.

        Threads that meet at barriers wait for the one whose core is taken. On two cores two threads beside a process
        that is always busy take as long as one, and beside one that is busy for less than half of the time less.
        """
        return max(1, min(most, math.floor(self.cores - self.busy + 0.5)))


class Neighbours:
    """What other processes use of the cores that this one may use, from the making of this object on."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root, self._began = root, time.monotonic()
        self._first = _used_by_others(root)

    @cached_property
    def room(self) -> Room | None:
        """Where least is free: the cores of this process, or the quota of a control group; None where the system does
        not say, as macOS and Windows do not.

        Over the time since this object was made, `SAMPLE_S` at the least, which the first call waits for.
        """
        if not self._first:
            return None
        time.sleep(max(0.0, self._began + SAMPLE_S - time.monotonic()))
        now, passed = _used_by_others(self._root), time.monotonic() - self._began
        rooms = [
            Room(limit, max(0.0, (used - self._first[place][1]) / passed))
            for place, (limit, used) in now.items()
            if place in self._first
        ]
        return min(rooms, key=lambda room: room.cores - room.busy, default=None)


class Started:
    """Holds what a command has noted of its neighbours when it began; None where nobody is to look at them."""

    neighbours: Neighbours | None = None


class Threads(NamedTuple):
    """Threads of the CPU: those of a step in this process, and those that worker processes divide among them."""

    step: int
    divided: int


MOST_SIDE_BY_SIDE = 1024
"""Threads or workers that may be asked for: far more than that ends a process where threads are begun."""
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""The variables by which torchrun tells a process which of several it is."""


def world() -> int:
    """How many ranks torchrun has started: 1 where it has not started this process."""
    if not all(map(os.environ.get, LAUNCHED)):
        return 1
    return _number("WORLD_SIZE")


def rank() -> int:
    """The number of this process among them. 0 hands out the work, and is the only one that writes."""
    if world() == 1:
        return 0
    return _number("RANK")


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal():
        raise InputError(f"The environment has {name}={text}, which is no number; start with torchrun, or unset it.")
    return int(text)


class Named:
    """Holds the number of threads that worker processes divide among them, where the work under way has named one."""

    threads: int | None = None


def _used_by_others(root: Path) -> dict[Path, tuple[int, float]]:
    """Cores, and seconds of processor time that other processes have used of them since some moment, by the file or
    folder that says so; nothing where the system does not say."""
    used = dict[Path, tuple[int, float]]()
    if not hasattr(os, "sched_getaffinity"):
        return used
    own = sum(os.times()[:4])  # of this process and of children that have ended
    with suppress(OSError, ValueError, KeyError, IndexError):  # no such file, or one that names other cores
        mine = os.sched_getaffinity(0)
        used[root / "proc/stat"] = len(mine), _busy_seconds(root, mine) - own
    for group in _groups(root, "cpu"):
        with suppress(OSError, ValueError, KeyError):  # no quota, or nothing that says what the group has used
            used[group] = max(1, min(_quota(group))), _group_seconds(group) - own
    return used


KINDS = {"user": 1, "system": 3, "irq": 6, "softirq": 7, "steal": 8}
"""Columns of /proc/stat that count as busy; guests are in `user`."""
NICE = 2
"""Its column of processes that give way: it counts where this one gives way, too."""


def _busy_seconds(root: Path, mine: set[int]) -> float:
    """Seconds for which these cores were busy. Raises KeyError where one of them is not in the file."""
    lines = {line.split()[0]: line.split() for line in _text(root / "proc/stat").splitlines() if line.startswith("cpu")}
    columns = [*KINDS.values(), *[NICE] * (os.getpriority(os.PRIO_PROCESS, 0) > 0)]
    ticks = sum(int(lines[f"cpu{core}"][column]) for core in mine for column in columns)
    return ticks / os.sysconf("SC_CLK_TCK")


def _group_seconds(group: Path) -> float:
    """Seconds of processor time of a control group, of version 2, or of version 1 where `cpuacct` is mounted with
    `cpu`."""
    with suppress(OSError):
        return int(_text(group / "cpuacct.usage")) / 1e9
    return int(dict(line.split() for line in _text(group / "cpu.stat").splitlines())["usage_usec"]) / 1e6


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
    limits = list[int]()
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # no such file, and 'max' where there is no limit
                limits.append(int(_text(group / name)))
    return min(limits, default=None)


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


@cache
def _groups(root: Path, controller: str) -> tuple[Path, ...]:
    """The folders of the control groups that this process is in, those around them included; looked for once.

    A container may see the path of its group as the host does, and have only the group itself mounted: then that is
    the outermost folder.
    """
    return tuple(_places(root, controller))


def _places(root: Path, controller: str) -> Iterator[Path]:
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
