"""The workers as seen from the process that feeds them."""

from __future__ import annotations

import io
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch

from ..errors import InputError
from ..progress import Bar
from .crew import Crew
from .tensors import TensorPickler, nameless_file

Shared = TypeVar("Shared")
Job = TypeVar("Job")
Result = TypeVar("Result")
Work = Callable[[Shared, Job, Bar], Result]
"""A function of a module (only its name is sent), called with what all jobs share, one job, and a bar for its steps."""

START = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
import pickle, sys
try:
    sys.path[:] = pickle.load(sys.stdin.buffer)
except (EOFError, pickle.UnpicklingError):
    sys.exit()
from astdistill.workers.serving import serve
serve()
"""
"""What a worker runs. Ctrl-C in a terminal reaches every process of it, so workers ignore it: each is ended by its pipe, also where the
parent is stopped while it starts them, and without a traceback of its own."""


@contextmanager
def pool(
    work: Work[Shared, Job, Result], shared: Shared, crew: Crew, progress: Bar, missing: int, seconds: float
) -> Iterator[Callable[[Sequence[Job]], Iterator[tuple[Job, Result]]]]:
    """Yields a function from jobs to pairs of job and result as they finish: in the crew's processes or, where those do not pay, here.

    `shared` is sent once, its tensors as one copy in memory that all workers map. Steps that `work` counts on its bar are counted on
    `progress`. What a job raises is raised here, the same, and stops the other workers; so does an InputError when a worker was killed.
    """
    if not crew.starts(missing, seconds):
        with _limited(crew.threads):
            yield lambda jobs: ((job, work(shared, job, progress)) for job in jobs)
        return
    processes = _Processes(progress)
    try:
        processes.start(min(crew.workers, missing))  # in here, so that a signal meanwhile leaves none behind
        processes.prepare(crew.threads, work, shared)
        yield processes.run
    finally:
        processes.stop()


@contextmanager
def _limited(threads: int) -> Iterator[None]:
    """Compute in this process with the threads that a worker would have."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Processes:
    """Some workers, and what they say."""

    def __init__(self, progress: Bar) -> None:
        self._progress = progress
        self._inbox: queue.SimpleQueue[tuple[int, str, Any]] = queue.SimpleQueue()
        self._memory = nameless_file()
        self._started: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """Start so many workers, and a thread for each that listens to it."""
        words, handles = [sys.executable, "-c", START], (self._memory.fileno(),)
        for number in range(count):
            self._started.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=handles))
            reader = threading.Thread(target=self._read, args=(number,), daemon=True)
            reader.start()
            self._readers.append(reader)

    def prepare(self, threads: int, work: Work[Shared, Job, Result], shared: Shared) -> None:
        """Tell every worker what is to be done, and with what."""
        text = io.BytesIO()
        TensorPickler(text, self._memory).dump((work, shared))
        self._memory.flush()
        for number in range(len(self._started)):
            self._send(number, sys.path)
            self._send(number, (self._memory.fileno(), threads, text.getvalue()))

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
        waiting, busy = deque(jobs), dict[int, Job]()

        def hand(worker: int) -> None:
            if waiting:
                busy[worker] = waiting.popleft()
                self._send(worker, busy[worker])

        for worker in range(len(self._started)):
            hand(worker)
        while busy:
            worker, kind, value = self._inbox.get()
            if kind == "step":
                self._progress.step(*value)
            elif kind == "done":
                job = busy.pop(worker)
                hand(worker)
                yield job, value
            else:
                raise value if kind == "error" else self._lost(worker)

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
        stream = self._started[worker].stdin
        assert stream is not None
        with suppress(BrokenPipeError):  # the reader of its other pipe will say that it is gone
            stream.write(pickle.dumps(value))
            stream.flush()

    def _read(self, worker: int) -> None:
        """Put what a worker says into the inbox, and at last that it is gone."""
        stream = self._started[worker].stdout
        assert stream is not None
        # A kill may cut a message short, and a signal between this thread's start and its place in the list may close the pipe under it.
        with suppress(EOFError, pickle.UnpicklingError, ValueError, OSError):
            while True:
                self._inbox.put((worker, *pickle.load(stream)))
        self._inbox.put((worker, "gone", None))

    def _lost(self, worker: int) -> InputError:
        code, count = self._started[worker].wait(), len(self._started)
        how = f"ended with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        return InputError(
            f"One of {count} workers {how}, as happens when memory runs out. What is finished is kept; run the same again with fewer of "
            f"them: --workers {max(1, count // 2)}."
        )
