"""Beside busy processes: an outer step and an expert's epoch, over their fair share of the cores, for several ways in
which waiting threads spin."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from rich.console import Console
from rich.table import Table

from astdistill.cli.commands import Command
from astdistill.cli.flags import Word
from astdistill.runtime.config import Record
from astdistill.runtime.errors import InputError, unknown
from astdistill.runtime.files import write_json
from astdistill.runtime.machine import NAMED_BY_USERS, SPINS, cores
from astdistill.runtime.progress import bar, be_quiet
from astdistill.runtime.provenance import provenance, without_places

from . import experts, unroll
from .children import ask_until_parent_ends, paths_of_the_suite
from .convnet_work import Net
from .task import TINY

TODAY = "default"
"""libgomp's own waiting, named so that nothing else that sets it counts."""
VARIANTS: dict[str, dict[str, str]] = {
    TODAY: {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
    **{str(spins): {"GOMP_SPINCOUNT": str(spins)} for spins in sorted({300, 1000, 3000, 10_000, 30_000, SPINS})},
}
"""Environments of the processes that are measured, by name."""
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"
"""A process that wants a core for as long as the one that started it lives."""
LOADS = 0, 1, 2, 4
BAR_SHARED, BAR_QUIET = 1.3, 1.03
"""The most times of the fair share, and of the time of a quiet machine with libgomp's own waiting."""


def outer_step(case: unroll.Case) -> Callable[[], object]:
    """The exact meta-gradient of a few inner steps."""
    given = unroll.problem(case)
    return lambda: unroll.taken(given, case.net, "recompute")


def epoch(case: experts.Case) -> Callable[[], object]:
    """One epoch of an expert."""
    split = experts.random_split(case, case.images)
    trainer = experts.our_trainer(case, split)
    return lambda: trainer.train(split)


CASES: dict[str, Callable[[], Callable[[], object]]] = {
    "step-10": lambda: outer_step(unroll.Case(10, 4)),
    "step-100": lambda: outer_step(unroll.Case(100, 2)),
    "epoch": lambda: epoch(experts.Case(Net(), images=512)),
    "tiny": lambda: outer_step(unroll.Case(4, 2, TINY)),
}
"""What is timed: outer steps of 10 images (4 inner steps) and 100 images (2), and an epoch of 512 images, all of a
network of 320,010 parameters."""


def fair_share(threads: int, busy: int, available: int) -> float:
    """Cores that so many threads get beside so many busy processes, where all are treated alike."""
    return min(threads, available * threads / (threads + busy), available)


class Measurer:
    """A process with one way of waiting, which times cases when it is told to; it ends with this one."""

    def __init__(self, variant: str, cases: Sequence[str], threads: int) -> None:
        plain = {name: value for name, value in os.environ.items() if name not in NAMED_BY_USERS}
        environment = plain | VARIANTS[variant] | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths_of_the_suite()}
        words = [sys.executable, "-m", "suite.shared", str(threads), *cases]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )

    def seconds(self, case: str) -> float:
        """Of one call. Raises InputError where the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # the empty answer says it
            print(case, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise InputError(f"The measurement of {case} ended early; its errors stand above. Measure again.")
        return json.loads(answer)

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many busy processes inside the block, and none afterwards, however it ends."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            started.append(subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True))
        if started:
            time.sleep(0.5)  # until they are at it
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


@dataclass
class Shared:
    """Seconds by case, busy processes and variant, in the order of the repetitions."""

    threads: int
    available: int
    taken: dict[tuple[str, int, str], list[float]]

    def rows(self) -> list[dict[str, Any]]:
        """Medians with spread; `quiet` is the time over that of libgomp's own waiting on the quiet machine, `fair` the
        time over what the fair share of the cores allows."""
        rows = []
        for (case, load, variant), taken in self.taken.items():
            quiet = self.taken.get((case, 0, TODAY), [])
            share = fair_share(self.threads, load, self.available)
            whole = fair_share(self.threads, 0, self.available)
            ratios = [mine / alone for mine, alone in zip(taken, quiet, strict=False)]
            rows.append(
                {
                    "case": case,
                    "busy": load,
                    "variant": variant,
                    "seconds": statistics.median(taken),
                    "spread": max(taken) - min(taken),
                    "n": len(taken),
                    "fair_share": share,
                    "quiet": statistics.median(ratios) if ratios else None,
                    "fair": statistics.median(ratios) * share / whole if ratios else None,
                }
            )
        return rows


def measured(cases: Sequence[str], variants: Sequence[str], loads: Sequence[int], n: int, threads: int) -> Shared:
    """`n` repetitions; in each, for every number of busy processes and every case, the variants take turns."""
    found: dict[tuple[str, int, str], list[float]] = {}
    running: dict[str, Measurer] = {}
    try:
        for variant in variants:
            running[variant] = Measurer(variant, cases, threads)
        for variant, case in ((variant, case) for variant in variants for case in cases):
            running[variant].seconds(case)  # kernels, buffers
        with bar("bench shared (calls)", n * len(loads) * len(cases) * len(variants)) as progress:
            for repetition in range(n):
                for load in loads:
                    with busy(load):
                        for case in cases:
                            for variant in _turned(variants, repetition):
                                taken = running[variant].seconds(case)
                                found.setdefault((case, load, variant), []).append(taken)
                                progress.step(note=f"{case} beside {load}, {variant}: {taken:.3g} s")
    finally:
        for each in running.values():
            each.end()
    return Shared(threads, cores(), found)


def _turned(variants: Sequence[str], by: int) -> list[str]:
    """The variants, beginning with another one each time."""
    by %= len(variants)
    return [*variants[by:], *variants[:by]]


class SharedFlags(Record):
    """An outer step (10 and 100 images, 320,010 parameters) and an expert's epoch beside busy processes that this bench
    starts, as ratios to their fair share of the cores, for several ways of waiting."""

    case: Annotated[tuple[str, ...], Word(metavar="CASE", repeated=True)] = ()
    """Measure only this case; may be repeated."""
    spin: Annotated[tuple[str, ...], Word(metavar="SPIN", repeated=True)] = ()
    """Measure only this way of waiting, and libgomp's own; may be repeated. default, passive, or GOMP_SPINCOUNT."""
    busy: Annotated[tuple[int, ...], Word(metavar="COUNT", repeated=True)] = ()
    """Measure only beside so many busy processes, and beside none; may be repeated."""
    n: Annotated[int, Word(flag="-n")] = 5
    """Repetitions."""
    threads: int | None = None
    """Threads of ours; none means one for each core."""
    to: Annotated[Path | None, Word(flag="json", metavar="FILE")] = None
    """Write the figures, with machine and versions, to FILE."""


def shared(words: list[str]) -> None:
    """`make bench NAME=shared`: measure, and show the ratios. Raises InputError for a case that there is not."""
    made = Command("shared", lambda given: _shared(given, words), SharedFlags)
    made.prog = "python -m suite shared"
    with made.make_context("shared", list(words), obj={}) as ctx:
        be_quiet(ctx.params["quiet"])
        made.call(ctx)


def _shared(given: SharedFlags, words: list[str]) -> None:
    usual = [name for name in CASES if name != "tiny"]
    for case in given.case:
        if case not in CASES:
            raise unknown("case", case, usual)
    for spin in given.spin:
        if spin not in VARIANTS and not spin.isdecimal():
            raise unknown("way of waiting", spin, VARIANTS)
        VARIANTS.setdefault(spin, {"GOMP_SPINCOUNT": spin})
    for flag, number in (("-n", given.n), ("--threads", given.threads), ("--busy", min(given.busy, default=0) + 1)):
        if number is not None and number < 1:
            raise InputError(f"{flag} has a value that is too small; choose 1 or more, and for --busy 0 or more.")
    variants = list(dict.fromkeys((TODAY, *(given.spin or VARIANTS))))
    loads = sorted({0, *(given.busy or LOADS)})
    found = measured(given.case or usual, variants, loads, given.n, given.threads or cores())
    rows = found.rows()
    Console().print(_table(rows, found))
    if given.to is not None:
        origin = provenance() | {"arguments": without_places(["suite", "shared", *words])}
        write_json(given.to, {"bench": "shared", **origin, "threads": found.threads, "rows": rows})


def _table(rows: list[dict[str, Any]], found: Shared) -> Table:
    shown = Table(
        caption=f"{found.threads} threads on {found.available} cores. Medians of ratios within a repetition. quiet: "
        f"over the time of default alone (goal beside none: {BAR_QUIET}); fair: over what the fair share of the cores "
        f"allows (goal: {BAR_SHARED}).",
        caption_justify="left",
    )
    for column in ("case", "busy", "waiting", "seconds", "spread", "n", "quiet", "fair"):
        shown.add_column(column, no_wrap=True, justify="left" if column in ("case", "waiting") else "right")
    for row in rows:
        ratios = [f"{row[name]:.2f}" for name in ("quiet", "fair")]
        numbers = f"{row['seconds']:.3g}", f"{row['spread']:.2g}", str(row["n"])
        shown.add_row(row["case"], str(row["busy"]), row["variant"], *numbers, *ratios)
    return shown


def _serve(threads: int, cases: Sequence[str]) -> None:
    """Time a case whenever its name comes on the standard input, until that ends."""
    torch.set_num_threads(threads)
    made = {case: CASES[case]() for case in cases}

    def answer(case: str) -> float:
        began = time.perf_counter()
        made[case]()
        return time.perf_counter() - began

    ask_until_parent_ends(lambda line: print(json.dumps(answer(line)), flush=True))


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2:])
