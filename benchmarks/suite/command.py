"""The benches by name, and one of them from words to a table and a JSON file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from click.exceptions import Exit
from rich.console import Console
from rich.table import Table

from astdistill.cli.commands import Command
from astdistill.cli.flags import Word
from astdistill.cli.main import Terminated, terminable
from astdistill.runtime.config import Record
from astdistill.runtime.errors import InputError, unknown
from astdistill.runtime.files import write_json
from astdistill.runtime.machine import cores
from astdistill.runtime.progress import be_quiet
from astdistill.runtime.provenance import provenance, without_places

from . import augment, bptt, cluster, estimate, evaluate, experts, shared, store, unroll
from .harness import in_own_process, run_bench
from .rows import rows_of, table
from .task import Bench, Request, Settings, measure, measured_rates

BENCHES: dict[str, Bench] = {each.BENCH.name: each.BENCH for each in (unroll, bptt, experts, augment, store, evaluate)}


def answer(request: Request) -> dict[str, Any]:
    """The figures of one request, measured in this process."""
    if request.what == "rates":
        return measured_rates().to_json()
    bench = BENCHES[request.bench]
    if request.what == "cosine" and bench.cosine is not None:
        return bench.cosine(request.case, request.variants)
    (variant,) = request.variants
    return measure(bench.task(request.case, variant, request.settings))


class BenchFlags(Record):
    """Speed and memory against the published way of doing the same work, and against the limit of this machine. Every
    repetition of every variant runs in a process of its own, in turn. Without NAME they are listed with their cases."""

    name: Annotated[str | None, Word(positional=True)] = None
    """What is measured."""
    case: Annotated[tuple[str, ...], Word(metavar="CASE", repeated=True)] = ()
    """Measure only this case; may be repeated."""
    variant: Annotated[tuple[str, ...], Word(metavar="VARIANT", repeated=True)] = ()
    """Measure only this variant; may be repeated."""
    n: Annotated[int, Word(flag="-n")] = 5
    """Repetitions."""
    to: Annotated[Path | None, Word(flag="json", metavar="FILE")] = None
    """Write the figures, with machine, versions and commit, to FILE."""
    threads: int | None = None
    """Cores to use; none means all."""
    epochs: int | None = None
    """Training epochs of evaluate; none means 300."""
    cosine: bool = True
    """Compare unroll's gradients with float64."""


def bench(words: list[str]) -> None:
    """Measure one bench and show it; without a name, show which there are."""
    if words[:1] == ["estimate"]:  # compares the package with itself, so that there are no variants
        estimate.estimate(words[1:])
        return
    if words[:1] == ["shared"]:  # variants of the environment, which a process of its own is started for once
        shared.shared(words[1:])
        return
    if words[:1] == ["cluster"]:  # starts one, for which Ray must be there
        cluster.cluster(words[1:])
        return
    made = Command("bench", lambda given: _bench(given, words), BenchFlags)
    made.prog = "python -m suite"
    with made.make_context("bench", list(words), obj={}) as ctx:
        be_quiet(ctx.params["quiet"])
        made.call(ctx)


def _bench(given: BenchFlags, words: list[str]) -> None:
    if given.name is None:
        Console().print(_overview())
        return
    if given.name not in BENCHES:
        raise unknown("bench", given.name, BENCHES)
    chosen = BENCHES[given.name]
    cases = _known("case", given.case, chosen.cases, (*chosen.cases, *chosen.others), chosen.hidden)
    variants = _known("variant", given.variant, chosen.variants, chosen.variants)
    settings = _settings(given)
    measured = run_bench(chosen, cases, variants, given.n, settings, given.cosine, in_own_process)
    rows = rows_of(chosen, measured, settings)
    Console().print(table(chosen, rows, measured))
    if given.to is not None:
        origin = provenance()
        machine = origin.pop("machine") | {"threads": settings.threads}
        origin["arguments"] = without_places(["suite", *words])
        head = {"bench": chosen.name, "machine": machine, "provenance": origin, "limits": measured.rates.to_json()}
        write_json(given.to, head | {"rows": rows})


def main(words: list[str]) -> int:
    """`bench`, with what is asked for wrongly as one sentence; the exit code. A signal that ends it ends what it has
    started, too."""
    try:
        with terminable():
            bench(words)
    except Exit as done:  # after --help
        return done.exit_code
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except Terminated:
        return 143
    except KeyboardInterrupt:
        return 130
    return 0


def _known(
    kind: str, given: Sequence[str], usual: tuple[str, ...], allowed: tuple[str, ...], hidden: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """What was asked for, each once, or the usual. Raises InputError for a name that does not exist."""
    for name in given:
        if name not in (*allowed, *hidden):
            raise unknown(kind, name, allowed)
    return tuple(dict.fromkeys(given or usual))


def _settings(given: BenchFlags) -> Settings:
    for flag, number in (("-n", given.n), ("--threads", given.threads), ("--epochs", given.epochs)):
        if number is not None and number < 1:
            raise InputError(f"{flag} {number} was given; choose 1 or more.")
    if given.threads is not None and given.threads > cores():
        raise InputError(
            f"--threads {given.threads} was given, but this process may use {cores()} cores; choose {cores()} or less."
        )
    if given.epochs is not None and given.name != "evaluate":
        raise InputError(
            f"--epochs {given.epochs} was given, but {given.name} has no epochs to choose; leave it out, or: make "
            f"bench NAME=evaluate"
        )
    return Settings(threads=given.threads or cores(), epochs=given.epochs)


def _overview() -> Table:
    shown = Table(
        caption="One of them: make bench NAME=… Cases in brackets run when --case names them. The estimates of a run "
        "beside what it takes: make bench NAME=estimate. Beside other busy processes: make bench NAME=shared. On a "
        "cluster of Ray: make bench NAME=cluster.",
        caption_justify="left",
    )
    for column in ("bench", "what is measured", "cases", "variants"):
        shown.add_column(column, no_wrap=column == "bench")
    for name, each in BENCHES.items():
        cases = [*each.cases, *(f"({case})" for case in each.others)]
        shown.add_row(name, each.text, " ".join(cases), " ".join(each.variants))
    return shown
