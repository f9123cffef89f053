"""Jobs side by side in processes: how many share the work, with how many threads each, and the pool that feeds them."""

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
from .trust import words_of_trust
from .worker import TensorPickler, nameless_file, with_common

START_S = 2.5
"""Seconds until workers have imported torch: 2 to 3."""
WORTH_STARTING_S = 6.0
"""Below this many seconds of work one process does it: two workers save half of the work, and take `START_S`."""
THREADED = 0.75
"""n threads are taken to make one job n to this power times as fast. Two made the native gradient at widths 32 and 128
1.93 and 1.83 times as fast, powers of 0.95 and 0.87; more threads bring less each."""


@dataclass(frozen=True)
class WorkerPlan:
    """How the work is divided: so many processes of so many threads. `asked` says that somebody named their number."""

    workers: int
    threads: int
    asked: bool = False

    def starts(self, missing: int, seconds: float) -> bool:
        """Whether processes are started for the `missing` jobs, of `seconds` together; the numbers come out the same
        either way."""
        return min(self.workers, missing) > 1 and (self.asked or seconds >= WORTH_STARTING_S)


def plan_workers(jobs: int, asked: int | None, device: torch.device, networks: Iterable[str] = ()) -> WorkerPlan:
    """The plan for `jobs` jobs, finished ones included: `asked` workers, or with None as many as end first; they split
    the threads.

    The last bits of a sum depend on the number of threads, so that number follows from the machine and the whole count
    of jobs, never from what a killed run has left over, nor from what else runs now, however few threads a step in
    this process then takes. A number that `limited` names stands, whatever the cores are now: a run that goes on
    elsewhere is divided as before. Otherwise torch's own number of threads and the cores bound the automatic choice:
    with OMP_NUM_THREADS=1 everything stays in this process. So do networks that are defined in the script itself, and
    work on an accelerator, unless `asked` names several workers and each can have a GPU of its own. Raises InputError
    for less than one worker, and for several where there can only be one.

    On a cluster (`cluster.clustered`) every job is a worker of its own, with the cluster's number of threads, whatever
    the device is.
    """
    if (there := cluster.used()) is not None:
        return _plan_on_cluster(jobs, asked, there.threads, networks)
    if asked is not None and not 1 <= asked <= MOST_SIDE_BY_SIDE:
        raise InputError(
            f"{asked} workers were asked for; choose --workers of 1 or more, up to {MOST_SIDE_BY_SIDE:,}, or leave "
            "it out for one on each core."
        )
    alone = _alone(device, networks, asked)
    if alone and asked is not None and asked > 1:
        raise InputError(f"{asked} workers were asked for, but {alone}; leave --workers out.")
    threads, workers = divided_threads(), 1
    if not alone:
        workers = max(1, min(asked or _quickest(jobs, Named.threads or min(cores(), threads)), jobs))
    return WorkerPlan(workers, max(1, threads // workers), asked is not None)


def _plan_on_cluster(jobs: int, asked: int | None, threads: int, networks: Iterable[str]) -> WorkerPlan:
    if asked is not None:
        raise InputError(
            f"{asked} workers were asked for, and a cluster, whose nodes say how many jobs they take; leave --workers "
            "out."
        )
    if reason := _of_the_script(networks):
        raise InputError(f"--cluster was asked for, but {reason}; put it into a module, or leave --cluster out.")
    return WorkerPlan(jobs, threads, asked=True)


def divided_threads() -> int:
    """As many threads as workers divide among them: the number that `limited` names, or torch's own."""
    return Named.threads or torch.get_num_threads()


NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which a user sets torch's number of threads."""


def threads_beside_others(usual: int) -> Threads:
    """The threads of a new command that nobody has named: a step takes as many as other processes leave cores free
    (`Neighbours`), since two that share a core wait for each other; workers divide the `usual` number, because the bits
    of what they make must not depend on what else runs."""
    beside = Started.neighbours
    if beside is None or usual == 1 or any(name in os.environ for name in NUMBERS):
        return Threads(usual, usual)
    room = beside.room
    if room is None:
        return Threads(usual, usual)
    return Threads(room.threads(usual), usual)


def why_fewer(threads: Threads) -> str:
    """One sentence where a step takes fewer threads because of other processes, with how to set the number; else ''."""
    beside = Started.neighbours
    if threads.step == threads.divided or beside is None or beside.room is None:
        return ""
    busy, whole = f"{beside.room.busy:.1f}".removesuffix(".0"), beside.room.cores
    return (
        f"{many(threads.step, 'thread')}, because other processes keep {busy} of {many(whole, 'core')} busy; --threads "
        f"{threads.divided} takes {({2: 'both'}).get(threads.divided, 'all')}."
    )


def own_threads() -> int:
    """As many threads as torch would take, and no more than this process has cores: torch knows no quota."""
    return min(torch.get_num_threads(), cores())


def _quickest(jobs: int, cores: int) -> int:
    """The number of workers that end first: rounds of jobs, over what the threads of each bring to one job.

    Five networks on two cores are three rounds of one thread each, and sooner done one after another with both.
    """
    workers = range(1, max(1, min(cores, jobs)) + 1)
    return min(workers, key=lambda count: (math.ceil(jobs / count) / (cores // count) ** THREADED, -count))


def training_seconds(steps: int, images: int, parameters: int, positions: int) -> float:
    """A rough low guess, from counts alone, at what one core takes to train for `steps` steps on `images` images in
    all.

    1 ms a step, and 0.0025 ns for each parameter at each position of each image: the native gradient of ConvNets of
    25,000 to 468,000 parameters took 0.0015 to 0.004 ns on one core with AVX-512, on images of 1,024 and 4,096
    positions; anything else takes longer.
    """
    return 1e-3 * steps + 2.5e-12 * images * parameters * positions


def _alone(device: torch.device, networks: Iterable[str], asked: int | None) -> str:
    """Why other processes cannot take part, or nothing."""
    there = gpus(device)
    if device.type != "cpu" and (asked is None or there < 2):
        return f"one process feeds {device}"
    if device.type != "cpu" and (asked or 1) > there:
        return f"each takes a GPU of its own, and this process sees {there}"
    if os.name == "nt":
        return "Windows does not hand open files to other processes"
    return _of_the_script(networks)


def _of_the_script(names: Iterable[str]) -> str:
    """Which network or component other processes cannot import, or nothing."""
    for name in names:
        if name.startswith("__main__:"):
            return f"'{name}' is defined in the script itself, which other processes do not import"
    return ""


Shared = TypeVar("Shared")
Job = TypeVar("Job")
Result = TypeVar("Result")
Work = Callable[[Shared, Job, Bar], Result]
"""A function of a module (only its name is sent), called with what all jobs share, one job, and a bar for its steps."""
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
"""What a worker runs. Ctrl-C in a terminal reaches every process of it, so workers ignore it: each is ended by its
pipe, also where the parent is stopped while it starts them, and without a traceback of its own."""
PACKAGE = Path(__file__).parents[2]
"""The folder that this package is imported from."""


def worker_words() -> list[str]:
    """The command of a worker: a Python that looks for modules where this process does, from its first line on.

    `-P` keeps the current folder out of the path until then. Where this process has it in its own path, as notebooks
    and `python -c` do, it is left out while the worker imports what it works with: a stray signal.py or torch.py there
    was none of the modules that this process has either.
    """
    here = {"", ".", os.getcwd()} - {str(PACKAGE)}
    path = [place for place in sys.path if place not in here]
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
    """Yields a function from jobs to pairs of job and result as they finish: on the nodes of a cluster where one is
    used, in the plan's processes or, where those do not pay, here.

    `shared` is sent once, its tensors as one copy in memory that all workers map. The function may be called again and
    again, and be given as `common` what all jobs of one call need: each worker is sent it once a call, and `work` gets
    the pair of it and the job in place of the job. Steps that `work` counts on its bar are counted on `progress`. What
    a job raises is raised here, the same, and stops the other workers; so does a LostError when a worker was killed.
    With `gpu`, a job on a cluster, or each of several processes, gets one GPU for itself.
    """
    if (there := cluster.used()) is not None:
        with there.pool(work, shared, progress, gpu) as run:
            yield run
        return
    if not worker_plan.starts(missing, seconds):
        with limited(worker_plan.threads):
            yield lambda jobs, common=None: ((job, work(shared, with_common(job, common), progress)) for job in jobs)
        return
    processes = _Processes(progress)
    try:
        processes.start(
            min(worker_plan.workers, missing), gpu
        )  # in here, so that a signal meanwhile leaves none behind
        processes.prepare(worker_plan.threads, work, shared)
        yield processes.run
    finally:
        processes.stop()


@contextmanager
def limited(threads: int | None, divided: int | None = None) -> Iterator[None]:
    """Compute in this process with so many threads, and then again with as many as before; None leaves them as they
    are. Workers divide `divided` threads among them, or with None as many. Raises InputError for less than one, and for
    more than a process can have."""
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
    """Some workers, and what they say."""

    def __init__(self, progress: Bar) -> None:
        self._progress = progress
        self._inbox: queue.SimpleQueue[tuple[int, str, Any]] = queue.SimpleQueue()
        open_streams()  # a closed one would give its number to a pipe
        self._memory = nameless_file()
        self._started: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []

    def start(self, count: int, gpu: bool = False) -> None:
        """Start so many workers, each with a GPU of its own where they need one, and a thread for each that listens to
        it."""
        words, handles = worker_words(), (self._memory.fileno(),)
        environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
        environment |= waiting(os.environ)
        for number in range(count):
            if gpu:
                environment |= own_gpu(number)
            self._started.append(
                subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=handles, env=environment
                )
            )
            reader = threading.Thread(target=self._read, args=(number,), daemon=True)
            reader.start()
            self._readers.append(reader)

    def prepare(self, threads: int, work: Work[Shared, Job, Result], shared: Shared) -> None:
        """Tell every worker what is to be done, and with what."""
        text = io.BytesIO()
        TensorPickler(text, self._memory).dump((work, shared))
        self._memory.flush()
        for number in range(len(self._started)):
            self._send(number, (self._memory.fileno(), threads, words_of_trust(), text.getvalue()))

    def run(self, jobs: Sequence[Job], common: Any = None) -> Iterator[tuple[Job, Any]]:
        waiting, busy = deque(jobs), dict[int, Job]()

        def hand(worker: int) -> None:
            if waiting:
                busy[worker] = waiting.popleft()
                self._send(worker, ("job", busy[worker]))

        text = pickle.dumps(("common", common))
        for worker in range(min(len(self._started), len(jobs))):
            self._write(worker, text)
            hand(worker)
        while busy:
            worker, kind, value = self._inbox.get()
            match kind:
                case "step":
                    self._progress.step(*value)
                case "skip":
                    self._progress.skip(*value)
                case "done":
                    job = busy.pop(worker)
                    hand(worker)
                    yield job, value
                case "error":
                    raise value
                case _:
                    raise self._lost(worker, busy.get(worker))

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
                with suppress(BrokenPipeError):  # what a dead worker never read
                    stream.close()
        self._memory.close()

    def _send(self, worker: int, value: object) -> None:
        self._write(worker, pickle.dumps(value))

    def _write(self, worker: int, text: bytes) -> None:
        stream = self._started[worker].stdin
        assert stream is not None
        with suppress(BrokenPipeError):  # the reader of its other pipe will say that it is gone
            stream.write(text)
            stream.flush()

    def _read(self, worker: int) -> None:
        """Put what a worker says into the inbox, and at last that it is gone."""
        stream = self._started[worker].stdout
        assert stream is not None
        # A kill may cut a message short, and a signal between this thread's start and its place in the list may close
        # the pipe under it.
        with suppress(EOFError, pickle.UnpicklingError, ValueError, OSError):
            while True:
                self._inbox.put((worker, *pickle.load(stream)))
        self._inbox.put((worker, "gone", None))

    def _lost(self, worker: int, job: object) -> LostError:
        code, count = self._started[worker].wait(), len(self._started)
        how = f"ended with code {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        error = LostError(
            f"One of {count} workers {how}, as happens when memory runs out. What is finished is kept; run the same "
            f"again with fewer of them: --workers {max(1, count // 2)}."
        )
        error.job = job
        return error
