"""Many measurements, each in a process of its own, variants in turn within a repetition, so that ratios hold on a noisy
machine."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from threading import Barrier, BrokenBarrierError
from typing import Any

import torch

from astdistill.runtime.errors import InputError
from astdistill.runtime.progress import bar

from .children import paths_of_the_suite, run_in_group
from .task import Bench, Rates, Request, Settings, best_of, high_water_mb

Ask = Callable[[Request], dict[str, Any]]
"""Answers a request; the tests put another one in the place of a process."""


@dataclass(frozen=True)
class Measured:
    """Every repetition of every (case, variant), the machine's rates, and what the cosines are."""

    rates: Rates
    repetitions: dict[tuple[str, str], list[dict[str, Any]]]
    cosines: dict[tuple[str, str], dict[str, Any]]


def in_own_process(request: Request) -> dict[str, Any]:
    """The answer of a fresh process. Raises InputError with the last line of its errors when it fails."""
    words = [sys.executable, "-m", "suite.measurement", request.model_dump_json()]
    threads = {"OMP_NUM_THREADS": str(request.settings.threads), "PYTHONPATH": paths_of_the_suite()}
    result = run_in_group(words, os.environ | threads)
    if result.returncode:
        raise InputError(_failure(request, result.returncode, result.stderr))
    return json.loads(result.stdout.splitlines()[-1])


def _failure(request: Request, code: int, errors: str) -> str:
    what = " ".join(word for word in (request.bench, request.case, *request.variants) if word) or request.what
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    killed = f"it was killed by signal {-code}, which a lack of memory does as well" if code < 0 else ""
    said = killed or (lines[-1].rstrip(".") if lines else f"it ended with code {code} and said nothing")
    return f"The measurement of {what} failed: {said}; mend it, or choose others with --case and --variant."


def run_bench(
    bench: Bench, cases: Sequence[str], variants: Sequence[str], n: int, settings: Settings, cosine: bool, ask: Ask
) -> Measured:
    """`n` repetitions of each variant in each case, and with `cosine` the variants compared with the oracle once."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {(case, variant): [] for case in cases for variant in variants}
    compared = [case for case in cases if cosine and bench.cosine is not None]
    cosines: dict[tuple[str, str], dict[str, Any]] = {}
    rates = []
    with bar(f"bench {bench.name} (processes)", n * (1 + len(found)) + len(compared)) as progress:
        for repetition in range(n):
            rates.append(_rates(ask(Request(what="rates", settings=settings))))
            progress.step(note=f"{rates[-1].gflops:.0f} GFLOP/s")
            for case, variant in found:
                request = Request(what="time", settings=settings, bench=bench.name, case=case, variants=(variant,))
                found[case, variant].append(ask(request))
                progress.step(note=f"{case} {variant} {repetition + 1}: {found[case, variant][-1]['seconds']:.4g} s")
        for case in compared:
            request = Request(what="cosine", settings=settings, bench=bench.name, case=case, variants=tuple(variants))
            cosines |= {(case, variant): value for variant, value in ask(request).items()}
            progress.step(note=f"{case} cosine")
    return Measured(best_of(rates), found, cosines)


def _rates(answer: dict[str, Any]) -> Rates:
    return Rates(**{name: answer[name] for name in Rates.__dataclass_fields__})


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
            raise next(
                (error for error in errors if not isinstance(error, BrokenBarrierError)), BrokenBarrierError()
            ) from None
