"""The inside of a worker."""

from __future__ import annotations

import io
import os
import pickle
import queue
import sys
import threading
import traceback
from typing import IO, Any

import torch

from ..errors import DivergedError, InputError
from ..progress import Bar, be_quiet
from .tensors import TensorUnpickler


def serve() -> None:
    """Read from the standard input what is to be done, then jobs until it ends; write steps and results to the standard output."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a user's network prints must not get among the results
    be_quiet(True)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, inbox), daemon=True).start()
    handle, threads, text = inbox.get()
    torch.set_num_threads(threads)
    bar, work, shared = _Steps(results), None, None
    while True:
        job = inbox.get()
        try:
            if work is None:  # inside, so that what cannot be imported here is told like any other error
                work, shared = TensorUnpickler(io.BytesIO(text), handle).load()
            answer = pickle.dumps(("done", work(shared, job, bar)))
        except BaseException as error:
            answer = pickle.dumps(("error", _sendable(error)))
        _say(results, answer)


def _listen(source: IO[bytes], inbox: queue.SimpleQueue[Any]) -> None:
    """Pass on what comes. When the other end of the pipe is gone, end this process at once, in the middle of a job."""
    try:
        while True:
            inbox.put(pickle.load(source))
    finally:
        os._exit(1)


def _say(results: IO[bytes], message: bytes) -> None:
    try:
        results.write(message)
        results.flush()
    except BrokenPipeError:  # nobody is left to hear it
        os._exit(1)


class _Steps(Bar):
    """The bar of a worker: its steps are counted in the process that shows them."""

    def __init__(self, results: IO[bytes]) -> None:
        super().__init__("", 0, 0, None)
        self._results = results

    def step(self, units: int = 1, note: str = "") -> None:
        _say(self._results, pickle.dumps(("step", (units, note))))


def _sendable(error: BaseException) -> BaseException:
    """The error, with the worker's traceback as a note; a RuntimeError of the same words where its kind does not survive pickling."""
    sent = error
    try:
        again = pickle.loads(pickle.dumps(error))
        survives = type(again) is type(error) and str(again) == str(error)
    except Exception:
        survives = False
    if not survives:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, InputError | DivergedError):
        sent.add_note("In a worker:\n" + "".join(traceback.format_exception(error)))
    return sent
