"""The benches by name, and one of them from words to a table and a JSON file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from astdistill.runtime.errors import InputError, unknown
from astdistill.runtime.files import write_json
from astdistill.runtime.parallel import cores
from astdistill.runtime.progress import be_quiet
from astdistill.runtime.provenance import provenance, without_places

from . import augment, evaluate, experts, store, unroll
from .harness import in_own_process, run_bench
from .rows import rows_of, table
from .task import Bench, Request, Settings, measure, measured_rates

BENCHES: dict[str, Bench] = {each.BENCH.name: each.BENCH for each in (unroll, experts, augment, store, evaluate)}


def answer(request: Request) -> dict[str, Any]:
    """The figures of one request, measured in this process."""
    if request.what == "rates":
        return measured_rates().to_json()
    bench = BENCHES[request.bench]
    if request.what == "cosine" and bench.cosine is not None:
        return bench.cosine(request.case, request.variants)
    (variant,) = request.variants
    return measure(bench.task(request.case, variant, request.settings))


def bench(words: list[str]) -> None:
    """Measure one bench and show it; without a name, show which there are."""
    given = _parser().parse_args(words)
    if given.name is None:
        Console().print(_overview())
        return
    if given.name not in BENCHES:
        raise unknown("bench", given.name, BENCHES)
    chosen = BENCHES[given.name]
    cases = _known("case", given.case, chosen.cases, (*chosen.cases, *chosen.others), chosen.hidden)
    variants = _known("variant", given.variant, chosen.variants, chosen.variants)
    settings = _settings(given)
    be_quiet(given.quiet)
    measured = run_bench(chosen, cases, variants, given.n, settings, not given.no_cosine, in_own_process)
    rows = rows_of(chosen, measured, settings)
    Console().print(table(chosen, rows, measured))
    if given.json is not None:
        origin = provenance()
        machine = origin.pop("machine") | {"threads": settings.threads}
        origin["arguments"] = without_places(["suite", *words])
        head = {"bench": chosen.name, "machine": machine, "provenance": origin, "limits": measured.rates.to_json()}
        write_json(given.json, head | {"rows": rows})


def main(words: list[str]) -> int:
    """`bench`, with what is asked for wrongly as one sentence; the exit code."""
    try:
        bench(words)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m suite",
        description="Speed and memory against the published way of doing the same work, and against the limit of this "
        "machine.",
        epilog="Every repetition of every variant runs in a process of its own, in turn. Without NAME they are listed "
        "with their cases.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--case", action="append", metavar="CASE", help="measure only this case; may be repeated")
    parser.add_argument(
        "--variant", action="append", metavar="VARIANT", help="measure only this variant; may be repeated"
    )
    parser.add_argument("-n", type=int, default=5, help="repetitions (default 5)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures, with machine, versions and commit, to FILE"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="cores to use (default: all)")
    parser.add_argument("--epochs", type=int, metavar="N", help="training epochs of evaluate (default 300)")
    parser.add_argument(
        "--no-cosine", action="store_true", help="leave out the comparison of unroll's gradients with float64"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def _known(
    kind: str, given: list[str] | None, usual: tuple[str, ...], allowed: tuple[str, ...], hidden: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """What was asked for, each once, or the usual. Raises InputError for a name that does not exist."""
    for name in given or ():
        if name not in (*allowed, *hidden):
            raise unknown(kind, name, allowed)
    return tuple(dict.fromkeys(given or usual))


def _settings(given: argparse.Namespace) -> Settings:
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
        caption="One of them: make bench NAME=… Cases in brackets run when --case names them.", caption_justify="left"
    )
    for column in ("bench", "what is measured", "cases", "variants"):
        shown.add_column(column, no_wrap=column == "bench")
    for name, each in BENCHES.items():
        cases = [*each.cases, *(f"({case})" for case in each.others)]
        shown.add_row(name, each.text, " ".join(cases), " ".join(each.variants))
    return shown
