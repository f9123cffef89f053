"""Benchmark next to busy processes: the time of an outer step and of an expert's epoch, relative to their fair share of
the cores, with the number of threads that a run chooses and with given numbers, for one or several ways in which
waiting threads spin."""

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
from astdistill.runtime.machine import NAMED_BY_USERS, SPINS, Neighbours, Started, Threads, cores
from astdistill.runtime.parallel import NUMBERS, default_threads
from astdistill.runtime.progress import bar, be_quiet
from astdistill.runtime.provenance import provenance, without_places

from . import experts, unroll
from .children import ask_until_parent_ends, paths_of_the_suite
from .convnet_work import Net
from .task import TINY

VARIANTS: dict[str, dict[str, str]] = {
    "default": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
    **{str(spins): {"GOMP_SPINCOUNT": str(spins)} for spins in sorted({300, 1000, 3000, 10_000, 30_000, SPINS})},
}
"""Environments of the processes that are measured, by name."""
BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    sum(range(100_000))"
"""A process that uses a core until the process that started it, whose id is its argument, has ended. It must not ask
for the parent's id itself: if the parent ends first, the answer is another process, which may never end."""
LOADS = 0, 1, 2, 4
BAR_SHARED, BAR_QUIET = 1.3, 1.03
"""The largest accepted ratios: to the fair share and, for the chosen number of threads, to the time on a quiet machine
with one thread per core."""


def outer_step(case: unroll.Case) -> Callable[[], object]:
    """The exact meta-gradient of a few inner steps."""
    problem = unroll.problem(case)
    return lambda: unroll.taken(problem, case.net, "recompute")


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
"""The timed work: outer steps of 10 images (4 inner steps) and 100 images (2), and an epoch of 512 images, all of a
network of 320,010 parameters."""


def fair_share(threads: int, busy: int, available: int) -> float:
    """Cores that `threads` threads get next to `busy` busy processes, if all are scheduled alike."""
    return min(threads, available * threads / (threads + busy), available)


class Measurer:
    """A process with one way of waiting that times cases on request; it ends with this process."""

    def __init__(self, variant: str, cases: Sequence[str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in (*NAMED_BY_USERS, *NUMBERS)}
        environment = inherited | VARIANTS[variant] | {"PYTHONPATH": paths_of_the_suite()}
        command = [sys.executable, "-m", "suite.shared", *cases]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )

    def taken(self, case: str, threads: int) -> tuple[float, int]:
        """Seconds of one call with `threads` threads (0: as many as a run chooses now), and the number of threads.
        Raises InputError where the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # detected by the empty answer
            print(json.dumps([case, threads]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise InputError(f"The measurement of {case} ended early; its errors stand above. Measure again.")
        seconds, number = json.loads(answer)
        return seconds, number

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run `count` busy processes inside the block and end them after it, also after an exception."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            started.append(subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid())], start_new_session=True))
        if started:
            time.sleep(0.5)  # until they are running
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


CHOSEN = 0
"""Stands for the number of threads that a run chooses when none is given."""
Key = tuple[str, int, str, int]
"""Case, busy processes, way of waiting, threads."""


@dataclass
class Shared:
    """Seconds and threads of each call, by `Key`, in the order of the repetitions."""

    available: int
    taken: dict[Key, list[tuple[float, int]]]

    def rows(self) -> list[dict[str, Any]]:
        """Medians of the seconds with their spread, and of three ratios within a repetition. `fair`: the time over that
        of the fair share of the cores, at the speed of as many threads on the quiet machine. `quiet`: over the time of
        one thread per core on the quiet machine. `all`: over the time of one thread per core next to the same
        processes."""
        rows = []
        for (case, load, variant, threads), taken in self.taken.items():
            alone = self.taken.get((case, 0, variant, self.available), [])
            loaded = self.taken.get((case, load, variant, self.available), [])
            rows.append(
                {
                    "case": case,
                    "busy": load,
                    "variant": variant,
                    "threads": {CHOSEN: "chosen"}.get(threads, threads),
                    "took": sorted({number for _, number in taken}),
                    "seconds": statistics.median(seconds for seconds, _ in taken),
                    "spread": max(taken)[0] - min(taken)[0],
                    "n": len(taken),
                    "fair": _median(
                        [self._fair(key=(case, load, variant, threads), number=i) for i in range(len(taken))]
                    ),
                    "quiet": _median(_time_ratios(taken, alone)),
                    "all": _median(_time_ratios(taken, loaded)),
                }
            )
        return rows

    def _fair(self, key: Key, number: int) -> float | None:
        case, load, variant, _ = key
        seconds, threads = self.taken[key][number]
        alone = self.taken.get((case, 0, variant, threads), [])
        if number >= len(alone):
            return None
        slower = fair_share(threads, 0, self.available) / fair_share(threads, load, self.available)
        return seconds / (alone[number][0] * slower)


def _time_ratios(times: Sequence[tuple[float, int]], others: Sequence[tuple[float, int]]) -> list[float | None]:
    return [seconds / other for (seconds, _), (other, _) in zip(times, others, strict=False)]


def _median(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


def measured(
    cases: Sequence[str], variants: Sequence[str], loads: Sequence[int], n: int, threads: Sequence[int]
) -> Shared:
    """Measure `n` repetitions; in each, for every number of busy processes and every case, the ways of waiting and the
    numbers of threads take turns. At the end of each, chosen numbers of threads are also measured without busy
    processes."""
    found: dict[Key, list[tuple[float, int]]] = {}
    running: dict[str, Measurer] = {}
    ways = [(variant, number) for variant in variants for number in threads]

    def take(case: str, load: int, variant: str, number: int) -> None:
        taken = running[variant].taken(case, number)
        found.setdefault((case, load, variant, number), []).append(taken)
        progress.step(note=f"{case} beside {load}, {variant}, {taken[1]} threads: {taken[0]:.3g} s")

    try:
        for variant in variants:
            running[variant] = Measurer(variant, cases)
        for variant, case in ((variant, case) for variant in variants for case in cases):
            running[variant].taken(case, cores())  # kernels, buffers
        with bar("bench shared (calls)", n * len(loads) * len(cases) * len(ways)) as progress:
            for repetition in range(n):
                for load in loads:
                    with busy(load):
                        for case in cases:
                            for variant, number in _rotated(ways, repetition):
                                take(case, load, variant, number)
                for case, variant, number in _unmeasured(found, repetition):
                    take(case, 0, variant, number)
    finally:
        for each in running.values():
            each.end()
    return Shared(cores(), found)


def _unmeasured(found: dict[Key, list[tuple[float, int]]], repetition: int) -> list[tuple[str, str, int]]:
    """Cases, ways of waiting and chosen numbers of threads not yet measured without busy processes in this
    repetition."""
    chosen = {
        (case, variant, number)
        for (case, _, variant, _), taken in found.items()
        for _, number in taken
    }  # fmt: skip
    return sorted(
        each for each in chosen if len(found.get((each[0], 0, each[1], each[2]), [])) <= repetition
    )  # fmt: skip


def _rotated(ways: Sequence[tuple[str, int]], by: int) -> list[tuple[str, int]]:
    """The ways, rotated by `by` positions."""
    by %= len(ways)
    return [*ways[by:], *ways[:by]]


class SharedFlags(Record):
    """An outer step (10 and 100 images, 320,010 parameters) and an expert's epoch beside busy processes that this bench
    starts, as ratios to their fair share of the cores: with the threads that a run takes when nobody names their
    number, with one for each core, and with one."""

    case: Annotated[tuple[str, ...], Word(metavar="CASE", repeated=True)] = ()
    """Measure only this case; may be repeated."""
    spin: Annotated[tuple[str, ...], Word(metavar="SPIN", repeated=True)] = (str(SPINS),)
    """Measure this way of waiting; may be repeated. default (libgomp's own), passive, or GOMP_SPINCOUNT."""
    busy: Annotated[tuple[int, ...], Word(metavar="COUNT", repeated=True)] = ()
    """Measure only beside so many busy processes, and beside none; may be repeated."""
    n: Annotated[int, Word(flag="-n")] = 5
    """Repetitions."""
    threads: Annotated[tuple[int, ...], Word(metavar="COUNT", repeated=True)] = ()
    """Measure only so many threads; may be repeated. 0 means as many as a run takes."""
    to: Annotated[Path | None, Word(flag="json", metavar="FILE")] = None
    """Write the figures, with machine and versions, to FILE."""


def shared(arguments: list[str]) -> None:
    """`make bench NAME=shared`: measure, and show the ratios. Raises InputError for an unknown case."""
    command = Command("shared", lambda flags: _shared(flags, arguments), SharedFlags)
    command.prog = "python -m suite shared"
    with command.make_context("shared", list(arguments), obj={}) as ctx:
        be_quiet(ctx.params["quiet"])
        command.call(ctx)


def _shared(flags: SharedFlags, arguments: list[str]) -> None:
    usual = [name for name in CASES if name != "tiny"]
    for case in flags.case:
        if case not in CASES:
            raise unknown("case", case, usual)
    for spin in flags.spin:
        if spin not in VARIANTS and not spin.isdecimal():
            raise unknown("way of waiting", spin, VARIANTS)
        VARIANTS.setdefault(spin, {"GOMP_SPINCOUNT": spin})
    lowest = {"--threads": min(flags.threads, default=0) + 1, "--busy": min(flags.busy, default=0) + 1}
    for flag, number in {"-n": flags.n, **lowest}.items():
        if number < 1:
            raise InputError(
                f"{flag} has a value that is too small; choose 1 or more, for --busy and --threads 0 or more."
            )
    loads = sorted({0, *(flags.busy or LOADS)})
    threads = list(dict.fromkeys(flags.threads or (CHOSEN, cores(), 1)))
    found = measured(flags.case or usual, list(dict.fromkeys(flags.spin)), loads, flags.n, threads)
    rows = found.rows()
    Console().print(_table(rows, found))
    if flags.to is not None:
        origin = provenance() | {"arguments": without_places(["suite", "shared", *arguments])}
        write_json(flags.to, {"bench": "shared", **origin, "cores": found.available, "rows": rows})


def _table(rows: list[dict[str, Any]], found: Shared) -> Table:
    table = Table(
        caption=f"{found.available} cores. Medians of ratios within a repetition. fair: over what the fair share of "
        f"the cores of so many threads allows (goal: {BAR_SHARED}); quiet: over the time of {found.available} threads "
        f"alone (goal for the chosen ones beside none: {BAR_QUIET}); all: over the time of {found.available} threads "
        "beside the same processes.",
        caption_justify="left",
    )
    for column in ("case", "busy", "waiting", "threads", "seconds", "spread", "n", "fair", "quiet", "all"):
        table.add_column(column, no_wrap=True, justify="left" if column in ("case", "waiting") else "right")
    for row in rows:
        took = ", ".join(map(str, row["took"]))
        threads = {"chosen": f"chosen: {took}"}.get(row["threads"], took)
        numbers = f"{row['seconds']:.3g}", f"{row['spread']:.2g}", str(row["n"])
        table.add_row(row["case"], str(row["busy"]), row["variant"], threads, *numbers, *_ratio_texts(row))
    return table


def _ratio_texts(row: dict[str, Any]) -> list[str]:
    """As text; '-' for what was not measured."""
    return ["-" if row[name] is None else f"{row[name]:.2f}" for name in ("fair", "quiet", "all")]


def chosen_now() -> Threads:
    """The threads that a run starting now would choose."""
    Started.neighbours = Neighbours()
    return default_threads(cores())


def _serve(cases: Sequence[str]) -> None:
    """Time each case that the standard input names with a number of threads, until the input ends."""
    calls = {case: CASES[case]() for case in cases}

    def answer(line: str) -> tuple[float, int]:
        case, number = json.loads(line)
        threads = number or chosen_now().step
        torch.set_num_threads(threads)
        began = time.perf_counter()
        calls[case]()
        return time.perf_counter() - began, threads

    ask_until_parent_ends(lambda line: print(json.dumps(answer(line)), flush=True))


if __name__ == "__main__":
    _serve(sys.argv[1:])
