"""The main loop of a worker process, and the transfer of tensors to it: one copy in memory for any number of
workers."""

from __future__ import annotations

import io
import mmap
import os
import pickle
import queue
import sys
import tempfile
import threading
import traceback
import warnings
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .errors import DivergedError, FolderGoneError, InputError
from .progress import Bar, be_quiet
from .trust import take_over

ALIGNED = 64
"""Alignment in bytes, the same as torch's, so that kernels take the same path."""


class TensorLocation(NamedTuple):
    """Where a tensor is stored."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def nameless_file() -> IO[bytes]:
    """An open file without a name, which is deleted when the last process closes it.

    In memory if the system supports it, and not under /dev/shm, of which a container has 64 MB.
    """
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("astdistill"), "w+b")
    return tempfile.TemporaryFile()


class TensorPickler(pickle.Pickler):
    """Pickles to `text`, and plain CPU tensors to `memory`, each once. A tensor on a GPU is restored on the GPU of the
    reading process (`own_device`)."""

    def __init__(self, text: IO[bytes], memory: IO[bytes]) -> None:
        super().__init__(text)
        self._memory, self._locations = memory, dict[int, tuple[TensorLocation, Tensor]]()

    def persistent_id(self, obj: object) -> TensorLocation | None:
        if (
            type(obj) is not Tensor
            or obj.device.type != "cpu"
            or obj.layout != torch.strided
            or obj.requires_grad
            or not obj.numel()
        ):
            return None
        if id(obj) not in self._locations:
            self._locations[id(obj)] = self._write_tensor(obj), obj  # kept alive, so that no other object gets its id
        return self._locations[id(obj)][0]

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.device) and obj.type == "cuda":
            return own_device, ()
        if type(obj) is Tensor and obj.device.type == "cuda":
            return on_own_gpu, (obj.detach().cpu(), obj.requires_grad)
        return NotImplemented

    def _write_tensor(self, tensor: Tensor) -> TensorLocation:
        """Write the numbers in their order in memory: a channels-last tensor stays channels-last."""
        order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
        if not tensor.permute(order).is_contiguous():
            tensor = tensor.contiguous()
            order = list(range(tensor.dim()))
        start = -(-self._memory.tell() // ALIGNED) * ALIGNED
        self._memory.seek(start)
        self._memory.write(tensor.permute(order).reshape(-1).view(torch.uint8).numpy().data)
        return TensorLocation(start, tensor.dtype, tuple(tensor.shape), tensor.stride())


def own_device() -> torch.device:
    """The GPU of this process: the first visible one, unless it has selected another."""
    if torch.cuda.is_initialized():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cuda", 0)


def on_own_gpu(tensor: Tensor, wants_gradient: bool) -> Tensor:
    """The tensor on the GPU of this process."""
    return tensor.to("cuda").requires_grad_(wants_gradient)


class TensorUnpickler(pickle.Unpickler):
    """Loads what `TensorPickler` wrote. Tensors are views of the memory, or of the mapped file; what is written to one
    stays in this process."""

    def __init__(self, text: IO[bytes], memory: int | np.ndarray) -> None:
        super().__init__(text)
        if isinstance(memory, int) and os.fstat(memory).st_size:
            self._memory = mmap.mmap(memory, 0, access=mmap.ACCESS_COPY)
        else:
            self._memory = memory

    def persistent_load(self, pid: TensorLocation) -> Tensor:
        count = torch.Size(pid.shape).numel()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about memory that cannot be written to
            flat = torch.frombuffer(self._memory, dtype=pid.dtype, count=count, offset=pid.start)
        return flat.as_strided(pid.shape, pid.stride)


def serve(path: list[str]) -> None:
    """Read the work and then jobs from the standard input until it ends; write steps and results to the standard
    output. `path` is where the process that started this one looks for modules."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints of a user's network must not mix with the results
    be_quiet(True)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, inbox), daemon=True).start()
    handle, threads, trust, text = inbox.get()
    sys.path[:] = path  # only now that this package is imported
    torch.set_num_threads(threads)
    bar, work, shared, common, common_text = _Steps(results), None, None, None, b""
    while True:
        kind, value = inbox.get()
        if kind == "common":
            common_text = value
            continue
        try:
            if work is None:  # inside `try`, so that a failed import is reported like any other error
                take_over(trust)
                work, shared = TensorUnpickler(io.BytesIO(text), handle).load()
            if common_text:
                common, common_text = pickle.loads(common_text), b""
            answer = pickle.dumps(("done", work(shared, with_common(pickle.loads(value), common), bar)))
        except BaseException as error:
            answer = pickle.dumps(("error", sendable(error)))
        _send(results, answer)


def with_common(job: Any, common: Any) -> Any:
    """The argument of a job: the job itself, or the pair of what all jobs of its call share and the job."""
    if common is None:
        return job
    return common, job


def _listen(source: IO[bytes], inbox: queue.SimpleQueue[Any]) -> None:
    """Pass on incoming messages. When the pipe is closed, end this process at once, even in the middle of a job.

    Jobs, and what they share, arrive as bytes: their classes can be imported only after `take_over`.
    """
    try:
        while True:
            inbox.put(pickle.load(source))
    finally:
        os._exit(1)


def _send(results: IO[bytes], message: bytes) -> None:
    try:
        results.write(message)
        results.flush()
    except BrokenPipeError:  # the parent has ended
        os._exit(1)


class _Steps(Bar):
    """The bar of a worker: it sends its steps to the process that shows them."""

    def __init__(self, results: IO[bytes]) -> None:
        super().__init__("", 0, 0, None)
        self._results = results

    def step(self, units: int = 1, note: str = "") -> None:
        _send(self._results, pickle.dumps(("step", (units, note))))

    def skip(self, units: int) -> None:
        _send(self._results, pickle.dumps(("skip", (units,))))


def sendable(error: BaseException) -> BaseException:
    """The error, with the worker's traceback as a note; a RuntimeError of the same message if its type does not survive
    pickling."""
    sent = error
    try:
        restored = pickle.loads(pickle.dumps(error))
        survives = type(restored) is type(error) and str(restored) == str(error)
    except Exception:
        survives = False
    if not survives:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, InputError | DivergedError | FolderGoneError):
        sent.add_note("In a worker:\n" + "".join(traceback.format_exception(error)))
    return sent
