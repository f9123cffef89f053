"""How many processes share the work, and how many threads each of them has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import InputError

QUOTA = Path("/sys/fs/cgroup/cpu.max")
WORTH_STARTING_S = 6.0
"""Below this many seconds of work one process does it: workers take 2 to 3 s to import torch, and two of them save half of the work."""


THREADED = 0.75
"""n threads are taken to make one job n to this power times as fast. Two made the native gradient at widths 32 and 128 1.93 and 1.83 times
as fast, powers of 0.95 and 0.87; more threads bring less each."""


@dataclass(frozen=True)
class Crew:
    """How the work is divided: so many processes of so many threads. `asked` says that somebody named their number."""

    workers: int
    threads: int
    asked: bool = False

    def starts(self, missing: int, seconds: float) -> bool:
        """Whether processes are started for the `missing` jobs, of `seconds` together; the numbers come out the same either way."""
        return min(self.workers, missing) > 1 and (self.asked or seconds >= WORTH_STARTING_S)


def divide(jobs: int, asked: int | None, device: torch.device, networks: Iterable[str] = ()) -> Crew:
    """The crew for `jobs` jobs, finished ones included: `asked` workers, or with None as many as end first; they split the threads.

    The last bits of a sum depend on the number of threads, so that number follows from the machine and the whole count of jobs, never
    from what a killed run has left over. torch's own number of threads bounds the automatic choice: with OMP_NUM_THREADS=1 everything
    stays in this process. So does work on an accelerator, and networks that are defined in the script itself. Raises InputError for
    less than one worker, and for several where there can only be one.
    """
    if asked is not None and asked < 1:
        raise InputError(f"{asked} workers were asked for; choose --workers of 1 or more, or leave it out for one on each core.")
    alone = _alone(device, networks)
    if alone and asked is not None and asked > 1:
        raise InputError(f"{asked} workers were asked for, but {alone}; leave --workers out.")
    threads = torch.get_num_threads()
    wanted = 1 if alone else asked or _quickest(jobs, min(cores(), threads))
    workers = max(1, min(wanted, jobs))
    return Crew(workers, max(1, threads // workers), asked is not None)


def _quickest(jobs: int, cores: int) -> int:
    """The number of workers that end first: rounds of jobs, over what the threads of each bring to one job.

    Five networks on two cores are three rounds of one thread each, and sooner done one after another with both.
    """
    workers = range(1, max(1, min(cores, jobs)) + 1)
    return min(workers, key=lambda count: (math.ceil(jobs / count) / (cores // count) ** THREADED, -count))


def cores() -> int:
    """How many cores this process may use, by its affinity and its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file, and 'max' where there is no quota
        quota, period = map(int, QUOTA.read_text(encoding="ascii").split())
        allowed = min(allowed, max(1, quota // period))
    return allowed


def training_seconds(steps: int, images: int, parameters: int, positions: int) -> float:
    """A rough low guess, from counts alone, at what one core takes to train for `steps` steps on `images` images in all.

    1 ms a step, and 0.0025 ns for each parameter at each position of each image: the native gradient of ConvNets of 25,000 to 468,000
    parameters took 0.0015 to 0.004 ns on one core with AVX-512, on images of 1,024 and 4,096 positions; anything else takes longer.
    """
    return 1e-3 * steps + 2.5e-12 * images * parameters * positions


def _alone(device: torch.device, networks: Iterable[str]) -> str:
    """Why other processes cannot take part, or nothing."""
    if device.type != "cpu":
        return f"one process feeds {device}"
    if os.name == "nt":
        return "Windows does not hand open files to other processes"
    local = [name for name in networks if name.startswith("__main__:")]
    return f"the network '{local[0]}' is defined in the script itself, which other processes do not import" if local else ""
