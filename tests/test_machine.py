"""What this process may use: cores, memory, and how its threads wait, by files that stand for those of the system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from astdistill.runtime.machine import NAMED_BY_USERS, SPINS, cores, crowded, free_memory, waiting


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
