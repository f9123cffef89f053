"""Parallel jobs in worker processes: the number of workers and of their threads, and the pool that distributes the
jobs."""

from __future__ import annotations

import io
import math
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from . import cluster
from .devices import gpus, own_gpu
from .errors import InputError, LostError
from .machine import LAUNCHED, MOST_SIDE_BY_SIDE, Named, Started, Threads, cores, waiting
from .progress import Bar
from .text import many, open_streams
from .trust import trusted_modules
from .worker import TensorPickler, nameless_file, with_common

START_S = 2.5
"""Seconds until workers have imported torch: 2 to 3."""
WORTH_STARTING_S = 6.0
"""Below this many seconds of work one process does it: two workers save half of the work, and cost `START_S`."""
THREADED = 0.75
"""n threads are assumed to make one job n to this power times as fast. Two made the native gradient at widths 32 and
128 1.93 and 1.83 times as fast, powers of 0.95 and 0.87; each further thread brings less."""


@dataclass(frozen=True)
class WorkerPlan:
    """How the work is divided: `workers` processes of `threads` threads each. `requested` is true if the user chose
    the number of workers."""

    workers: int
    threads: int
    requested: bool = False

    def starts(self, missing: int, seconds: float) -> bool:
        """Whether to start processes for `missing` jobs that take `seconds` in total; the results are the same either
        way."""
        return min(self.workers, missing) > 1 and (self.requested or seconds >= WORTH_STARTING_S)


def plan_workers(jobs: int, requested: int | None, device: torch.device, networks: Iterable[str] = ()) -> WorkerPlan:
    """The plan for `jobs` jobs, finished ones included: `requested` workers, or with None the number that finishes
    first; they divide the threads.

    The last bits of a sum depend on the number of threads, so that number follows from the machine and the total number
    of jobs, never from what a killed run has left to do, nor from other processes on the machine, even if these reduce
    the threads of a step in this process. A number that `limited` sets is used whatever the cores are now: a run that
    is resumed elsewhere is divided as before. Otherwise torch's number of threads and the cores bound the automatic
    choice: with OMP_NUM_THREADS=1 everything stays in this process. So do networks that are defined in the main script,
    and work on an accelerator, unless `requested` names several workers and each can have its own GPU. Raises
    InputError for less than one worker, and for several if only one is possible.

    On a cluster (`cluster.clustered`) every job is a worker, with the cluster's number of threads, whatever the device
    is.
    """
    if (active := cluster.used()) is not None:
        return _plan_on_cluster(jobs, requested, active.threads, networks)
    if requested is not None and not 1 <= requested <= MOST_SIDE_BY_SIDE:
        raise InputError(
            f"{requested} workers were asked for; choose --workers of 1 or more, up to {MOST_SIDE_BY_SIDE:,}, or leave "
            "it out for one on each core."
        )
    obstacle = _obstacle(device, networks, requested)
    if obstacle and requested is not None and requested > 1:
        raise InputError(f"{requested} workers were asked for, but {obstacle}; leave --workers out.")
    threads, workers = divided_threads(), 1
    if not obstacle:
        workers = max(1, min(requested or _fastest_count(jobs, Named.threads or min(cores(), threads)), jobs))
    return WorkerPlan(workers, max(1, threads // workers), requested is not None)


def _plan_on_cluster(jobs: int, requested: int | None, threads: int, networks: Iterable[str]) -> WorkerPlan:
    if requested is not None:
        raise InputError(
            f"{requested} workers were asked for, and a cluster, whose nodes say how many jobs they take; leave "
            "--workers out."
        )
    if reason := _not_importable(networks):
        raise InputError(f"--cluster was asked for, but {reason}; put it into a module, or leave --cluster out.")
    return WorkerPlan(jobs, threads, requested=True)


def divided_threads() -> int:
    """The number of threads that workers divide among them: the one that `limited` sets, or torch's."""
    return Named.threads or torch.get_num_threads()


NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which a user sets torch's number of threads."""


def default_threads(usual: int) -> Threads:
    """The threads of a new command if the user has not set their number: a step takes as many as other processes leave
    cores free (`Neighbours`), since two that share a core wait for each other; workers divide the `usual` number,
    because the bits of their results must not depend on what else runs."""
    neighbours = Started.neighbours
    if neighbours is None or usual == 1 or any(name in os.environ for name in NUMBERS):
        return Threads(usual, usual)
    room = neighbours.room
    if room is None:
        return Threads(usual, usual)
    return Threads(room.threads(usual), usual)


def why_fewer(threads: Threads) -> str:
    """A sentence that a step takes fewer threads because of other processes, and how to set the number; '' if it does
    not."""
    neighbours = Started.neighbours
    if threads.step == threads.divided or neighbours is None or neighbours.room is None:
        return ""
    busy, total = f"{neighbours.room.busy:.1f}".removesuffix(".0"), neighbours.room.cores
    return (
        f"{many(threads.step, 'thread')}, because other processes keep {busy} of {many(total, 'core')} busy; --threads "
        f"{threads.divided} takes {({2: 'both'}).get(threads.divided, 'all')}."
    )


def own_threads() -> int:
    """torch's number of threads, at most the number of cores of this process: torch ignores quotas."""
    return min(torch.get_num_threads(), cores())


def _fastest_count(jobs: int, cores: int) -> int:
    """The number of workers that finishes first, by the rounds of jobs and the speed that its threads give each worker.

    Five networks on two cores take three rounds with one thread each, and less time one after another with two threads.
    """
    workers = range(1, max(1, min(cores, jobs)) + 1)
    return min(workers, key=lambda count: (math.ceil(jobs / count) / (cores // count) ** THREADED, -count))


def training_seconds(steps: int, images: int, parameters: int, positions: int) -> float:
    """A rough lower estimate, from counts alone, of the seconds that one core takes to train for `steps` steps on
    `images` images in total.

    1 ms a step, and 0.0025 ns for each parameter at each position of each image: the native gradient of ConvNets of
    25,000 to 468,000 parameters took 0.0015 to 0.004 ns on one core with AVX-512, on images of 1,024 and 4,096
    positions; anything else takes longer.
    """
    return 1e-3 * steps + 2.5e-12 * images * parameters * positions


def _obstacle(device: torch.device, networks: Iterable[str], requested: int | None) -> str:
    """Why other processes cannot take part; '' if they can."""
    available = gpus(device)
    if device.type != "cpu" and (requested is None or available < 2):
        return f"one process feeds {device}"
    if device.type != "cpu" and (requested or 1) > available:
        return f"each takes a GPU of its own, and this process sees {available}"
    if os.name == "nt":
        return "Windows does not hand open files to other processes"
    return _not_importable(networks)


def _not_importable(names: Iterable[str]) -> str:
    """Which network or component other processes cannot import, and why; '' if there is none."""
    for name in names:
        if name.startswith("__main__:"):
            return f"'{name}' is defined in the script itself, which other processes do not import"
    return ""


Shared = TypeVar("Shared")
Job = TypeVar("Job")
Result = TypeVar("Result")
Work = Callable[[Shared, Job, Bar], Result]
"""A module-level function (only its name is sent), called with what all jobs share, one job, and a bar for its
steps."""
START = """
import sys
sys.path[:] = {path!r}
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
if not sys.stdin.buffer.peek(1):
    sys.exit()
from astdistill.runtime.worker import serve
serve({whole!r})
"""
"""The program of a worker. Ctrl-C in a terminal reaches every process of it, so workers ignore it: each ends when its
pipe is closed, also if the parent is stopped while it starts them, and without a traceback."""
PACKAGE = Path(__file__).parents[2]
"""The folder from which this package is imported."""


def worker_command() -> list[str]:
    """The command line of a worker: a Python that looks for modules where this process does, from its first line on.

    `-P` keeps the current folder out of the path until then. If it is in the path of this process, as in notebooks and
    with `python -c`, it is left out while the worker imports the package: a stray signal.py or torch.py in it is not
    among the modules of this process either.
    """
    excluded = {"", ".", os.getcwd()} - {str(PACKAGE)}
    path = [entry for entry in sys.path if entry not in excluded]
    if str(PACKAGE) not in path:
        path.append(str(PACKAGE))
    return [sys.executable, "-P", "-c", START.format(path=path, whole=list(sys.path))]


@contextmanager
def pool(
    work: Work[Shared, Job, Result],
    shared: Shared,
    worker_plan: WorkerPlan,
    progress: Bar,
    missing: int,
    seconds: float,
    gpu: bool = False,
) -> Iterator[Callable[..., Iterator[tuple[Job, Result]]]]:
    """Yields a function from jobs to pairs of job and result in the order of completion. It computes on the nodes of a
    cluster if one is used, in the planned processes or, if these are not worth starting, in this process.

    `shared` is sent once, its tensors as one copy in memory that all workers map. The function may be called
    repeatedly, and takes as `common` what all jobs of one call need: it is sent to each worker once per call, and
    `work` receives the pair of it and the job in place of the job. Steps that `work` counts on its bar are counted on
    `progress`. An exception of a job is raised here unchanged, and stops the other workers; so does the LostError of a
    killed worker. With `gpu`, a job on a cluster, or each of several processes, gets its own GPU.
    """
    if (active := cluster.used()) is not None:
        with active.pool(work, shared, progress, gpu) as run:
            yield run
        return
    if not worker_plan.starts(missing, seconds):
        with limited(worker_plan.threads):
            yield lambda jobs, common=None: ((job, work(shared, with_common(job, common), progress)) for job in jobs)
        return
    processes = _Processes(progress)
    try:
        processes.start(min(worker_plan.workers, missing), gpu)  # inside `try`: a signal leaves none behind
        processes.prepare(worker_plan.threads, work, shared)
        yield processes.run
    finally:
        processes.stop()


@contextmanager
def limited(threads: int | None, divided: int | None = None) -> Iterator[None]:
    """Compute in this process with `threads` threads, and restore the previous number afterwards; None leaves it
    unchanged. Workers divide `divided` threads among them, or with None as many. Raises InputError for less than one,
    and for more than a process can have."""
    most = max(MOST_SIDE_BY_SIDE, cores())
    if threads is not None and not 1 <= threads <= most:
        raise InputError(f"{threads} threads were asked for; choose 1 to {most:,}, or None for torch's own number.")
    before = torch.get_num_threads(), Named.threads
    torch.set_num_threads(threads or before[0])
    Named.threads = divided or threads or before[1]
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        Named.threads = before[1]


class _Processes:
    """The worker processes of a pool, and the messages that they send."""

    def __init__(self, progress: Bar) -> None:
        self._progress = progress
        self._inbox: queue.SimpleQueue[tuple[int, str, Any]] = queue.SimpleQueue()
        open_streams()  # otherwise a pipe would get the number of a closed one
        self._memory = nameless_file()
        self._started: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []

    def start(self, count: int, gpu: bool = False) -> None:
        """Start `count` workers, with `gpu` each on its own GPU, and for each a thread that reads its messages."""
        command, handles = worker_command(), (self._memory.fileno(),)
        environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
        environment |= waiting(os.environ)
        for number in range(count):
            if gpu:
                environment |= own_gpu(number)
            self._started.append(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=handles, env=environment
                )
            )
            reader = threading.Thread(target=self._read, args=(number,), daemon=True)
            reader.start()
            self._readers.append(reader)

    def prepare(self, threads: int, work: Work[Shared, Job, Result], shared: Shared) -> None:
        """Send the work, and what its jobs share, to every worker."""
        text = io.BytesIO()
        TensorPickler(text, self._memory).dump((work, shared))
        self._memory.flush()
        for number in range(len(self._started)):
            self._send(number, (self._memory.fileno(), threads, trusted_modules(), text.getvalue()))

    def run(self, jobs: Sequence[Job], common: Any = None) -> Iterator[tuple[Job, Any]]:
        waiting, busy = deque(jobs), dict[int, Job]()

        def assign(worker: int) -> None:
            if waiting:
                busy[worker] = waiting.popleft()
                self._send(worker, ("job", pickle.dumps(busy[worker])))

        message = pickle.dumps(("common", pickle.dumps(common)))
        for worker in range(min(len(self._started), len(jobs))):
            self._write(worker, message)
            assign(worker)
        while busy:
            worker, kind, value = self._inbox.get()
            match kind:
                case "step":
                    self._progress.step(*value)
                case "skip":
                    self._progress.skip(*value)
                case "done":
                    job = busy.pop(worker)
                    assign(worker)
                    yield job, value
                case "error":
                    raise value
                case _:
                    raise self._lost_error(worker, busy.get(worker))

    def stop(self) -> None:
        for process in self._started:
            process.kill()
        for process in self._started:
            process.wait()
        for reader in self._readers:
            reader.join()
        for process in self._started:
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                with suppress(BrokenPipeError):  # a dead worker has not read everything
                    stream.close()
        self._memory.close()

    def _send(self, worker: int, value: object) -> None:
        self._write(worker, pickle.dumps(value))

    def _write(self, worker: int, message: bytes) -> None:
        stream = self._started[worker].stdin
        assert stream is not None
        with suppress(BrokenPipeError):  # the thread that reads its output reports that it is gone
            stream.write(message)
            stream.flush()

    def _read(self, worker: int) -> None:
        """Put the messages of a worker into the inbox, and "gone" at their end."""
        stream = self._started[worker].stdout
        assert stream is not None
        # A kill may cut a message short, and a signal before this thread is in the list may close the pipe.
        with suppress(EOFError, pickle.UnpicklingError, ValueError, OSError):
            while True:
                self._inbox.put((worker, *pickle.load(stream)))
        self._inbox.put((worker, "gone", None))

    def _lost_error(self, worker: int, job: object) -> LostError:
        code, count = self._started[worker].wait(), len(self._started)
        message = (
            f"One of {count} workers ended with code {code}; the reason, if it gave one, is printed above. What is "
            "finished is kept; run the same again, in one process to see the whole traceback: --workers 1."
        )
        if code < 0:
            message = (
                f"One of {count} workers was killed by {signal.Signals(-code).name}, as happens when memory runs out. "
                f"What is finished is kept; run the same again with fewer of them: --workers {max(1, count // 2)}."
            )
        error = LostError(message)
        error.job = job
        return error
