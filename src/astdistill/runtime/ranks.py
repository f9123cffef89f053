"""Jobs on the processes that torchrun has started: rank 0 hands them out and takes part, the others compute.

All talk by gloo, whatever computes: what they send each other lies in the memory of the CPU.
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
"""How long a rank waits for the next word: experts may be trained meanwhile. Gloo takes less than 25 days."""


@cache
def _group() -> Any:
    """The group of all ranks by which they talk; each has to ask for it."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)
        return dist.group.WORLD
    return dist.new_group(backend="gloo", timeout=PATIENCE)


@contextmanager
def _lost() -> Iterator[None]:
    """Raise LostError where another rank is gone."""
    try:
        yield
    except RuntimeError as error:
        raise LostError(
            f"One of {world()} ranks of torchrun ended, as happens when memory runs out ({in_one_line(error)[:200]}). "
            "What is finished is kept; run the same again, or with fewer of them (--nproc-per-node)."
        ) from error


def say(kind: str, value: Any = None) -> None:
    """From rank 0 to all others, which `serve`: "prepare" and "jobs" are work, the others last words."""
    with _lost():
        dist.broadcast_object_list([pickle.dumps((kind, value))], src=0, group=_group())


def _heard() -> tuple[str, Any]:
    told = [b""]
    with _lost():
        dist.broadcast_object_list(told, src=0, group=_group())
    return pickle.loads(told[0])


def _gathered(own: Any) -> list[Any]:
    """On rank 0 what every rank has given, in their order; nothing on the others."""
    texts = None
    if rank() == 0:
        texts = [b""] * world()
    with _lost():
        dist.gather_object(pickle.dumps(own), texts, dst=0, group=_group())
    return [pickle.loads(text) for text in texts or ()]


def serve(last: str = "end") -> Any:
    """On every rank but 0: compute what rank 0 hands out, until its `last` word: "quit", after which there is nothing
    to say, or "end" with a value, which this returns, or raises where it is an error."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    order, memory = b"", np.empty(0)
    while True:
        kind, value = _heard()
        if kind == "prepare":
            order, memory, probe = value
            _gathered(facts(probe))
        elif kind == "jobs":
            jobs, common = value
            mine = [pickle.dumps(each) for each in jobs[rank() :: world()]]
            _gathered([pickle.loads(job(order, memory, each, common, None, 0, 0))[0] for each in mine])
        elif kind == last:
            if last == "end" and isinstance(value, BaseException):
                raise value
            return value


@contextmanager
def leading(last: str = "end") -> Iterator[list[Any]]:
    """On rank 0: whatever happens inside the block, the others are told their `last` word at its end: the error that
    ends it, or what was put into the list. A signal tells them nothing: torchrun ends them."""
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
    """On rank 0, as `parallel.pool`: job k is computed by rank k modulo their number, by so many threads, and results
    come in the order of the jobs. `probe` is that of `Cluster`. Raises InputError where a rank would compute other
    bits."""
    say("prepare", (*order_of(work, shared, threads, None, probe), probe))
    told = _gathered(facts(probe))
    other = [f"rank {number} has {wrong}" for number, each in enumerate(told) if (wrong := differences(each, told[0]))]
    if other:
        raise InputError(
            f"{len(other)} of {world()} ranks would compute other bits than rank 0: {'; '.join(other)}. Start all of "
            "them on machines of one kind, with the same versions, ASTDISTILL_ENGINE and ATEN_CPU_CAPABILITY."
        )

    def run(jobs: Sequence[Any], common: Any = None) -> Iterator[tuple[Any, Any]]:
        say("jobs", (jobs, pickle.dumps(common)))
        answers = _gathered(_answers(work, shared, jobs[:: world()], common))
        for number, each in enumerate(jobs):
            kind, value = answers[number % world()][number // world()]
            if kind == "error":
                raise value
            yield each, value

    yield run


def _answers(work: Any, shared: Any, jobs: Sequence[Any], common: Any) -> list[tuple[str, Any]]:
    """Those of rank 0 to its own jobs. It does not raise: the others have to be heard in any case."""
    silent = Bar("", 0, 0, None)
    try:
        return [("done", work(shared, with_common(each, common), silent)) for each in jobs]
    except BaseException as error:
        return [("error", error)] * len(jobs)
