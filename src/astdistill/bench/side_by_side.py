"""Experts side by side: one single-threaded process a core, started, warmed and timed together."""

from __future__ import annotations

import os
import statistics
from concurrent.futures import Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from threading import Barrier, BrokenBarrierError
from typing import Any

import torch

from .task import high_water_mb

PATIENCE_S = 3600.0
"""How long one process waits for the others; only one that was killed takes so long."""


class Together:
    """What a worker process holds: the barrier that it shares with the others."""

    barrier: Barrier


def _join(barrier: Barrier) -> None:
    torch.set_num_threads(1)
    Together.barrier = barrier


def _work(name: str, variant: str) -> dict[str, Any]:
    """One expert's figures; the barrier is passed when warm, at the start of the epoch, and at its end."""
    from .experts import Expert

    try:
        expert = Expert(name, variant)
        idle = high_water_mb()
        expert.warm()
        Together.barrier.wait(PATIENCE_S)
        Together.barrier.wait(PATIENCE_S)
        expert.run()
        Together.barrier.wait(PATIENCE_S)
        return {"peak_mb": high_water_mb() - idle, **expert.share()}
    except BaseException:
        Together.barrier.abort()
        raise


class SideBySide:
    """`count` experts of one case, each in a process of its own."""

    def __init__(self, count: int, name: str, variant: str) -> None:
        self._count, self._words = count, (name, variant)
        self._futures: list[Future[dict[str, Any]]] = []

    def warm(self) -> None:
        """Start the processes and wait until all are warm."""
        os.environ["OMP_NUM_THREADS"] = "1"  # for libraries that count threads by themselves
        context = get_context("spawn")
        self._barrier: Any = context.Barrier(self._count + 1)
        self._pool = ProcessPoolExecutor(self._count, context, _join, (self._barrier,))
        self._futures = [self._pool.submit(_work, *self._words) for _ in range(self._count)]
        for future in self._futures:
            future.add_done_callback(lambda done: self._barrier.abort() if done.exception() else None)
        self._meet()

    def run(self) -> None:
        """From the moment that all begin to the moment that the last has ended."""
        self._meet()
        self._meet()

    def after(self) -> dict[str, Any]:
        """The experts' memory, summed, and their median share."""
        found = [future.result() for future in self._futures]
        self._pool.shutdown()
        return {
            "experts": self._count,
            "peak_mb": sum(each["peak_mb"] for each in found),
            "share": statistics.median(each["share"] for each in found),
        }

    def _meet(self) -> None:
        try:
            self._barrier.wait(PATIENCE_S)
        except BrokenBarrierError:
            wait(self._futures)
            errors = [error for future in self._futures if (error := future.exception())]
            # The first cause, not the processes that only found the others gone.
            raise next((error for error in errors if not isinstance(error, BrokenBarrierError)), BrokenBarrierError()) from None
