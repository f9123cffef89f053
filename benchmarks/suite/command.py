"""The benches by name, and the command that runs one of them and writes a table and a JSON file."""

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


def bench(arguments: list[str]) -> None:
    """Measure one bench and print it; without a name, list all benches."""
    if arguments[:1] == ["estimate"]:  # compares the package with itself, so that there are no variants
        estimate.estimate(arguments[1:])
        return
    if arguments[:1] == ["shared"]:  # its variants are environments, with one process each
        shared.shared(arguments[1:])
        return
    if arguments[:1] == ["cluster"]:  # starts a cluster, which needs Ray
        cluster.cluster(arguments[1:])
        return
    command = Command("bench", lambda flags: _bench(flags, arguments), BenchFlags)
    command.prog = "python -m suite"
    with command.make_context("bench", list(arguments), obj={}) as ctx:
        be_quiet(ctx.params["quiet"])
        command.call(ctx)


def _bench(flags: BenchFlags, arguments: list[str]) -> None:
    if flags.name is None:
        Console().print(_overview())
        return
    if flags.name not in BENCHES:
        raise unknown("bench", flags.name, BENCHES)
    chosen = BENCHES[flags.name]
    cases = _requested("case", flags.case, chosen.cases, (*chosen.cases, *chosen.others), chosen.hidden)
    variants = _requested("variant", flags.variant, chosen.variants, chosen.variants)
    settings = _settings(flags)
    measured = run_bench(chosen, cases, variants, flags.n, settings, flags.cosine, in_own_process)
    rows = rows_of(chosen, measured, settings)
    Console().print(table(chosen, rows, measured))
    if flags.to is not None:
        origin = provenance()
        machine = origin.pop("machine") | {"threads": settings.threads}
        origin["arguments"] = without_places(["suite", *arguments])
        head = {"bench": chosen.name, "machine": machine, "provenance": origin, "limits": measured.rates.to_json()}
        write_json(flags.to, head | {"rows": rows})


def main(arguments: list[str]) -> int:
    """Run `bench` and print a wrong request as one sentence; returns the exit code. A signal that ends it also ends the
    processes that it has started."""
    try:
        with terminable():
            bench(arguments)
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


def _requested(
    kind: str, names: Sequence[str], usual: tuple[str, ...], allowed: tuple[str, ...], hidden: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """The requested names, each once, or the usual ones. Raises InputError for a name that does not exist."""
    for name in names:
        if name not in (*allowed, *hidden):
            raise unknown(kind, name, allowed)
    return tuple(dict.fromkeys(names or usual))


def _settings(flags: BenchFlags) -> Settings:
    for flag, number in (("-n", flags.n), ("--threads", flags.threads), ("--epochs", flags.epochs)):
        if number is not None and number < 1:
            raise InputError(f"{flag} {number} was given; choose 1 or more.")
    if flags.threads is not None and flags.threads > cores():
        raise InputError(
            f"--threads {flags.threads} was given, but this process may use {cores()} cores; choose {cores()} or less."
        )
    if flags.epochs is not None and flags.name != "evaluate":
        raise InputError(
            f"--epochs {flags.epochs} was given, but {flags.name} has no epochs to choose; leave it out, or: make "
            f"bench NAME=evaluate"
        )
    return Settings(threads=flags.threads or cores(), epochs=flags.epochs)


def _overview() -> Table:
    overview = Table(
        caption="One of them: make bench NAME=… Cases in brackets run when --case names them. The estimates of a run "
        "beside what it takes: make bench NAME=estimate. Beside other busy processes: make bench NAME=shared. On a "
        "cluster of Ray: make bench NAME=cluster.",
        caption_justify="left",
    )
    for column in ("bench", "what is measured", "cases", "variants"):
        overview.add_column(column, no_wrap=column == "bench")
    for name, each in BENCHES.items():
        cases = [*each.cases, *(f"({case})" for case in each.others)]
        overview.add_row(name, each.text, " ".join(cases), " ".join(each.variants))
    return overview
