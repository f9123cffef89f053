"""Jobs on the processes that torchrun has started: rank 0 distributes them and takes part, the others compute.

All communicate by gloo, whatever device computes: messages lie in CPU memory.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from .cluster import differences, facts, job, order_of
from .errors import InputError, LostError
from .machine import rank, world
from .progress import Bar
from .text import in_one_line
from .worker import sendable, with_common

PATIENCE = timedelta(days=20)
"""How long a rank waits for the next message: experts may be trained meanwhile. Gloo accepts less than 25 days."""


@cache
def _group() -> Any:
    """The group in which all ranks communicate; each of them has to create it."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)
        return dist.group.WORLD
    return dist.new_group(backend="gloo", timeout=PATIENCE)


@contextmanager
def _lost_rank_errors() -> Iterator[None]:
    """Raise LostError if another rank has ended."""
    try:
        yield
    except RuntimeError as error:
        raise LostError(
            f"One of {world()} ranks of torchrun ended, as happens when memory runs out ({in_one_line(error)[:200]}). "
            "What is finished is kept; run the same again, or with fewer of them (--nproc-per-node)."
        ) from error


def say(kind: str, value: Any = None) -> None:
    """Send a message from rank 0 to all others, which run `serve`: "prepare" and "jobs" are work, other kinds end
    serving."""
    with _lost_rank_errors():
        dist.broadcast_object_list([pickle.dumps((kind, value))], src=0, group=_group())


def _receive() -> tuple[str, Any]:
    buffer = [b""]
    with _lost_rank_errors():
        dist.broadcast_object_list(buffer, src=0, group=_group())
    return pickle.loads(buffer[0])


def _gather(value: Any) -> list[Any]:
    """The values of all ranks in their order, on rank 0; an empty list on the others."""
    texts = None
    if rank() == 0:
        texts = [b""] * world()
    with _lost_rank_errors():
        dist.gather_object(pickle.dumps(value), texts, dst=0, group=_group())
    return [pickle.loads(text) for text in texts or ()]


def serve(last: str = "end") -> Any:
    """On every rank but 0: compute what rank 0 distributes, until a message of the kind `last`: "quit", without a
    value, or "end" with a value, which is returned, or raised if it is an error."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    order, memory = b"", np.empty(0)
    while True:
        kind, value = _receive()
        if kind == "prepare":
            order, memory, probe = value
            _gather(facts(probe))
        elif kind == "jobs":
            jobs, common = value  # as bytes: their classes can be imported only after `job` has prepared this process
            _gather([job(order, memory, each, common, None, 0, 0) for each in jobs[rank() :: world()]])
        elif kind == last:
            if last == "end" and isinstance(value, BaseException):
                raise value
            return value


@contextmanager
def leading(last: str = "end") -> Iterator[list[Any]]:
    """On rank 0: at the end of the block, however it ends, send the others a message of the kind `last`, with the error
    that ended the block, or with what was put into the list. A signal sends nothing: torchrun ends the others."""
    answer: list[Any] = []
    if world() == 1:
        yield answer
        return
    try:
        yield answer
    except Exception as error:
        with suppress(LostError):
            say(last, sendable(error))
        raise
    say(last, (answer or [None])[-1])


@contextmanager
def pool(
    work: Any, shared: Any, threads: int, probe: Callable[[], Mapping[str, str]]
) -> Iterator[Callable[..., Iterator[tuple[Any, Any]]]]:
    """Like `parallel.pool`, on rank 0: job k is computed by rank k modulo their number, with `threads` threads, and
    results come in the order of the jobs. `probe` is that of `Cluster`. Raises InputError if a rank would compute other
    bits."""
    say("prepare", (*order_of(work, shared, threads, None, probe), probe))
    reports = _gather(facts(probe))
    other = [
        f"rank {number} has {difference}"
        for number, each in enumerate(reports)
        if (difference := differences(each, reports[0]))
    ]
    if other:
        raise InputError(
            f"{len(other)} of {world()} ranks would not compute the same bits as rank 0: {'; '.join(other)}. Start all "
            "of them on machines of one kind, with the same versions, ASTDISTILL_ENGINE and ATEN_CPU_CAPABILITY."
        )

    def run(jobs: Sequence[Any], common: Any = None) -> Iterator[tuple[Any, Any]]:
        say("jobs", ([pickle.dumps(each) for each in jobs], pickle.dumps(common)))
        answers = _gather(_own_results(work, shared, jobs[:: world()], common))
        for number, each in enumerate(jobs):
            (kind, value), _ = pickle.loads(answers[number % world()][number // world()])
            if kind == "error":
                raise value
            yield each, value

    yield run


def _own_results(work: Any, shared: Any, jobs: Sequence[Any], common: Any) -> list[bytes]:
    """The results of rank 0 for its jobs, pickled like those of `job`. Errors are returned, not raised, also those of
    pickling: the results of the others have to be received in any case."""
    silent = Bar("", 0, 0, None)
    try:
        return [pickle.dumps((("done", work(shared, with_common(each, common), silent)), {})) for each in jobs]
    except BaseException as error:
        return [pickle.dumps((("error", sendable(error)), {}))] * len(jobs)
