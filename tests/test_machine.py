"""What this process may use: cores, memory, and how its threads wait, by files that stand for those of the system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from astdistill.runtime import machine
from astdistill.runtime.machine import NAMED_BY_USERS, SPINS, Neighbours, Room, cores, crowded, free_memory, waiting


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 64 kB\nMemAvailable: 50 kB\n"}
SECOND = {"proc/self/cgroup": "0::/a/b\n"}
FIRST = {"proc/self/cgroup": "5:cpu:/x\n4:memory,pids:/a\n"}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        (MEMINFO, 50 * 1024),
        (MEMINFO | SECOND, 50 * 1024),
        (MEMINFO | SECOND | {f"sys/fs/cgroup/a/b/memory.{name}": text for name, text in
         {"max": "9000\n", "current": "4000\n", "stat": "anon 1\ninactive_file 500\n"}.items()}, 5500),
        (MEMINFO | SECOND | {f"sys/fs/cgroup/a/memory.{name}": text for name, text in
         {"max": "1000\n", "current": "4000\n", "stat": "inactive_file 500\n"}.items()}, 0),
        (MEMINFO | SECOND | {f"sys/fs/cgroup/a/b/memory.{name}": text for name, text in
         {"max": "max\n", "current": "4000\n", "stat": "inactive_file 500\n"}.items()}, 50 * 1024),
        (MEMINFO | FIRST | {f"sys/fs/cgroup/memory/a/memory.{name}": text for name, text in
         {"limit_in_bytes": "9000\n", "usage_in_bytes": "8000\n", "stat": "inactive_file 1\ntotal_inactive_file 300\n"}.items()}, 1300),
        (MEMINFO | SECOND | {f"sys/fs/cgroup/a/b/memory.{name}": text for name, text in
         {"max": "9000\n", "high": "6000\n", "current": "4000\n", "stat": "inactive_file 500\n"}.items()}, 2500),
        (MEMINFO | SECOND | {f"sys/fs/cgroup/a/b/memory.{name}": text for name, text in
         {"max": "60000\n", "current": "59000\n", "stat": "inactive_file 59500\n"}.items()}, 50 * 1024),
        (FIRST | {f"sys/fs/cgroup/memory/memory.{name}": text for name, text in
         {"limit_in_bytes": "900\n", "usage_in_bytes": "800\n", "stat": "total_inactive_file 0\n"}.items()}, 100),
    ],
    ids=["unknown", "machine", "no limit file", "group", "group around it, used up", "max", "version 1", "slowed down above", "all of it cache", "version 1, in a container"],
)  # fmt: skip
def test_free_memory_is_the_least_of_machine_and_control_groups(
    files: dict[str, str], free: int | None, tmp_path: Path
) -> None:
    assert free_memory(written(tmp_path, files)) == free


QUOTA = {"proc/self/cgroup": "0::/a/b\n"}
OLD = {"proc/self/cgroup": "4:memory:/m\n3:cpu,cpuacct:/x\n1:name=systemd:/\n"}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, 8),
        (QUOTA, 8),
        (QUOTA | {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        (QUOTA | {"sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"}, 1),
        (QUOTA | {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "250000 100000\n"}, 2),
        (QUOTA | {"sys/fs/cgroup/a/b/cpu.max": "1600000 100000\n"}, 8),
        (QUOTA | {"sys/fs/cgroup/a/b/cpu.max": "0 0\n"}, 8),
        (OLD | {"sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "200000\n", "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n"}, 2),
        (OLD | {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 4),
        (OLD | {"sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n"}, 8),
    ],
    ids=["unknown", "no file", "in a container", "less than one", "group around it", "more than there are", "odd",
         "version 1", "version 1, in a container", "version 1, none"],
)  # fmt: skip
def test_cores_are_those_of_affinity_and_quota(
    files: dict[str, str], found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert cores(written(tmp_path, files)) == found


def stat(*ticks: tuple[int, int, int, int]) -> dict[str, str]:
    """/proc/stat of cores with so many ticks of user, niced, system and stolen time."""
    lines = [f"cpu{core} {user} {nice} {system} 5 6 0 0 {stolen} 0 0" for core, (user, nice, system, stolen) in
             enumerate(ticks)]  # fmt: skip
    return {"proc/stat": "\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *lines, "intr 7"])}


NONE = (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("before", "after", "own", "niced", "found"),
    [
        (stat(NONE, NONE, NONE), stat((100, 0, 0, 0), NONE, NONE), 0.0, False, Room(2, 1.0)),
        (stat(NONE, NONE, NONE), stat((50, 0, 20, 0), (0, 0, 0, 30), (100, 0, 0, 0)), 0.0, False, Room(2, 1.0)),
        (stat(NONE, NONE), stat((100, 0, 0, 0), (100, 0, 0, 0)), 0.75, False, Room(2, 1.25)),
        (stat(NONE, NONE), stat((0, 100, 0, 0), NONE), 0.0, False, Room(2, 0.0)),
        (stat(NONE, NONE), stat((0, 100, 0, 0), NONE), 0.25, True, Room(2, 0.75)),
        (stat(NONE, NONE), stat((10, 0, 0, 0), NONE), 0.75, False, Room(2, 0.0)),
        (stat(NONE), stat((100, 0, 0, 0)), 0.0, False, None),
        ({}, {}, 0.0, False, None),
        ({"proc/stat": "cpu0 a\ncpu1 b"}, {}, 0.0, False, None),
        (stat(NONE, NONE), {"proc/stat": ""}, 0.0, False, None),
        (stat(NONE, NONE) | QUOTA | {"sys/fs/cgroup/a/cpu.max": "200000 100000\n",
                                     "sys/fs/cgroup/a/cpu.stat": "usage_usec 5000000\nuser_usec 1\n"},
         {"sys/fs/cgroup/a/cpu.stat": "usage_usec 6500000\n"}, 0.5, False, Room(2, 1.0)),
        (stat(NONE, NONE) | QUOTA | {"sys/fs/cgroup/a/cpu.max": "100000 100000\n"}, stat((75, 0, 0, 0), NONE), 0.0,
         False, Room(2, 0.75)),
        (stat(NONE, NONE) | OLD
         | {"sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "200000\n", "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/x/cpuacct.usage": "1000000000\n"},
         {"sys/fs/cgroup/cpu/x/cpuacct.usage": "2500000000\n"}, 0.0, False, Room(2, 1.5)),
    ],
    ids=["one", "another's core does not count, stolen time does", "its own time", "niced", "niced as this one is",
         "clocks that differ", "another core's file", "no file", "no numbers", "gone", "a quota",
         "a quota whose use is unknown", "version 1"],
)  # fmt: skip
def test_what_other_processes_use_of_the_cores(
    before: dict[str, str],
    after: dict[str, str],
    own: float,
    niced: bool,
    found: Room | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over one second of a clock of the test's own."""
    now = {"clock": 50.0, "own": 7.0}
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    monkeypatch.setattr(os, "getpriority", lambda *which: 5 * niced)
    monkeypatch.setattr(os, "times", lambda: (now["own"], 0.0, 0.0, 0.0, 99.0))
    monkeypatch.setattr(machine.time, "monotonic", lambda: now["clock"])
    monkeypatch.setattr(machine.time, "sleep", lambda seconds: pytest.fail("a second is enough") if seconds else None)
    beside = Neighbours(written(tmp_path, before))
    written(tmp_path, after)
    now.update(clock=51.0, own=7.0 + own)
    assert beside.room == (found if found is None else pytest.approx(found))


def test_a_short_while_is_waited_for_and_looked_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slept: list[float] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(machine.time, "sleep", slept.append)
    beside = Neighbours(written(tmp_path, stat(NONE, NONE)))
    assert beside.room is beside.room
    (waited,) = slept
    assert 0.0 < waited <= machine.SAMPLE_S


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system does not say what is busy")
def test_a_busy_process_is_seen_and_this_one_is_not() -> None:
    """Other work on this machine may be seen beside it, so that the bound is from below."""
    words = f"while os.getppid() == {os.getpid()}:\n    pass"
    core = min(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{core}}})\n{words}"]) as busy:
        try:
            room = Neighbours().room
        finally:
            busy.kill()
    assert room is not None
    assert room.cores == len(os.sched_getaffinity(0))
    assert room.busy > 0.1


def test_more_processes_than_cores_are_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("astdistill.runtime.machine.cores", lambda: 2)
    assert [crowded(load) for load in (0.0, 2.4, 2.6)] == [False, False, True]


def test_threads_wait_a_bounded_time_unless_the_user_said_how() -> None:
    assert waiting({"PATH": "/bin"}) == {"GOMP_SPINCOUNT": str(SPINS), "KMP_BLOCKTIME": "1"}
    for name in NAMED_BY_USERS:
        assert waiting({name: "0"}) == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["from astdistill.cli.main import main", "main(['--version'])"], SPINS),
        (["import torch", "from astdistill.cli.main import main", "main(['--version'])"], None),
        (["import astdistill", "astdistill.InputError"], None),
    ],
    ids=["the command", "where torch is loaded already", "a user's program"],
)
def test_the_command_says_how_threads_wait_and_an_import_does_not(words: list[str], said: int | None) -> None:
    script = "\n".join(["import os", *words, "print(os.environ.get('GOMP_SPINCOUNT'))"])
    # Without site-packages' own start-up files, which may set variables.
    environment = {name: value for name, value in os.environ.items() if name not in NAMED_BY_USERS}
    bare = [sys.executable, "-S", "-c", f"import sys\nsys.path[:] = {sys.path!r}\n{script}"]
    done = subprocess.run(bare, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == str(said)
