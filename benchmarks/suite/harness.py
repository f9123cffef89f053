"""Run many measurements, each in its own process, with variants in turn within a repetition, so that ratios hold on a
noisy machine."""

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
"""Answers a request; the tests replace the process by another function."""


@dataclass(frozen=True)
class Measured:
    """Every repetition of every (case, variant), the machine's rates, and the cosines."""

    rates: Rates
    repetitions: dict[tuple[str, str], list[dict[str, Any]]]
    cosines: dict[tuple[str, str], dict[str, Any]]


def in_own_process(request: Request) -> dict[str, Any]:
    """The answer of a new process. Raises InputError with the last line of its errors when it fails."""
    command = [sys.executable, "-m", "suite.measurement", request.model_dump_json()]
    threads = {"OMP_NUM_THREADS": str(request.settings.threads), "PYTHONPATH": paths_of_the_suite()}
    result = run_in_group(command, os.environ | threads)
    if result.returncode:
        raise InputError(_failure(request, result.returncode, result.stderr))
    return json.loads(result.stdout.splitlines()[-1])


def _failure(request: Request, code: int, errors: str) -> str:
    subject = " ".join(part for part in (request.bench, request.case, *request.variants) if part) or request.what
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    killed = f"it was killed by signal {-code}, which a lack of memory does as well" if code < 0 else ""
    cause = killed or (lines[-1].rstrip(".") if lines else f"it ended with code {code} and said nothing")
    return f"The measurement of {subject} failed: {cause}; mend it, or choose others with --case and --variant."


def run_bench(
    bench: Bench, cases: Sequence[str], variants: Sequence[str], n: int, settings: Settings, cosine: bool, ask: Ask
) -> Measured:
    """Run `n` repetitions of each variant in each case; with `cosine` compare the variants with the reference once."""
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
"""How long one process waits for the others; only a killed process takes so long."""


class Together:
    """State of a worker process: the barrier that it shares with the others."""

    barrier: Barrier


def _init_worker(barrier: Barrier) -> None:
    torch.set_num_threads(1)
    Together.barrier = barrier


def _run_expert(name: str, variant: str) -> dict[str, Any]:
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
    """`count` experts of one case, each in its own process."""

    def __init__(self, count: int, name: str, variant: str) -> None:
        self._count, self._arguments = count, (name, variant)
        self._futures: list[Future[dict[str, Any]]] = []

    def warm(self) -> None:
        """Start the processes and wait until all are warm."""
        os.environ["OMP_NUM_THREADS"] = "1"  # for libraries that count threads by themselves
        context = get_context("spawn")
        self._barrier: Any = context.Barrier(self._count + 1)
        self._pool = ProcessPoolExecutor(self._count, context, _init_worker, (self._barrier,))
        self._futures = [self._pool.submit(_run_expert, *self._arguments) for _ in range(self._count)]
        for future in self._futures:
            future.add_done_callback(lambda done: self._barrier.abort() if done.exception() else None)
        self._wait_for_all()

    def run(self) -> None:
        """Run one epoch in all processes, from their common start to the end of the last."""
        self._wait_for_all()
        self._wait_for_all()

    def after(self) -> dict[str, Any]:
        """The experts' memory, summed, and their median share."""
        found = [future.result() for future in self._futures]
        self._pool.shutdown()
        return {
            "experts": self._count,
            "peak_mb": sum(each["peak_mb"] for each in found),
            "share": statistics.median(each["share"] for each in found),
        }

    def _wait_for_all(self) -> None:
        try:
            self._barrier.wait(PATIENCE_S)
        except BrokenBarrierError:
            wait(self._futures)
            errors = [error for future in self._futures if (error := future.exception())]
            # The first cause, not the broken barriers that it leads to in other processes.
            raise next(
                (error for error in errors if not isinstance(error, BrokenBarrierError)), BrokenBarrierError()
            ) from None
